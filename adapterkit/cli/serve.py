"""`adapterkit serve`: a store over HTTP."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer

from ..backbone.load_options import LoadOptions
from ..errors import AdapterkitError
from .options import DeviceMapOption, DeviceOption, DtypeOption, QuantizationOption, TrustOption

if TYPE_CHECKING:
    from ..serving.server import Settings

UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9}


def serve(
    store: Annotated[
        str,
        typer.Argument(metavar="STORE", help="Folder of adapters, or an fsspec URL (s3://...)."),
    ] = "adapters",
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="Port; 0 takes a free one.")] = 8080,
    backbone: Annotated[
        list[str] | None,
        typer.Option(
            "--backbone",
            help="minilm (if omitted), a folder or a hub name; repeatable: each adapter runs on "
            "the backbone it was trained on, and the first is `base`.",
        ),
    ] = None,
    dtype: DtypeOption = "float32",
    quantization: QuantizationOption = "none",
    device: DeviceOption = "auto",
    device_map: DeviceMapOption = None,
    keys: Annotated[
        Path | None,
        typer.Option("--keys", help="Key file; required if other machines can reach the server."),
    ] = None,
    ssl_certfile: Annotated[
        Path | None,
        typer.Option("--ssl-certfile", help="TLS certificate chain (PEM); plain HTTP if omitted."),
    ] = None,
    ssl_keyfile: Annotated[
        Path | None,
        typer.Option(
            "--ssl-keyfile",
            help="Private key of the certificate (PEM); if omitted, it is in --ssl-certfile.",
        ),
    ] = None,
    engine: Annotated[
        Literal["ray"] | None,
        typer.Option(
            "--engine",
            help="Serve with several replicas on a Ray cluster (RAY_ADDRESS, else one on this "
            "machine). Needs the extra adapterkit[ray].",
        ),
    ] = None,
    replicas: Annotated[
        str | None,
        typer.Option(
            "--replicas",
            metavar="N|N..M",
            help="Number of replicas, 2 if omitted; a range such as 2..8 follows the load.",
        ),
    ] = None,
    replica_cpus: Annotated[
        int | None,
        typer.Option("--replica-cpus", min=1, help="CPU cores of a replica, 1 if omitted."),
    ] = None,
    replica_tokens: Annotated[
        int | None,
        typer.Option(
            "--replica-tokens",
            min=1,
            help="Mean tokens, waiting or being computed, of a replica, beyond which there is one "
            "more; if omitted, those of two batches a lane.",
        ),
    ] = None,
    memory: Annotated[
        str, typer.Option("--memory", help="Memory for adapters, such as 500MB or 2GB.")
    ] = "2GB",
    device_memory: Annotated[
        str, typer.Option("--device-memory", help="GPU memory for adapters.")
    ] = "2GB",
    pin: Annotated[
        list[str] | None, typer.Option("--pin", help="Adapter that is never evicted; repeatable.")
    ] = None,
    batch_tokens: Annotated[
        int | None,
        typer.Option(
            "--batch-tokens",
            help="Largest number of tokens in a batch: more for throughput, fewer for latency. "
            "If omitted, 512 on a CPU and 16384 on a GPU.",
        ),
    ] = None,
    lanes: Annotated[
        int | None,
        typer.Option(
            "--lanes",
            help="Batches computed in parallel on a CPU; if omitted, one a core, up to 4.",
        ),
    ] = None,
    queue_tokens: Annotated[
        int,
        typer.Option("--queue-tokens", help="Most tokens in the queue; beyond it, status 429."),
    ] = 100_000,
    row_characters: Annotated[
        int,
        typer.Option("--row-characters", help="Most characters of a row; beyond it, status 413."),
    ] = 200_000,
    timeout: Annotated[
        float, typer.Option("--timeout", help="Seconds after which a request fails.")
    ] = 30.0,
    max_connections: Annotated[
        int | None,
        typer.Option(
            "--max-connections",
            help="Most open connections; if omitted, as many as `ulimit -n` allows, up to 4096.",
        ),
    ] = None,
    max_connections_per_address: Annotated[
        int | None,
        typer.Option(
            "--max-connections-per-address",
            help="Most open connections of one client address; if omitted, half of all.",
        ),
    ] = None,
    read_timeout: Annotated[
        float,
        typer.Option(
            "--read-timeout",
            help="Most seconds for the head of a request, and between two parts of its body.",
        ),
    ] = 10.0,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(
            "--cors-origin",
            help="Origin of a page that may use the server from a browser, such as "
            "https://app.example.org; repeatable.",
        ),
    ] = None,
    cache: Annotated[
        Path | None, typer.Option("--cache", help="Folder for copies of the adapters of a URL.")
    ] = None,
    any_backbone: Annotated[
        bool,
        typer.Option("--any-backbone", help="Accept adapters trained on other weights."),
    ] = False,
    trust: TrustOption = None,
    log_texts: Annotated[
        bool, typer.Option("--log-texts", help="Write the texts of requests to the log.")
    ] = False,
    log_masked_texts: Annotated[
        bool,
        typer.Option(
            "--log-masked-texts",
            help="The same with e-mail addresses, phone, card and account numbers masked; needs "
            "the extra adapterkit[mask].",
        ),
    ] = False,
    mask_with: Annotated[
        str | None,
        typer.Option(
            "--mask-with",
            metavar="NAME",
            help="Tagging adapter whose entities --log-masked-texts masks as well, such as "
            "acme/pii@stable.",
        ),
    ] = None,
) -> None:
    """Serve the adapters of a store over HTTP, mixed in one batch over their backbones.

    \b
    adapterkit serve adapters
    curl localhost:8080/predict -H "content-type: application/json" \\
      -d '{"adapter_id": "acme/intent", "inputs": "I lost my card"}'

    The page is at /, and the description of every route at /docs. An adapter that is published to
    the store, by train or by an admin over HTTP, is served at once.

    With --engine ray, Ray Serve starts, scales and replaces several such servers, and each request
    goes to one that has the adapters of its tenant in memory.
    """
    with _ended_by_sigterm():
        from ..serving.server import Settings, run_server
        from ..serving.serving_limits import ServingLimits

        if not 0 <= port <= 65535:
            raise AdapterkitError(f"--port {port}: expected 0 to 65535")
        if log_texts and log_masked_texts:
            raise AdapterkitError("give either --log-texts or --log-masked-texts, not both")
        if mask_with is not None and not log_masked_texts:
            raise AdapterkitError(f"--mask-with {mask_with} needs --log-masked-texts")
        counts = {
            "--batch-tokens": batch_tokens,
            "--queue-tokens": queue_tokens,
            "--row-characters": row_characters,
            "--lanes": lanes,
            "--max-connections": max_connections,
            "--max-connections-per-address": max_connections_per_address,
        }
        _check_ranges(counts, {"--timeout": timeout, "--read-timeout": read_timeout})
        settings = Settings(
            store=store,
            cache=cache,
            backbones=tuple(backbone or ["minilm"]),
            load_options=LoadOptions(dtype, quantization, device, device_map),
            memory=bytes_of(memory, "--memory"),
            device_memory=bytes_of(device_memory, "--device-memory"),
            pinned=tuple(pin or ()),
            batch_tokens=batch_tokens,
            queue_tokens=queue_tokens,
            lanes=lanes,
            keys=keys,
            ssl_certfile=ssl_certfile,
            ssl_keyfile=ssl_keyfile,
            any_backbone=any_backbone,
            trust=trust,
            log_texts=log_texts,
            log_masked_texts=log_masked_texts,
            mask_with=mask_with,
            limits=ServingLimits(
                row_characters=row_characters, timeout=timeout, read_timeout=read_timeout
            ),
            max_connections=max_connections,
            max_connections_per_address=max_connections_per_address,
            cors_origins=tuple(cors_origin or ()),
        )
        if engine is None:
            of_engine = {
                "--replicas": replicas,
                "--replica-cpus": replica_cpus,
                "--replica-tokens": replica_tokens,
            }
            _refuse_given(of_engine, "give --engine ray as well")
            run_server(settings, host, port)
        else:
            of_proxy = {
                "--max-connections": max_connections,
                "--max-connections-per-address": max_connections_per_address,
            }
            _refuse_given(
                of_proxy,
                "with --engine ray, Ray Serve accepts connections; limit them in a proxy before it",
            )
            _refuse_given({"--device-map": device_map}, "with --engine ray, a replica has one GPU")
            _run_replicas(settings, replicas, replica_cpus, replica_tokens, host, port)


def _run_replicas(
    settings: Settings,
    number: str | None,
    cpus: int | None,
    tokens: int | None,
    host: str,
    port: int,
) -> None:
    from ..serving.replicas.ray_server import run_replicas
    from ..serving.replicas.replicas import Replicas, read_range

    least, most = read_range(number or "2")
    if tokens is not None and least == most:
        raise AdapterkitError(
            f"--replica-tokens {tokens}: a fixed number of replicas does not follow the load; give "
            f"--replicas {least}..{2 * least}"
        )
    run_replicas(settings, Replicas(least, most, cpus or 1, tokens), host, port)


def _refuse_given(options: Mapping[str, object], reason: str) -> None:
    for option, value in options.items():
        if value is not None:
            raise AdapterkitError(f"{option} {value}: {reason}")


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Ends the process with one line on SIGTERM, until the server has its own handler."""

    def end(number: int, _: FrameType | None) -> NoReturn:
        typer.echo("Ended by SIGTERM while loading; no request was accepted.", err=True)
        os._exit(128 + number)  # nothing is being written, and threads would delay an orderly exit

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _check_ranges(counts: Mapping[str, int | None], seconds: Mapping[str, float]) -> None:
    for option, count in counts.items():
        if count is not None and count < 1:
            raise AdapterkitError(f"{option} {count}: expected at least 1")
    for option, value in seconds.items():
        if not value > 0:
            raise AdapterkitError(f"{option} {value}: expected more than 0 seconds")


def bytes_of(text: str, option: str) -> int:
    """A size such as 500MB in bytes.

    Raises:
        AdapterkitError: The text is not a size.
    """
    for unit in sorted(UNITS, key=len, reverse=True):
        number = text.removesuffix(unit)
        if number != text and number.replace(".", "", 1).isdigit():
            return int(float(number) * UNITS[unit])
    raise AdapterkitError(f"{option} {text}: expected a size such as 500MB or 2GB")
