"""`adapterkit export`: an adapter as files of other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..backbone.load_options import LoadOptions
from ..errors import AdapterkitError, did_you_mean
from .options import (
    AnyBackboneOption,
    BackboneOption,
    JsonOption,
    StoreOption,
    complete_adapters,
    json_text,
)

# As in the other commands, modules that need torch are imported inside them.


def export(
    adapter: Annotated[
        str,
        typer.Argument(
            metavar="ADAPTER",
            help="Name in the store, or folder.",
            autocompletion=complete_adapters,
        ),
    ],
    kind: Annotated[
        str,
        typer.Option("--format", help="peft (a folder of PEFT), merged (a checkpoint) or onnx."),
    ],
    output: Annotated[Path, typer.Option("--output", help="The new folder.")],
    store: StoreOption = Path("adapters"),
    backbone: BackboneOption = None,
    any_backbone: AnyBackboneOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write an adapter as files of other programs, which answer as it does.

    peft: a folder of PEFT without anything of adapterkit. merged: a plain checkpoint of
    transformers (AutoModelForSequenceClassification and the like) with the adapter added to the
    weights. onnx: the same as an ONNX file, for classifiers of texts and regressions; it needs the
    extra adapterkit[onnx]. What has no exact form there is refused.

    \b
    adapterkit export acme/intent --format merged --output intent-model
    """
    from ..adapter.folder import load_adapter
    from ..adapter.store import Store, backbone_name, find_folder
    from ..backbone.model import Backbone
    from ..export.formats import FORMATS

    if kind not in FORMATS:
        raise AdapterkitError(f"there is no format '{kind}'; {did_you_mean(kind, FORMATS)}")
    opened = Store(store)
    folder = find_folder(adapter, opened)
    name = backbone_name([adapter], opened, backbone)
    base = Backbone.load_with(name, LoadOptions(device="cpu"), prepared=False)
    loaded = load_adapter(folder, base, any_backbone=any_backbone, on_top_of=store)
    written = FORMATS[kind](loaded, base, output)
    if as_json:
        typer.echo(json_text({"folder": str(written), "format": kind}))
        return
    typer.echo(f"{written}: {loaded!r} as {kind}")
