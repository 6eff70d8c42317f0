"""`adapterkit bench ...`: results on standard output, progress on standard error."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ..atomic import check_output
from ..backbone.load_options import LoadOptions, Quantization
from ..errors import AdapterkitError
from .group import CommandGroup
from .options import DeviceOption, DtypeOption, JsonOption, QuantizationOption, json_text

# As in the other commands, modules that need torch are imported inside them.

app = typer.Typer(
    cls=CommandGroup,
    name="bench",
    help="Measure adapterkit against its floor and its peers: ratios of medians, in turns.",
    rich_markup_mode=None,
)

BenchBackboneOption = Annotated[
    str,
    typer.Option(
        "--backbone",
        help="minilm, a folder or a hub name; or random weights: base (BERT-base's shape), "
        "random:TYPE (that of a model type, or of a folder with a config.json).",
    ),
]
RoundsOption = Annotated[int, typer.Option("--rounds", help="Number of rounds that count.")]
PeersOption = Annotated[bool, typer.Option("--peers/--no-peers", help="Also measure the peers.")]
GuestOption = Annotated[
    list[str] | None,
    typer.Option(
        "--guest",
        metavar="COMMAND",
        help="Command of a system in another environment to measure too (see recipes/bench).",
    ),
]


@app.callback(invoke_without_command=True)
def main(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def mixed(
    backbone: BenchBackboneOption = "minilm",
    rows: Annotated[
        Literal["short", "long"], typer.Option("--rows", help="64 short rows, or 32 long ones.")
    ] = "short",
    count: Annotated[
        int | None, typer.Option("--count", help="Number of rows, if another.")
    ] = None,
    length: Annotated[
        int | None, typer.Option("--length", help="Tokens of every row, if another.")
    ] = None,
    dtype: DtypeOption = "float32",
    quantization: QuantizationOption = "none",
    device: DeviceOption = "auto",
    tenants: Annotated[str, typer.Option("--tenants", help="Numbers of tenants.")] = "1,16,64",
    rounds: RoundsOption = 7,
    peers: PeersOption = True,
    guests: GuestOption = None,
    clock: Annotated[
        Literal["wall", "cpu"],
        typer.Option("--clock", help="Time by the clock, or of the processors for this process."),
    ] = "wall",
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE.png", help="Also draw a bar chart.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Answer one batch of many tenants, against bounds, base, transformers and PEFT."""
    from ..bench.mixed import MixedBench
    from ..bench.table import draw_bars

    bench = MixedBench(
        backbone,
        rows,
        count,
        length,
        LoadOptions(dtype, quantization, device),
        _whole_numbers("tenants", tenants),
        rounds,
        peers,
        tuple(guests or ()),
        clock,
    )
    if plot is not None:
        check_output(plot, (".png",), "--plot")
    result = bench.run()
    if plot is not None:
        draw_bars(result, plot)
    _print_result(result, as_json)


@app.command()
def train(
    backbone: BenchBackboneOption = "minilm",
    method: Annotated[
        str | None,
        typer.Option("--method", help="A method by name, or all; the first method if omitted."),
    ] = None,
    dtype: Annotated[
        Literal["float32", "bfloat16"], typer.Option("--dtype", help="Dtype of the products.")
    ] = "float32",
    steps: Annotated[
        int, typer.Option("--steps", help="Steps of a run; the first quarter does not count.")
    ] = 40,
    rounds: RoundsOption = 3,
    peers: PeersOption = True,
    guests: GuestOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train on short rows of 77 labels: rows a second and peak memory, against PEFT and the floor.

    Every run is a process of its own, on the CPU.
    """
    from ..bench.training import TrainBench
    from ..methods.base import default_method

    bench = TrainBench(
        backbone, method or default_method(), dtype, steps, rounds, peers, tuple(guests or ())
    )
    _print_result(bench.run(), as_json)


@app.command()
def many(
    backbone: BenchBackboneOption = "minilm",
    method: Annotated[
        str | None,
        typer.Option("--method", help="A method by name; the first method if omitted."),
    ] = None,
    dtype: Annotated[
        Literal["float32", "bfloat16"], typer.Option("--dtype", help="Dtype of the frozen weights.")
    ] = "float32",
    tenants: Annotated[int, typer.Option("--tenants", help="Number of tenants.")] = 32,
    batch: Annotated[int, typer.Option("--batch", help="Rows of each tenant in a step.")] = 32,
    epochs: Annotated[int, typer.Option("--epochs", help="Passes over each tenant's rows.")] = 3,
    rounds: RoundsOption = 1,
    commands: Annotated[
        bool, typer.Option("--commands/--no-commands", help="Also measure whole commands.")
    ] = True,
    as_json: JsonOption = False,
) -> None:
    """Train many tenants of 100 to 300 rows side by side, in turn, and as one command each.

    On the CPU.
    """
    from ..bench.many import ManyBench
    from ..methods.base import default_method

    bench = ManyBench(
        backbone, method or default_method(), dtype, tenants, batch, epochs, rounds, commands
    )
    _print_result(bench.run(), as_json)


@app.command()
def fanout(
    backbone: BenchBackboneOption = "minilm",
    dtype: DtypeOption = "float32",
    adapters: Annotated[
        int, typer.Option("--adapters", help="Adapters that answer every text.")
    ] = 16,
    texts: Annotated[int, typer.Option("--texts", help="Number of texts, at most 64.")] = 16,
    epochs: Annotated[int, typer.Option("--epochs", help="Epochs of training.")] = 6,
    rounds: RoundsOption = 5,
    as_json: JsonOption = False,
) -> None:
    """Answer by many adapters of the upper layers; train one with a cache of the lower layers.

    On the CPU.
    """
    from ..bench.fanout import FanOutBench

    _print_result(FanOutBench(backbone, dtype, adapters, texts, epochs, rounds).run(), as_json)


@app.command()
def swap(
    backbone: BenchBackboneOption = "minilm",
    resident: Annotated[
        str, typer.Option("--resident", help="Numbers of adapters in memory.")
    ] = "1,100,1000,10000",
    rounds: RoundsOption = 20,
    peers: PeersOption = True,
    as_json: JsonOption = False,
) -> None:
    """Load, ask, unload and save adapters with ever more of them in memory; measure their memory.

    10,000 adapters take 3 GB on minilm.
    """
    from ..bench.swap import SwapBench

    _print_result(
        SwapBench(backbone, _whole_numbers("resident", resident), rounds, peers).run(), as_json
    )


@app.command()
def start(
    backbone: BenchBackboneOption = "minilm",
    rounds: RoundsOption = 5,
    peers: PeersOption = True,
    as_json: JsonOption = False,
) -> None:
    """Start processes: import adapterkit, --help, a first answer, and import peft."""
    from ..bench.start import StartBench

    _print_result(StartBench(backbone, rounds, peers).run(), as_json)


@app.command()
def tenants(
    scenarios: Annotated[
        str,
        typer.Option(
            "--scenarios", help="exact, evict, rate, swap, flood, overload, drain, or all of them."
        ),
    ] = "all",
    adapters: Annotated[int, typer.Option("--adapters", help="Adapters in the store.")] = 300,
    registered: Annotated[
        int, typer.Option("--registered", help="Adapters in the store of the scenario evict.")
    ] = 10_000,
    seconds: Annotated[float, typer.Option("--seconds", help="Duration of each load.")] = 60.0,
    as_json: JsonOption = False,
) -> None:
    """Load a server with many tenants: right answers, flat memory, fair shares, overload, drain.

    Server and clients share this machine; the store contains random adapters.
    """
    from ..bench.scenarios import SCENARIOS
    from ..bench.tenants import TenantsBench

    chosen = SCENARIOS if scenarios == "all" else tuple(scenarios.split(","))
    bench = TenantsBench(chosen, adapters, registered, seconds=seconds)
    _print_result(bench.run(), as_json)


@app.command()
def routing(
    adapters: Annotated[int, typer.Option("--adapters", help="Number of adapters.")] = 1_000_000,
    replicas: Annotated[int, typer.Option("--replicas", help="Number of servers.")] = 16,
    resident: Annotated[
        int, typer.Option("--resident", help="Adapters in the memory of each server.")
    ] = 200,
    requests: Annotated[int, typer.Option("--requests", help="Number of requests.")] = 400_000,
    exponent: Annotated[
        float, typer.Option("--exponent", help="Of Zipf's law for the popularity of adapters.")
    ] = 1.0,
    as_json: JsonOption = False,
) -> None:
    """Simulate rules by which a proxy chooses one of many servers: hits in memory, and balance."""
    from ..bench.routing import RoutingBench

    bench = RoutingBench(
        adapters,
        replicas=replicas,
        resident=resident,
        requests=requests,
        exponent=exponent,
    )
    _print_result(bench.run(), as_json)


@app.command()
def serve(
    url: Annotated[
        str, typer.Option("--url", envvar="ADAPTERKIT_URL", help="URL of the server.")
    ] = "http://127.0.0.1:8080",
    key: Annotated[
        str | None,
        typer.Option("--key", envvar="ADAPTERKIT_KEY", help="API key, if the server has keys."),
    ] = None,
    clients: Annotated[
        str, typer.Option("--clients", help="Closed loop: numbers of clients.")
    ] = "8",
    rate: Annotated[
        str | None,
        typer.Option("--rate", help="Open loop instead: numbers of requests a second."),
    ] = None,
    connections: Annotated[
        int, typer.Option("--connections", help="Open loop: most requests under way at once.")
    ] = 256,
    adapters: Annotated[
        str, typer.Option("--adapters", metavar="PATTERN", help="Adapters to ask.")
    ] = "*",
    skew: Annotated[
        float,
        typer.Option("--skew", help="Exponent of Zipf's law over adapters; 0 is uniform."),
    ] = 1.0,
    rows: Annotated[int, typer.Option("--rows", help="Rows of a request.")] = 1,
    texts: Annotated[
        Path | None,
        typer.Option("--texts", metavar="FILE", help="File of texts; generated texts if omitted."),
    ] = None,
    column: Annotated[str, typer.Option("--column", help="Column of texts in the file.")] = "text",
    lengths: Annotated[
        Literal["short", "long"], typer.Option("--lengths", help="Length of generated texts.")
    ] = "short",
    duration: Annotated[float, typer.Option("--duration", help="Seconds that count.")] = 10.0,
    warmup: Annotated[float, typer.Option("--warmup", help="Seconds before them.")] = 2.0,
    timeout: Annotated[
        float, typer.Option("--timeout", help="Seconds to wait for a reply.")
    ] = 30.0,
    seed: Annotated[int, typer.Option("--seed", help="Seed of adapters, texts and times.")] = 0,
    engine: Annotated[
        str | None,
        typer.Option(
            "--engine",
            metavar="STORE",
            help="Also measure the engine alone, in this process, on the same rows; give the store "
            "that the server serves. The ratio is meaningful on an idle machine only.",
        ),
    ] = None,
    quantization: Annotated[
        Quantization,
        typer.Option("--quantization", help="The server's quantization, for --engine."),
    ] = "none",
    as_json: JsonOption = False,
) -> None:
    """Put a running server under load: throughput, response times, errors.

    \b
    adapterkit bench serve --clients 1,8,32
    adapterkit bench serve --rate 50,100 --skew 1.2 --adapters 'acme/*'

    A client sends its next request as soon as it has its reply (closed loop). With --rate, requests
    are due at random times (Poisson), whether or not others were answered (open loop), and the time
    of a request counts from when it was due, not from when it could be sent.
    """
    from ..bench.serve import ServeBench

    bench = ServeBench(
        url,
        key,
        clients=_whole_numbers("clients", clients),
        rates=_whole_numbers("rate", rate) if rate else (),
        connections=connections,
        adapters=adapters,
        skew=skew,
        rows=rows,
        texts=texts,
        column=column,
        lengths=lengths,
        duration=duration,
        warmup=warmup,
        timeout=timeout,
        seed=seed,
        engine=engine,
        quantization=quantization,
    )
    _print_result(bench.run(), as_json)


def _whole_numbers(option: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError:
        raise AdapterkitError(
            f"--{option} {text}: expected whole numbers separated by commas, such as 1,16,64"
        ) from None


def _print_result(result: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json_text(result))
        return
    from ..bench.table import result_text

    typer.echo(result_text(result))
