"""`adapterkit list`, `inspect` and `verify`: the adapters of a store, and one of them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..atomic import folder_bytes
from ..errors import AdapterError, AdapterkitError, UnknownAdapterError
from .options import JsonOption, StoreOption, TrustOption, complete_adapters, json_text

if TYPE_CHECKING:
    from ..adapter.store import Store

# As in the other commands, modules that need torch are imported inside them.


def list_adapters(
    store: Annotated[
        Path, typer.Argument(metavar="STORE", help="Folder of named adapters.")
    ] = Path("adapters"),
    as_json: JsonOption = False,
) -> None:
    """List a store's adapters with method, task, size and score; a broken one with its error."""
    from ..adapter.store import Store

    if not store.is_dir():
        raise UnknownAdapterError(f"there is no store {store}; train one adapter and it appears")
    opened = Store(store)
    rows = []
    for name in opened.names():
        with suppress(UnknownAdapterError):  # it was deleted meanwhile, or its versions by hand
            rows.append({"name": name, **_summary_or_error(opened, name)})
    if as_json:
        typer.echo(json_text(rows))
        return
    from ..text_table import table

    typer.echo(
        table(
            ["name", "version", "task", "method", "backbone", "kB", "score"],
            [
                [row["name"], f"error: {row['error']}", *[""] * 5]
                if "error" in row
                else [
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


def inspect(
    adapter: Annotated[
        str,
        typer.Argument(
            metavar="ADAPTER",
            help="Name in the store, or folder.",
            autocompletion=complete_adapters,
        ),
    ],
    store: StoreOption = Path("adapters"),
    as_json: JsonOption = False,
) -> None:
    """Show the card of an adapter folder and its tensors."""
    from ..adapter.card import CARD, read_card, read_parent
    from ..adapter.folder import parent_folder
    from ..adapter.model_card import REPORT
    from ..adapter.references import find_folder
    from ..adapter.store import Store
    from ..adapter.weights import WEIGHTS, tensor_shapes

    folder = find_folder(adapter, Store(store))
    content: dict[str, Any] = {
        "folder": str(folder),
        "bytes": folder_bytes(folder),
        **(read_card(folder) if (folder / CARD).is_file() else {}),
        "tensors": tensor_shapes(folder / WEIGHTS),
    }
    if (folder / REPORT).is_dir():
        content["report"] = sorted(str(file) for file in (folder / REPORT).iterdir())
    if read_parent(folder) is not None:
        try:
            content["on_top_of"]["folder"] = str(parent_folder(folder, store))
        except AdapterError as error:  # the card is shown without it
            content["on_top_of"]["folder"] = str(error)
    if as_json:
        typer.echo(json_text(content))
        return
    from .card_text import card_text

    typer.echo(card_text(content))


def verify(
    target: Annotated[
        str, typer.Argument(metavar="STORE|ADAPTER", help="A store, or a name or folder.")
    ] = "adapters",
    store: StoreOption = Path("adapters"),
    trust: TrustOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check every version in a store, or one adapter, against its checksums.

    With --trust, the signatures are checked as well. The exit code is 1 if a file is missing,
    changed or not sound, or an adapter is not signed by a trusted key.
    """
    from ..adapter.peft_format import CONFIG
    from ..adapter.references import find_folder
    from ..adapter.remote_store import is_url
    from ..adapter.store import Store
    from ..adapter.trust import Trust

    rows: list[dict[str, Any]] = []
    path = Path(target)
    trusted = None if trust is None else Trust.read(trust)
    if is_url(target) or (path.is_dir() and not (path / CONFIG).is_file()):
        opened = Store(target, trust=trusted)
        for name in opened.names():
            try:
                references = [f"{name}@{number}" for number in opened.versions(name)[0]]
            except (AdapterkitError, OSError) as error:
                rows.append({"adapter": name, "faults": [str(error)]})
                continue
            rows += [
                {"adapter": reference, "faults": _faults(partial(opened.path, reference), opened)}
                for reference in references
            ]
    else:
        opened = Store(store, trust=trusted)
        folder = find_folder(target, opened)  # a name that does not exist is a user's error
        rows.append({"adapter": target, "faults": _faults(lambda: folder, opened)})
    if as_json:
        typer.echo(json_text(rows))
    else:
        lines = [f"{row['adapter']}: {'; '.join(row['faults']) or 'ok'}" for row in rows]
        typer.echo("\n".join(lines) or f"{target}: no adapters")
    if any(row["faults"] for row in rows):
        raise typer.Exit(1)


def _faults(find: Callable[[], Path], store: Store) -> list[str]:
    """What is wrong with the files of an adapter, with its signature, and with its card."""
    from ..adapter.card import CARD, read_card

    try:
        folder = find()
        faults = store.folder_faults(folder)
        if (folder / CARD).exists():
            read_card(folder)
    except (AdapterkitError, OSError) as error:
        return [str(error)]
    return faults


def _summary_or_error(store: Store, name: str) -> dict[str, Any]:
    """What `list` shows of an adapter; one that is broken must not hide the others.

    Raises:
        UnknownAdapterError: There is no such adapter, perhaps any more.
    """
    try:
        return _summary(store.find(name).folder)
    except UnknownAdapterError:
        raise
    except (AdapterkitError, OSError) as error:
        with suppress(AdapterError, OSError):
            store.versions(name)  # it may have been deleted while it was read
        return {"error": str(error)}


def _summary(folder: Path) -> dict[str, Any]:
    """What `list` shows of the latest version of an adapter."""
    from ..adapter.card import CardSummary

    card = CardSummary.read(folder)
    split, scores = card.last_scores
    metric = card.main_metric
    return {
        "version": folder.name,
        "folder": str(folder),
        "task": card.task,
        "method": card.method,
        "members": card.n_members,
        "on_top_of": card.parent,
        "backbone": card.backbone.name,
        "labels": card.labels,
        "bytes": card.n_bytes,
        "metrics": card.metrics,
        "score": f"{scores[metric]:.4f} {metric} ({split})" if metric in scores else None,
    }
