"""`adapterkit bench ...`: results on standard output, progress on standard error."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ..errors import AdapterkitError
from ..geometry import Device, Dtype, Quantization

# As in the other commands, what needs torch is imported inside them.

app = typer.Typer(
    name="bench",
    help="Time adapterkit against its floor and its peers: ratios of medians, side by side.",
    rich_markup_mode=None,
)

BackboneOption = Annotated[
    str,
    typer.Option(
        "--backbone",
        help="minilm, base (BERT-base's shape, random weights), a folder or a hub name.",
    ),
]
RoundsOption = Annotated[int, typer.Option("--rounds", help="Rounds that count.")]
PeersOption = Annotated[bool, typer.Option("--peers/--no-peers", help="Measure the peers too.")]
GuestOption = Annotated[
    list[str] | None,
    typer.Option(
        "--guest",
        metavar="COMMAND",
        help="A system in an environment of its own that takes its turns (see recipes/bench).",
    ),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="One JSON document on standard output, nothing else.")
]


@app.callback(invoke_without_command=True)
def main(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def mixed(
    backbone: BackboneOption = "minilm",
    rows: Annotated[
        Literal["short", "long"], typer.Option("--rows", help="64 short rows, or 32 long ones.")
    ] = "short",
    dtype: Annotated[
        Dtype, typer.Option("--dtype", help="Dtype of the frozen weights.")
    ] = "float32",
    quantization: Annotated[
        Quantization, typer.Option("--quantization", help="Quantise the frozen linears.")
    ] = "none",
    device: Annotated[
        Device, typer.Option("--device", help="auto is the GPU where there is one.")
    ] = "auto",
    tenants: Annotated[str, typer.Option("--tenants", help="Numbers of tenants.")] = "1,16,64",
    rounds: RoundsOption = 7,
    peers: PeersOption = True,
    guests: GuestOption = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE.png", help="Draw bars as well.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Answer one batch of many tenants, against base, floor, transformers and PEFT."""
    from .mixed import MixedBench
    from .table import check_plot, draw

    bench = MixedBench(
        backbone,
        rows,
        dtype,
        quantization,
        device,
        _numbers("tenants", tenants),
        rounds,
        peers,
        tuple(guests or ()),
    )
    if plot is not None:
        check_plot(plot)
    result = bench.run()
    if plot is not None:
        draw(result, plot)
    _print(result, as_json)


@app.command()
def train(
    backbone: BackboneOption = "minilm",
    method: Annotated[
        str, typer.Option("--method", help="A method by name, or all of them.")
    ] = "lora",
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
    from .training import TrainBench

    bench = TrainBench(backbone, method, dtype, steps, rounds, peers, tuple(guests or ()))
    _print(bench.run(), as_json)


@app.command()
def swap(
    backbone: BackboneOption = "minilm",
    resident: Annotated[
        str, typer.Option("--resident", help="Numbers of adapters in memory.")
    ] = "1,100,1000,10000",
    rounds: RoundsOption = 20,
    peers: PeersOption = True,
    as_json: JsonOption = False,
) -> None:
    """Load, ask, unload and save adapters while ever more are resident, and weigh them.

    10,000 adapters take 3 GB on minilm.
    """
    from .swap import SwapBench

    _print(SwapBench(backbone, _numbers("resident", resident), rounds, peers).run(), as_json)


@app.command()
def start(
    backbone: BackboneOption = "minilm",
    rounds: RoundsOption = 5,
    peers: PeersOption = True,
    as_json: JsonOption = False,
) -> None:
    """Start processes: import adapterkit, --help and a first answer, beside import peft."""
    from .start import StartBench

    _print(StartBench(backbone, rounds, peers).run(), as_json)


def _numbers(option: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError:
        raise AdapterkitError(
            f"--{option} {text}: expected whole numbers with commas between, such as 1,16,64"
        ) from None


def _print(result: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(result, ensure_ascii=False, indent=2))
        return
    from .table import show

    typer.echo(show(result))
