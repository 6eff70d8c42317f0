"""`adapterkit export`: adapters as files of other programs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..backbone.load_options import LoadOptions
from ..errors import AdapterkitError, did_you_mean
from .options import (
    AnyBackboneOption,
    BackboneOption,
    JsonOption,
    StoreOption,
    TextPairOption,
    complete_adapters,
    json_text,
)

if TYPE_CHECKING:
    from ..export.runtime_folder import NamedRow

# As in the other commands, modules that need torch are imported inside them.


def export(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="ADAPTER...",
            help="Names in the store, or folders.",
            autocompletion=complete_adapters,
        ),
    ],
    kind: Annotated[
        str,
        typer.Option(
            "--format",
            help="peft (a folder of PEFT), merged (a checkpoint), onnx or openvino.",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", help="The new folder.")],
    int8: Annotated[
        bool, typer.Option("--int8", help="onnx, openvino: 8-bit weights; needs --rows.")
    ] = False,
    rows: Annotated[
        Path | None,
        typer.Option(
            "--rows",
            metavar="FILE",
            help="onnx, openvino: rows to compare, in a file as predict --input reads it; by "
            "default one example.",
        ),
    ] = None,
    text: Annotated[str, typer.Option("--text", help="Column of the text in --rows.")] = "text",
    text_pair: TextPairOption = None,
    store: StoreOption = Path("adapters"),
    backbone: BackboneOption = None,
    any_backbone: AnyBackboneOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write adapters as files of other programs, which answer as they do.

    peft: a folder of PEFT without anything of adapterkit. merged: a plain checkpoint of
    transformers (AutoModelForSequenceClassification and the like) with the adapter added to the
    weights. What has no exact form there is refused.

    onnx, openvino: a model of ONNX Runtime or OpenVINO with backbone, adapter of any method, and
    head; it needs the extra adapterkit[onnx] or adapterkit[openvino]. Several adapters of one task
    become one model with the number of each row's adapter as a further input.

    \b
    adapterkit export acme/intent --format merged --output intent-model
    adapterkit export acme/intent initech/intent --format onnx --output intents
    adapterkit export acme/intent --format openvino --int8 --rows test.csv --output intent-int8
    """
    from ..adapter.folder import load_adapter
    from ..adapter.references import backbone_name, find_folder
    from ..adapter.store import Store
    from ..backbone.model import Backbone
    from ..export.formats import FORMATS
    from ..export.runtime_folder import RUNTIMES, write_runtime_folder

    known = [*FORMATS, *RUNTIMES]
    if kind not in known:
        raise AdapterkitError(f"there is no format '{kind}'; {did_you_mean(kind, known)}")
    if kind in FORMATS and (len(names) > 1 or int8 or rows is not None):
        raise AdapterkitError(
            f"the format '{kind}' takes one adapter, and neither --int8 nor --rows; those are for "
            f"{' and '.join(RUNTIMES)}"
        )
    if text_pair is not None and rows is None:
        raise AdapterkitError("--text-pair is a column of --rows; give that file, or leave it out")
    compared = _read_rows(rows, text, text_pair)
    opened = Store(store)
    folders = [find_folder(name, opened) for name in names]
    base = Backbone.load_with(
        backbone_name(names, opened, backbone), LoadOptions(device="cpu"), prepared=False
    )
    adapters = [
        load_adapter(folder, base, any_backbone=any_backbone, on_top_of=store) for folder in folders
    ]
    result: dict[str, Any] = {"folder": str(output), "format": kind}
    title = repr(adapters[0]) if len(adapters) == 1 else f"{len(adapters)} adapters"
    if kind in FORMATS:
        FORMATS[kind](adapters[0], base, output)
        note = ""
    else:
        found = write_runtime_folder(RUNTIMES[kind], adapters, base, output, compared, int8)
        result |= {"int8": int8, **found.plain()}
        note = f"; {found}"
    typer.echo(json_text(result) if as_json else f"{output}: {title} as {kind}{note}")


def _read_rows(file: Path | None, text: str, text_pair: str | None) -> Sequence[NamedRow]:
    """The rows of a file; none if it is omitted.

    Raises:
        DataError: A row is not valid.
    """
    from ..data.requests import FaultyRow, RequestFile

    if file is None:
        return []
    roles = {"text": text, **({} if text_pair is None else {"text_pair": text_pair})}
    found: list[NamedRow] = []
    for row in RequestFile(file, roles).rows():
        if isinstance(row, FaultyRow):
            raise row.error
        found.append((row.adapter, row.text, row.where))
    return found
