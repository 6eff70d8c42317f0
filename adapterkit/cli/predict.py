"""`adapterkit predict`: answers without a server."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer

from ..backbone.load_options import LoadOptions
from ..errors import AdapterkitError, did_you_mean
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
    check_workers,
    complete_adapters,
)

if TYPE_CHECKING:
    from ..prediction.shard_worker import Job

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
        str | None,
        typer.Option(
            "--input",
            metavar="FILE",
            help="CSV, TSV, JSONL, JSON, text or Parquet file of texts; - reads stdin. With an "
            "engine also a folder, a pattern such as 'logs/*.parquet', or a URL (s3://...).",
        ),
    ] = None,
    ending: Annotated[
        str | None,
        typer.Option("--format", help="Format of stdin: csv, tsv, jsonl, json, txt or parquet."),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            "--output",
            metavar="FILE",
            help="File for the answers: .csv, .jsonl or .json. With an engine a folder, or a URL.",
        ),
    ] = None,
    engine: Annotated[
        Literal["ray"] | None,
        typer.Option(
            "--engine",
            help="Answer with many processes or machines, in parts; an interrupted job goes on "
            "when it is started again. Needs the extra adapterkit[ray].",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Workers of the engine; one per CPU if omitted."),
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
    adapterkit predict acme/intent --engine ray --input 's3://logs/*.parquet' --output s3://answers
    cat texts.jsonl | adapterkit predict acme/intent --input - --format jsonl --json
    adapterkit predict --adapter acme/intent --adapter initech/ticket --input mixed.csv

    If the file has an adapter column, each row is answered by the adapter in that column, which may
    be 'base', the plain backbone. Otherwise every adapter answers every text. Explanations
    (integrated gradients) need the extra adapterkit[explain].

    The output keeps the columns of the file and adds adapter, prediction, score and the other
    values of the answer; a name that the file has already becomes predicted_NAME. A row that is
    not valid has an error in place of an answer, and the command then exits with code 1.
    """
    from ..prediction.request_rows import RowSurvey, assign_adapters, known_names, open_requests

    check_workers(workers, engine)
    if text_pair is not None and source is None:
        raise AdapterkitError(
            "--text-pair is a column of --input; two texts on the command line are one JSON object "
            "with a value for each role"
        )
    words, references = list(adapter_and_texts or []), list(adapters or [])
    if not references and words:
        references.append(words.pop(0))
    roles = {"text": text, "text_pair": text_pair}
    if engine is not None:
        _refuse_with_engine(words, source, target, explained or page is not None, as_json, ending)
        from ..prediction.shard_worker import Job

        job = Job(
            output=str(target),
            store=str(store),
            references=references,
            columns={role: name for role, name in roles.items() if name is not None},
            adapter_column=column,
            prefix=prefix,
            backbone=backbone,
            options=LoadOptions(dtype, quantization, device, device_map),
            any_backbone=any_backbone,
        )
        _run_job(job, str(source), workers)
        return
    file, output_file = (None if one is None else Path(one) for one in (source, target))
    with open_requests(words, file, roles, column, ending) as requests:
        survey = RowSurvey.of(requests.rows(log.warning))
        if column != "adapter" and column not in survey.columns:
            raise AdapterkitError(
                f"--adapter-column: {requests} has no column '{column}'; "
                f"{did_you_mean(column, survey.columns)}"
            )
        references = references or sorted(survey.adapters)
        # A fault of the file need not wait for the backbone.
        from ..adapter.references import backbone_name
        from ..adapter.store import Store
        from ..backbone.model import Backbone
        from ..inference.predictor import Predictor
        from ..prediction.prediction_rows import OutputColumns, PredictionStream
        from .prediction_output import PredictionOutput

        output, opened = PredictionOutput(output_file, page, explained, as_json), Store(store)
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
        _end_with_faults(predictions.n_faults, predictions.n_rows, str(predictions.first_fault))


def _refuse_with_engine(
    words: list[str],
    source: str | None,
    target: str | None,
    explained: bool,
    as_json: bool,
    ending: str | None,
) -> None:
    """Refuses what a job cannot do.

    Raises:
        AdapterkitError: Files are missing, or an option is for a single process.
    """
    if words or source in (None, "-") or target is None:
        raise AdapterkitError("--engine answers files: give --input FILES and --output FOLDER")
    for option, given in (
        ("--explain", explained),
        ("--json", as_json),
        ("--format", ending is not None),
    ):
        if given:
            raise AdapterkitError(f"{option} is for a single process; leave out --engine")


def _run_job(job: Job, source: str, workers: int | None) -> None:
    from ..cluster.ray_cluster import RayCluster
    from ..prediction.job import run_job
    from ..prediction.ray_engine import RayEngine

    records = run_job(job, source, RayEngine(RayCluster(workers)))
    n_rows, n_faults = (sum(getattr(one, key) for one in records.values()) for key in TOTALS)
    unread = [one.error for one in records.values() if one.error is not None]
    n_parts = len(records) - len(unread)
    typer.echo(f"{n_rows - n_faults} answers in {n_parts} parts in {job.output}", err=True)
    if unread:
        typer.echo(f"Error: {len(unread)} parts were not read; the first: {unread[0]}", err=True)
        raise typer.Exit(1)
    faults = [records[shard].first_fault for shard in sorted(records)]
    first = next((fault for fault in faults if fault is not None), None)
    if first is not None:
        _end_with_faults(n_faults, n_rows, first)


TOTALS = ("n_rows", "n_faults")


def _end_with_faults(n_faults: int, n_rows: int, first: str) -> NoReturn:
    typer.echo(f"Error: {n_faults} of {n_rows} rows have no answer; the first: {first}", err=True)
    raise typer.Exit(1)
