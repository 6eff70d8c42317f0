"""`adapterkit predict`: answers without a server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..backbone.load_options import LoadOptions
from .options import (
    AnyBackboneOption,
    BackboneOption,
    DeviceOption,
    DtypeOption,
    JsonOption,
    QuantizationOption,
    StoreOption,
    TextPairOption,
)

# As in the other commands, modules that need torch are imported inside them.


def predict(
    adapter_and_texts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[ADAPTER] [TEXT]...", help="Adapter (unless --adapter is given) and texts."
        ),
    ] = None,
    adapters: Annotated[
        list[str] | None,
        typer.Option("--adapter", help="Adapter name or folder; repeatable."),
    ] = None,
    source: Annotated[
        Path | None, typer.Option("--input", help="CSV, TSV, JSONL or Parquet file of texts.")
    ] = None,
    target: Annotated[
        Path | None, typer.Option("--output", help="File for the answers: .csv, .jsonl or .json.")
    ] = None,
    store: StoreOption = Path("adapters"),
    text: Annotated[str, typer.Option("--text", help="Column of the text.")] = "text",
    text_pair: TextPairOption = None,
    column: Annotated[
        str, typer.Option("--adapter-column", help="Column with the adapter of each row.")
    ] = "adapter",
    backbone: BackboneOption = None,
    dtype: DtypeOption = "float32",
    quantization: QuantizationOption = "none",
    device: DeviceOption = "auto",
    any_backbone: AnyBackboneOption = False,
    explained: Annotated[
        bool, typer.Option("--explain", help="Show the words for and against each answer.")
    ] = False,
    page: Annotated[
        Path | None,
        typer.Option("--explain-html", metavar="FILE", help="Write explanations to an HTML page."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Answer texts, from the command line or a file, through one adapter or many at once.

    \b
    adapterkit predict acme/intent "I lost my card"
    adapterkit predict acme/intent --input texts.csv --output answers.csv
    adapterkit predict --adapter acme/intent --adapter initech/ticket --input mixed.csv

    If the file has an adapter column, each row is answered by the adapter in that column, which may
    be 'base', the plain backbone. Otherwise every adapter answers every text. Explanations
    (integrated gradients) need the extra adapterkit[explain].
    """
    from .request_rows import assign_adapters, read_request_rows

    words, references = list(adapter_and_texts or []), list(adapters or [])
    if not references and words:
        references.append(words.pop(0))
    rows = read_request_rows(words, source, {"text": text, "text_pair": text_pair}, column)
    references = references or sorted({row.adapter for row in rows if row.adapter is not None})
    # A fault in the rows need not wait for torch.
    from ..adapter.store import Store, backbone_name
    from ..backbone.model import Backbone
    from ..inference.attribution import explain_all
    from ..inference.predictor import Predictor
    from .prediction_output import PredictionOutput

    output, opened = PredictionOutput(target, page, explained, as_json), Store(store)
    trained_on = backbone_name(references, opened)  # an unknown adapter need not wait for one
    options = LoadOptions(dtype, quantization, device)
    predictor = Predictor(Backbone.load_with(backbone or trained_on, options))
    by_reference = predictor.load_references(references, opened, any_backbone=any_backbone)
    rows = assign_adapters(rows, predictor.names, by_reference, source)
    requests, places = [(row.adapter, row.text) for row in rows], [row.where for row in rows]
    needed = output.needs_explanations
    explanations = explain_all(predictor, requests, places) if needed else []
    answers = predictor(requests, names=places, progress=len(rows) > 100)
    output.write(predictor, rows, answers, explanations)
