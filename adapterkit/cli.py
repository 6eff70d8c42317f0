"""The command line: answers on standard output, messages and progress on standard error."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from . import __version__
from .bench.cli import app as bench
from .check_cli import app as data
from .client_cli import app as client
from .comparison_cli import compare
from .disk import folder_bytes
from .errors import AdapterError, AdapterkitError, DataError, UnknownAdapterError
from .geometry import Device, Dtype, Quantization
from .options import DeviceOption, DtypeOption, JsonOption, QuantizationOption
from .serving import cli as serving

if TYPE_CHECKING:
    from .adapter import Adapter
    from .backbone import Backbone
    from .predict import Predictor

# Everything that needs torch is imported inside the commands: --help must not wait for it.


# Click's class for a wrong option or argument; newer versions of Typer carry their own Click.
UsageError: Any = typer.BadParameter.__base__


class _Commands(TyperGroup):
    """Ends a user's fault as one line and exit code 2."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args:  # the help, which is no fault
            return super().parse_args(ctx, args)
        with _told_in_one_line(ctx):
            return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        with _told_in_one_line(ctx):
            return super().invoke(ctx)


@contextmanager
def _told_in_one_line(ctx: Any) -> Iterator[None]:
    try:
        yield
        return
    except AdapterkitError as error:
        fault = str(error)
    except UsageError as error:
        fault = f"{error.format_message()} (see {(error.ctx or ctx).command_path} --help)"
    except OSError as error:
        if error.filename is None:
            raise
        fault = f"{error.filename}: {error.strerror}"
    except KeyboardInterrupt:
        typer.echo("Interrupted; nothing half-written was left.", err=True)
        raise typer.Exit(130) from None
    typer.echo(f"Error: {' '.join(fault.split())}", err=True)
    raise typer.Exit(2)


app = typer.Typer(
    cls=_Commands,
    name="adapterkit",
    help="One frozen BERT, hundreds of task models: train, keep, swap and mix small adapters.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


app.add_typer(bench)
app.add_typer(client)
app.command()(serving.serve)
app.command()(serving.keys)
app.add_typer(data)
app.command()(compare)

StoreOption = Annotated[
    Path, typer.Option("--store", help="Folder of named adapters.", show_default=True)
]
BackboneOption = Annotated[
    str | None,
    typer.Option(
        "--backbone", help="minilm, a folder or a hub name; the adapter's own by default."
    ),
]
AnyBackboneOption = Annotated[
    bool,
    typer.Option(
        "--any-backbone", help="Accept adapters trained on other weights of the same shape."
    ),
]


@app.callback(invoke_without_command=True)
def main(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    log = logging.getLogger("adapterkit")
    log.handlers[:] = [handler]
    log.setLevel(logging.INFO)
    log.propagate = False


@app.command()
def quickstart(
    output: Annotated[
        Path, typer.Option("--output", help="Store that the three adapters go to.")
    ] = Path("quickstart"),
    as_json: JsonOption = False,
) -> None:
    """Train three adapters on the embedded backbone, then answer one mixed batch.

    Three tenants, three methods, three label sets, one of them Spanish: a minute on two CPU cores,
    without network.
    """
    from .quickstart import run, show

    result = run(output)
    if as_json:
        _print_json(result)
    else:
        show(result)


@app.command()
def train(
    recipes: Annotated[
        list[Path] | None, typer.Argument(metavar="[RECIPE]...", help="The YAML recipes.")
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Change one key of all: --set training.epochs=5."
        ),
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", help="Store the adapters are published in.")
    ] = Path("adapters"),
    max_tokens: Annotated[
        int,
        typer.Option(
            "--max-tokens", min=1, help="Most tokens of several recipes in one step; bounds memory."
        ),
    ] = 4096,
    keys: Annotated[
        bool,
        typer.Option("--keys", help="List every key of a recipe with its default and meaning."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Train the adapters that recipes describe; each is published as its name's next version.

    \b
    A recipe can be this short (see --keys for the rest):
      name: acme/intent
      data: {path: intents.csv, text: text, label: label}
      method: {type: lora, r: 8}

    Several recipes of one backbone train side by side in shared steps, and each adapter comes out
    as if trained alone: adapterkit train recipes/*.yaml

    Several processes, for one recipe: accelerate launch -m adapterkit train RECIPE
    """
    from .recipe import Recipe, describe_keys

    if keys:
        typer.echo(describe_keys())
        return
    if not recipes:
        raise AdapterkitError("train needs a RECIPE; --keys lists what one may say")
    from accelerate import PartialState

    from .store import Store
    from .training import StoppedError, check_together, load_backbone, train_many

    plans, shelf = [Recipe.load(recipe, changes or []) for recipe in recipes], Store(output)
    for plan in plans:
        shelf.home(plan.name)  # refuses before the training what it would refuse after
    check_together(plans)
    backbone = load_backbone(plans[0])
    stopped = None
    try:
        adapters = train_many(plans, backbone, store=shelf, max_tokens=max_tokens)
    except StoppedError as error:
        stopped, adapters = error, error.finished
    if PartialState().is_main_process:
        told = [
            _trained(adapter, shelf.publish(adapter, backbone.geometry)) for adapter in adapters
        ]
        if as_json and told:
            _print_json(told if len(plans) > 1 else told[0])
        elif told:
            typer.echo("\n".join(map(_told, told)))
    if stopped is not None:
        raise stopped


def _trained(adapter: Adapter, folder: Path) -> dict[str, Any]:
    """What there is to say of a fresh adapter."""
    return {
        "name": adapter.name,
        "folder": str(folder),
        "bytes": folder_bytes(folder),
        "parameters": adapter.n_parameters,
        "metrics": adapter.metrics,
        "intervals": adapter.training.get("intervals", {}),
        "seconds": adapter.training["seconds"],
    }


def _told(trained: dict[str, Any]) -> str:
    """The same for people."""
    from .report import score_text

    lines = []
    for split, scores in trained["metrics"].items():
        sure = trained["intervals"].get(split, {})
        said = (f"{name} {score_text(value, sure.get(name))}" for name, value in scores.items())
        lines.append(f"{split}: {', '.join(said)}")
    size, seconds = trained["bytes"] / 1000, trained["seconds"]
    return "\n".join([*lines, f"{trained['folder']} ({size:,.0f} kB, {seconds} s)"])


@app.command("cross-validate")
def cross_validate(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="The YAML recipe.")],
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one key: --set data.folds=10."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Train a recipe once for each fold and tell how much its scores vary; nothing is published.

    The recipe's data.folds says how many folds, 5 where it is left out. Every fold is trained for
    all epochs and scored after the last; test rows are left alone.
    """
    from .recipe import Recipe

    plan = Recipe.load(recipe, changes or [])
    from accelerate import PartialState

    from .folds import cross_validate as run

    result = run(plan)
    if not PartialState().is_main_process:
        return
    if as_json:
        _print_json(result)
        return
    from .answers import table

    names = list(result["mean"])
    lines = [[entry["fold"], *entry["metrics"].values()] for entry in result["folds"]]
    lines += [[key, *result[key].values()] for key in ("mean", "std")]
    rows = [[str(first), *(f"{value:.4f}" for value in rest)] for first, *rest in lines]
    typer.echo(table(["fold", *names], rows))


@app.command()
def evaluate(
    adapter: Annotated[
        str, typer.Argument(metavar="ADAPTER", help="Name in the store, or folder.")
    ],
    data: Annotated[
        Path, typer.Argument(metavar="DATA", help="Labelled CSV, TSV, JSONL or Parquet file.")
    ],
    split: Annotated[
        str, typer.Option("--split", help="Split to score, where the file has a split column.")
    ] = "test",
    store: StoreOption = Path("adapters"),
    text: Annotated[str | None, typer.Option("--text", help="Column of the text.")] = None,
    text_pair: Annotated[
        str | None, typer.Option("--text-pair", help="Column of a second text.")
    ] = None,
    label: Annotated[str | None, typer.Option("--label", help="Column of the label.")] = None,
    backbone: BackboneOption = None,
    dtype: DtypeOption = "float32",
    quantization: QuantizationOption = "none",
    device: DeviceOption = "auto",
    any_backbone: AnyBackboneOption = False,
    as_json: JsonOption = False,
) -> None:
    """Score an adapter on labelled rows, the main metric with its 95% bootstrap interval.

    Columns are the recipe's unless told otherwise.
    """
    from .predict import predictions

    folder = _folder(adapter, store)
    base = _backbone([folder], backbone, dtype, quantization, device)
    from .files import load_adapter

    loaded = load_adapter(folder, base, any_backbone=any_backbone, on_top_of=store)
    rows = _labelled(data, split, loaded, {"text": text, "text_pair": text_pair, "label": label})
    said = predictions(base, loaded, rows, progress=True)
    metrics, intervals = loaded.task.metrics(said), loaded.task.intervals(said)
    if as_json:
        _print_json(
            {
                "adapter": loaded.name,
                "rows": len(rows),
                "metrics": metrics,
                "intervals": intervals,
            }
        )
        return
    from .report import score_text

    for name, value in metrics.items():
        typer.echo(f"{name} {score_text(value, intervals.get(name))}")
    typer.echo(f"{len(rows)} rows of {data}", err=True)


@app.command()
def predict(
    adapter_and_texts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[ADAPTER] [TEXT]...", help="Adapter (unless --adapter is given) and texts."
        ),
    ] = None,
    adapters: Annotated[
        list[str] | None,
        typer.Option("--adapter", help="Adapter name or folder; repeat it to ask several."),
    ] = None,
    source: Annotated[
        Path | None, typer.Option("--input", help="CSV, TSV, JSONL or Parquet file of texts.")
    ] = None,
    target: Annotated[
        Path | None, typer.Option("--output", help="Write answers here: .csv, .jsonl or .json.")
    ] = None,
    store: StoreOption = Path("adapters"),
    text: Annotated[str, typer.Option("--text", help="Column of the text.")] = "text",
    text_pair: Annotated[
        str | None, typer.Option("--text-pair", help="Column of a second text.")
    ] = None,
    column: Annotated[
        str, typer.Option("--adapter-column", help="Column that names each row's adapter.")
    ] = "adapter",
    backbone: BackboneOption = None,
    dtype: DtypeOption = "float32",
    quantization: QuantizationOption = "none",
    device: DeviceOption = "auto",
    any_backbone: AnyBackboneOption = False,
    explained: Annotated[
        bool, typer.Option("--explain", help="Show which words speak for and against each answer.")
    ] = False,
    page: Annotated[
        Path | None,
        typer.Option("--explain-html", metavar="FILE", help="Write that as one HTML page."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Answer texts, from the command line or a file, through one adapter or many at once.

    \b
    adapterkit predict acme/intent "I lost my card"
    adapterkit predict acme/intent --input texts.csv --output answers.csv
    adapterkit predict --adapter acme/intent --adapter initech/ticket --input mixed.csv

    A file with an adapter column is answered row by row by the adapter named there; otherwise
    every adapter answers every text. The row's adapter may be 'base', the plain backbone.
    Explanations (integrated gradients) need the extra adapterkit[explain].
    """
    from .adapter import BASE
    from .answers import (
        Asked,
        answer_row,
        ask_word,
        check_target,
        read_asked,
        show_answers,
        write_answers,
    )

    words = list(adapter_and_texts or [])
    references = list(adapters or [])
    if not references and words:
        references.append(words.pop(0))
    if source is not None and words:
        raise AdapterkitError("give texts or --input, not both")
    asked = (
        read_asked(source, text, text_pair, column)
        if source is not None
        else [ask_word(word, f"text {number}") for number, word in enumerate(words, start=1)]
    )
    if not asked:
        raise AdapterkitError("there is nothing to answer: give a TEXT or --input FILE")
    if target is not None:
        check_target(target)
    if page is not None:
        from .explanation_html import check_page

        check_page(page)
    named = sorted({a.adapter for a in asked if a.adapter is not None})
    predictor, called = _predictor(
        references or named, store, backbone, dtype, quantization, device, any_backbone
    )
    known = {BASE: BASE, **{name: name for name in predictor.names}, **called}
    unknown = [name for name in named if name not in known]
    if unknown:
        raise UnknownAdapterError(
            f"{source}: rows name the adapter '{unknown[0]}', which is not among --adapter "
            f"({', '.join(called)})"
        )
    everyone = list(called.values()) or [BASE]
    asked = [
        Asked(name, a.text, a.where)
        for a in asked
        for name in (everyone if a.adapter is None else [known[a.adapter]])
    ]
    requests = [(a.adapter, a.text) for a in asked]
    explanations = []
    if explained or page is not None:
        from .explanation import explain_all

        explanations = explain_all(predictor, requests, [a.where for a in asked])
    answers = predictor(
        requests,
        called=[a.where for a in asked],
        progress=len(asked) > 100,
    )
    rows = [answer_row(a.text, answer) for a, answer in zip(asked, answers, strict=True)]
    for row, explanation in zip(rows, explanations, strict=False):
        row["explanation"] = explanation.plain()
    if target is not None:
        write_answers(target, rows)
        typer.echo(f"{len(rows)} answers in {target}", err=True)
    if page is not None:
        from .explanation_html import write_page

        write_page(page, explanations)
        typer.echo(f"{len(rows)} explanations in {page}", err=True)
    if as_json:
        _print_json(rows)
    elif target is None:
        typer.echo(show_answers(rows))
        if explained:
            from .explanation_text import in_colour, show

            # Whether there are colours is decided here, not by what typer makes of the stream.
            typer.echo(f"\n{show(explanations, in_colour())}", color=True)


@app.command("list")
def list_adapters(
    store: Annotated[
        Path, typer.Argument(metavar="STORE", help="Folder of named adapters.")
    ] = Path("adapters"),
    as_json: JsonOption = False,
) -> None:
    """List a store's adapters with method, task, size and score."""
    from .store import Store

    if not store.is_dir():
        raise UnknownAdapterError(f"there is no store {store}; train one adapter and it appears")
    shelf = Store(store)
    rows = []
    for name in shelf.names():
        with suppress(UnknownAdapterError):  # a name whose versions somebody took away by hand
            rows.append({"name": name, **_summary(shelf.find(name).folder)})
    if as_json:
        _print_json(rows)
        return
    from .answers import table

    typer.echo(
        table(
            ["name", "version", "task", "method", "backbone", "kB", "score"],
            [
                [
                    row["name"],
                    row["version"],
                    row["task"],
                    (f"{row['members']} x " if row["members"] > 1 else "")
                    + row["method"]
                    + (f" on {row['on_top_of']}" if row["on_top_of"] else ""),
                    row["backbone"],
                    f"{row['bytes'] / 1000:,.0f}",
                    row["score"] or "",
                ]
                for row in rows
            ],
        )
    )


@app.command()
def inspect(
    adapter: Annotated[
        str, typer.Argument(metavar="ADAPTER", help="Name in the store, or folder.")
    ],
    store: StoreOption = Path("adapters"),
    as_json: JsonOption = False,
) -> None:
    """Show all an adapter folder says about itself, and its tensors."""
    from .files import CARD, WEIGHTS, folder_below, footing, read_card, tensor_shapes
    from .report import REPORT

    folder = _folder(adapter, store)
    content: dict[str, Any] = {
        "folder": str(folder),
        "bytes": folder_bytes(folder),
        **(read_card(folder) if (folder / CARD).is_file() else {}),
        "tensors": tensor_shapes(folder / WEIGHTS),
    }
    if (folder / REPORT).is_dir():
        content["report"] = sorted(str(file) for file in (folder / REPORT).iterdir())
    if footing(folder) is not None:
        try:
            content["on_top_of"]["folder"] = str(folder_below(folder, store))
        except AdapterError as error:  # it can be looked at all the same
            content["on_top_of"]["folder"] = str(error)
    if as_json:
        _print_json(content)
        return
    from .answers import show_card

    typer.echo(show_card(content))


def _folder(reference: str, store: Path) -> Path:
    from .store import Store, find_folder

    return find_folder(reference, Store(store))


def _backbone(
    folders: list[Path],
    model: str | None,
    dtype: Dtype,
    quantization: Quantization,
    device: Device,
) -> Backbone:
    """The backbone asked for, or the one the first adapter was trained on."""
    from .backbone import Backbone
    from .files import CARD, read_card

    if model is None and folders and (folders[0] / CARD).is_file():
        model = str(read_card(folders[0])["backbone"]["name"])
    return Backbone.load(
        model or "minilm",
        dtype=dtype,
        quantization=quantization,
        device=device,
    )


def _predictor(
    references: list[str],
    store: Path,
    model: str | None,
    dtype: Dtype,
    quantization: Quantization,
    device: Device,
    any_backbone: bool,
) -> tuple[Predictor, dict[str, str]]:
    """The adapters asked for, ready to answer, and the name of each."""
    from .adapter import BASE
    from .predict import Predictor

    folders = {name: _folder(name, store) for name in references if name != BASE}
    predictor = Predictor(_backbone(list(folders.values()), model, dtype, quantization, device))
    called: dict[str, str] = {}
    for reference in references:
        name = BASE
        if reference != BASE:
            folder = folders[reference]
            name = predictor.load(folder, any_backbone=any_backbone, on_top_of=store)
        if name in called.values():
            raise AdapterkitError(
                f"'{reference}' is called '{name}', as another --adapter is; ask one of them"
            )
        called[reference] = name
    return predictor, called


def _labelled(data: Path, split: str, adapter: Adapter, given: dict[str, str | None]) -> list[Any]:
    """The rows of one split; all rows of a file without a split column."""
    from .data import read_rows
    from .sources import read_records
    from .splits import SPLITS

    task, said = adapter.task, adapter.training.get("recipe", {}).get("data", {})
    kinds = {**task.reads, **task.learns}
    optional = {**task.may_read, **task.may_learn}
    kinds |= {role: kind for role, kind in optional.items() if given.get(role) or said.get(role)}
    columns = {
        role: (given.get(role) or said.get(role) or role, kind) for role, kind in kinds.items()
    }
    if split not in SPLITS:
        raise DataError(f"--split {split}: expected {', '.join(SPLITS)}")
    found = read_rows(read_records(data), columns, said.get("split", "split"))
    rows = [row for part, row in found if part in (split, None)]
    if not rows:
        raise DataError(f"{data}: there are no rows of split '{split}'")
    return rows


def _summary(folder: Path) -> dict[str, Any]:
    from .files import footing, n_members, read_card
    from .task import tasks

    card = read_card(folder)
    task = str(card["task"]["type"])
    metric = tasks()[task].main_metric if task in tasks() else ""
    metrics: dict[str, dict[str, float]] = card["metrics"]
    split, scores = next(reversed(metrics.items()), ("", {}))
    return {
        "version": folder.name,
        "folder": str(folder),
        "task": task,
        "method": card["method"]["type"],
        "members": n_members(card),
        "on_top_of": below.name if (below := footing(folder)) is not None else None,
        "backbone": card["backbone"]["name"],
        "labels": card["task"].get("labels"),
        "bytes": folder_bytes(folder),
        "metrics": metrics,
        "score": f"{scores[metric]:.4f} {metric} ({split})" if metric in scores else None,
    }


def _print_json(content: Any) -> None:
    typer.echo(json.dumps(content, ensure_ascii=False, indent=2))
