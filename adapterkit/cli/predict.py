"""`adapterkit predict`: answers without a server."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from ..backbone.load_options import LoadOptions
from ..names import BASE
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
)

log = logging.getLogger("adapterkit")

# As in the other commands, modules that need torch are imported inside them.


def predict(
    adapter_and_texts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[ADAPTER] [TEXT]...",
            help="Adapter (unless --adapter is given) and texts.",
            autocompletion=complete_adapters,
        ),
    ] = None,
    adapters: Annotated[
        list[str] | None,
        typer.Option("--adapter", help="Adapter name, folder or hf://user/repo; repeatable."),
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option(
            "--input", help="CSV, TSV, JSONL, JSON, text or Parquet file of texts; - reads stdin."
        ),
    ] = None,
    ending: Annotated[
        str | None,
        typer.Option("--format", help="Format of stdin: csv, tsv, jsonl, json, txt or parquet."),
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
    prefix: Annotated[
        str,
        typer.Option("--prefix", help="Before the names of the columns that are added."),
    ] = "",
    backbone: BackboneOption = None,
    dtype: DtypeOption = "float32",
    quantization: QuantizationOption = "none",
    device: DeviceOption = "auto",
    device_map: DeviceMapOption = None,
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
    cat texts.jsonl | adapterkit predict acme/intent --input - --format jsonl --json
    adapterkit predict --adapter acme/intent --adapter initech/ticket --input mixed.csv

    If the file has an adapter column, each row is answered by the adapter in that column, which may
    be 'base', the plain backbone. Otherwise every adapter answers every text. Explanations
    (integrated gradients) need the extra adapterkit[explain].

    The output keeps the columns of the file and adds adapter, prediction, score and the other
    values of the answer; a name that the file has already becomes predicted_NAME. A row that is
    not valid has an error in place of an answer, and the command then exits with code 1.
    """
    from .request_rows import RowSurvey, assign_adapters, known_names, open_requests

    words, references = list(adapter_and_texts or []), list(adapters or [])
    if not references and words:
        references.append(words.pop(0))
    roles = {"text": text, "text_pair": text_pair}
    with open_requests(words, source, roles, column, ending) as requests:
        survey = RowSurvey.of(requests.rows(log.warning))
        references = references or list(survey.adapters)
        # A fault of the file need not wait for the backbone.
        from ..adapter.store import Store, backbone_name
        from ..backbone.model import Backbone
        from ..inference.predictor import Predictor
        from .prediction_output import PredictionOutput
        from .prediction_rows import OutputColumns, PredictionStream

        output, opened = PredictionOutput(target, page, explained, as_json), Store(store)
        trained_on = backbone_name(
            references, opened, backbone
        )  # an unknown adapter need not wait for one
        options = LoadOptions(dtype, quantization, device, device_map)
        predictor = Predictor(Backbone.load_with(trained_on, options))
        by_reference = predictor.load_references(references, opened, any_backbone=any_backbone)
        names = known_names(survey, predictor.names, by_reference, requests)
        everyone = list(by_reference.values()) or [BASE]
        rows = assign_adapters(requests.rows(), names, everyone)
        with output.progress_bar(survey.n_answers(len(everyone))) as bar:
            predictions = PredictionStream(
                predictor, rows, output.needs_explanations, requests.file is None, bar
            )
            output.write(predictions, OutputColumns.beside(survey.columns, column, prefix))
    if predictions.first_fault is not None:
        counts = f"{predictions.n_faults} of {predictions.n_rows} rows have no answer"
        typer.echo(f"Error: {counts}; the first: {predictions.first_fault}", err=True)
        raise typer.Exit(1)
