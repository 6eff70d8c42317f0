"""Options that several commands share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ..backbone.load_options import Device, Dtype, Quantization
from ..errors import AdapterkitError
from ..names import ALIASES


def complete_adapters(context: typer.Context, incomplete: str) -> list[str]:
    """Names of adapters for the completion of a shell, which must not wait for torch."""
    store = Path(context.params.get("store") or "adapters")
    paths = (path for depth in ("*", "*/*") for path in store.glob(f"{depth}/{ALIASES}"))
    names = (path.parent.relative_to(store).as_posix() for path in paths)
    return sorted(name for name in names if name.startswith(incomplete))


JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on standard output, nothing else.")
]
DtypeOption = Annotated[Dtype, typer.Option("--dtype", help="Dtype of the frozen weights.")]
QuantizationOption = Annotated[
    Quantization, typer.Option("--quantization", help="Quantise the frozen linears.")
]
DeviceOption = Annotated[Device, typer.Option("--device", help="auto: the GPU if there is one.")]
DeviceMapOption = Annotated[
    str | None,
    typer.Option(
        "--device-map",
        metavar="auto|FILE",
        help="Where the weights of layers lie, for a model larger than its device: auto, or a "
        "file of modules and cpu, disk or a GPU's number.",
    ),
]

StoreOption = Annotated[
    Path, typer.Option("--store", help="Folder of named adapters.", show_default=True)
]
BackboneOption = Annotated[
    str | None,
    typer.Option(
        "--backbone", help="minilm, a folder or a hub name; the adapter's own if omitted."
    ),
]
TextPairOption = Annotated[str | None, typer.Option("--text-pair", help="Column of a second text.")]
AnyBackboneOption = Annotated[
    bool,
    typer.Option(
        "--any-backbone", help="Accept adapters trained on other weights of the same shape."
    ),
]

LabelsOption = Annotated[
    str | None,
    typer.Option("--labels", help="Label names in the order of the logits, with commas."),
]
ProblemOption = Annotated[
    str | None,
    typer.Option(
        "--problem",
        help="single_label_classification, multi_label_classification or regression; PEFT "
        "folders do not say which.",
    ),
]

TrustOption = Annotated[
    Path | None,
    typer.Option(
        "--trust",
        help="Trust file: only adapters are accepted that one of its keys has signed.",
    ),
]


def label_names(labels: str | None) -> tuple[str, ...] | None:
    """The names in `--labels`; None if it is omitted.

    Raises:
        AdapterkitError: One is empty.
    """
    if labels is None:
        return None
    names = tuple(name.strip() for name in labels.split(","))
    if not all(names):
        raise AdapterkitError(f"--labels '{labels}': expected names with commas between them")
    return names


def check_workers(workers: int | None, engine: str | None) -> None:
    """Checks that the number of workers is given together with an engine.

    Raises:
        AdapterkitError: It is given alone, and would have no effect.
    """
    if workers is not None and engine is None:
        raise AdapterkitError("--workers is for an engine; give --engine ray too, or leave it out")


def json_text(content: Any) -> str:
    """A document as `--json` prints it."""
    return json.dumps(content, ensure_ascii=False, indent=2)
