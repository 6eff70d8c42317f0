"""`adapterkit evaluate`: scores on labelled rows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..backbone.load_options import LoadOptions
from .options import (
    AnyBackboneOption,
    BackboneOption,
    DeviceMapOption,
    DeviceOption,
    DtypeOption,
    JsonOption,
    QuantizationOption,
    StoreOption,
    TextPairOption,
    complete_adapters,
    json_text,
)

# As in the other commands, modules that need torch are imported inside it.


def evaluate(
    adapter: Annotated[
        str,
        typer.Argument(
            metavar="ADAPTER",
            help="Name in the store, or folder.",
            autocompletion=complete_adapters,
        ),
    ],
    data: Annotated[
        Path, typer.Argument(metavar="DATA", help="Labelled CSV, TSV, JSONL or Parquet file.")
    ],
    split: Annotated[
        str, typer.Option("--split", help="Split to score, if the file has a split column.")
    ] = "test",
    store: StoreOption = Path("adapters"),
    text: Annotated[str | None, typer.Option("--text", help="Column of the text.")] = None,
    text_pair: TextPairOption = None,
    label: Annotated[str | None, typer.Option("--label", help="Column of the label.")] = None,
    backbone: BackboneOption = None,
    dtype: DtypeOption = "float32",
    quantization: QuantizationOption = "none",
    device: DeviceOption = "auto",
    device_map: DeviceMapOption = None,
    any_backbone: AnyBackboneOption = False,
    as_json: JsonOption = False,
) -> None:
    """Score an adapter on labelled rows, the main metric with its 95% bootstrap interval.

    If a column is omitted, it is the one in the adapter's recipe.
    """
    from ..adapter.folder import load_adapter
    from ..adapter.model_card import score_text
    from ..adapter.references import backbone_name, find_folder
    from ..adapter.store import Store
    from ..backbone.model import Backbone
    from ..inference.labelled import read_rows
    from ..inference.pipeline import predictions

    opened = Store(store)
    folder, trained_on = find_folder(adapter, opened), backbone_name([adapter], opened, backbone)
    options = LoadOptions(dtype, quantization, device, device_map)
    base = Backbone.load_with(trained_on, options)
    loaded = load_adapter(folder, base, any_backbone=any_backbone, on_top_of=store)
    given = {"text": text, "text_pair": text_pair, "label": label}
    columns = {role: name for role, name in given.items() if name}
    rows = read_rows(data, loaded, split=split, columns=columns)
    predicted = predictions(base, loaded, rows, progress=True)
    metrics, intervals = loaded.task.metrics(predicted), loaded.task.intervals(predicted)
    scores = {"metrics": metrics, "intervals": intervals}
    if as_json:
        typer.echo(json_text({"adapter": loaded.name, "rows": len(rows), **scores}))
        return
    for name, value in metrics.items():
        typer.echo(f"{name} {score_text(value, intervals.get(name))}")
    typer.echo(f"{len(rows)} rows of {data}", err=True)
