"""`adapterkit predict` and `evaluate`: answers and scores without a server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..atomic import check_output
from ..backbone.load_options import Device, Dtype, Quantization
from ..errors import AdapterkitError, UnknownAdapterError
from .options import (
    AnyBackboneOption,
    BackboneOption,
    DeviceOption,
    DtypeOption,
    JsonOption,
    QuantizationOption,
    StoreOption,
    TextPairOption,
    json_text,
)

if TYPE_CHECKING:
    from ..backbone.model import Backbone
    from ..data.requests import RequestRow

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
    from ..adapter.store import Store
    from .output import FORMATS, answer_row, answers_table, write_answers

    words, references = list(adapter_and_texts or []), list(adapters or [])
    if not references and words:
        references.append(words.pop(0))
    texts = _read_texts(words, source, {"text": text, "text_pair": text_pair}, column)
    if target is not None:
        check_output(target, FORMATS, "--output")
    if page is not None:
        from ..inference.attribution_html import SUFFIXES

        check_output(page, SUFFIXES, "--explain-html")
    named = sorted({a.adapter for a in texts if a.adapter is not None})
    from ..inference.predictor import Predictor

    references = references or named
    predictor = Predictor(_load_backbone(references, store, backbone, dtype, quantization, device))
    by_reference = predictor.load_references(references, Store(store), any_backbone=any_backbone)
    texts = _with_adapters(texts, predictor.names, by_reference, source)
    requests, places = [(a.adapter, a.text) for a in texts], [a.where for a in texts]
    explanations = []
    if explained or page is not None:
        from ..inference.attribution import explain_all

        explanations = explain_all(predictor, requests, places)
    answers = predictor(requests, names=places, progress=len(texts) > 100)
    rows = [answer_row(a.text, answer) for a, answer in zip(texts, answers, strict=True)]
    for row, explanation in zip(rows, explanations, strict=False):
        row["explanation"] = explanation.plain()
    if target is not None:
        write_answers(target, rows)
        typer.echo(f"{len(rows)} answers in {target}", err=True)
    if page is not None:
        from ..inference.attribution_html import write_page

        write_page(page, explanations)
        typer.echo(f"{len(rows)} explanations in {page}", err=True)
    if as_json:
        typer.echo(json_text(rows))
    elif target is None:
        from ..inference.pipeline import summarize

        pairs = zip(texts, answers, strict=True)
        summaries = [summarize(predictor.find(one.adapter), answer) for one, answer in pairs]
        names = [answer["adapter"] for answer in answers]
        typer.echo(answers_table(names, [one.text for one in texts], summaries))
        if explained:
            from rich.console import Console

            from .attribution_text import print_explanations

            typer.echo()
            print_explanations(explanations, Console())


def _read_texts(
    words: Sequence[str], source: Path | None, columns: Mapping[str, str | None], adapter: str
) -> list[RequestRow]:
    """The texts of the command line, or of a file."""
    from ..data.requests import RequestRow, parse_text, read_requests

    if source is not None and words:
        raise AdapterkitError("give texts or --input, not both")
    if source is not None:
        named = {role: name for role, name in columns.items() if name is not None}
        texts = read_requests(source, named, adapter)
    else:
        texts = [
            RequestRow(None, parse_text(word), f"text {number}")
            for number, word in enumerate(words, start=1)
        ]
    if not texts:
        raise AdapterkitError("there is nothing to answer: give a TEXT or --input FILE")
    return texts


def _with_adapters(
    texts: Sequence[RequestRow],
    names: Sequence[str],
    by_reference: Mapping[str, str],
    source: Path | None,
) -> list[RequestRow]:
    """Pairs each text with its adapter: the one that it names, or every requested adapter.

    Args:
        texts: The texts.
        names: Of all adapters that are ready.
        by_reference: Each reference of the command line and the name it means.
        source: The file of the texts, for messages.
    """
    from ..names import BASE

    known = {BASE: BASE, **{name: name for name in names}, **by_reference}
    unknown = sorted({a.adapter for a in texts if a.adapter is not None} - known.keys())
    if unknown:
        raise UnknownAdapterError(
            f"{source}: rows name the adapter '{unknown[0]}', which is not among --adapter "
            f"({', '.join(by_reference)})"
        )
    everyone = list(by_reference.values()) or [BASE]
    return [
        replace(one, adapter=name)
        for one in texts
        for name in (everyone if one.adapter is None else [known[one.adapter]])
    ]


def evaluate(
    adapter: Annotated[
        str, typer.Argument(metavar="ADAPTER", help="Name in the store, or folder.")
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
    any_backbone: AnyBackboneOption = False,
    as_json: JsonOption = False,
) -> None:
    """Score an adapter on labelled rows, the main metric with its 95% bootstrap interval.

    If a column is omitted, it is the one in the adapter's recipe.
    """
    from ..adapter.folder import load_adapter
    from ..adapter.store import Store, find_folder
    from ..inference.labelled import read_rows
    from ..inference.pipeline import predictions

    folder = find_folder(adapter, Store(store))
    base = _load_backbone([adapter], store, backbone, dtype, quantization, device)
    loaded = load_adapter(folder, base, any_backbone=any_backbone, on_top_of=store)
    given = {"text": text, "text_pair": text_pair, "label": label}
    columns = {role: name for role, name in given.items() if name}
    rows = read_rows(data, loaded, split=split, columns=columns)
    predicted = predictions(base, loaded, rows, progress=True)
    metrics, intervals = loaded.task.metrics(predicted), loaded.task.intervals(predicted)
    if as_json:
        typer.echo(
            json_text(
                {
                    "adapter": loaded.name,
                    "rows": len(rows),
                    "metrics": metrics,
                    "intervals": intervals,
                }
            )
        )
        return
    from ..adapter.model_card import score_text

    for name, value in metrics.items():
        typer.echo(f"{name} {score_text(value, intervals.get(name))}")
    typer.echo(f"{len(rows)} rows of {data}", err=True)


def _load_backbone(
    references: Sequence[str],
    store: Path,
    model: str | None,
    dtype: Dtype,
    quantization: Quantization,
    device: Device,
) -> Backbone:
    """The backbone of the command line, or the one that the first adapter was trained on."""
    from ..adapter.card import backbone_of
    from ..adapter.store import Store, find_folder
    from ..backbone.checkpoint import EMBEDDED
    from ..backbone.model import Backbone
    from ..names import BASE

    # Every reference is looked up first: an unknown adapter must not wait for the backbone.
    folders = [find_folder(name, Store(store)) for name in references if name != BASE]
    if model is None and folders:
        model = backbone_of(folders[0])
    return Backbone.load(model or EMBEDDED, dtype=dtype, quantization=quantization, device=device)
