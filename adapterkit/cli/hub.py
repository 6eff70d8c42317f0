"""`adapterkit push` and `adapterkit pull`: adapters in repositories of the Hugging Face hub."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from .options import JsonOption, StoreOption, complete_adapters, json_text

log = logging.getLogger("adapterkit")

# As in the other commands, modules that need torch are imported inside them.


def push(
    adapter: Annotated[
        str,
        typer.Argument(
            metavar="ADAPTER",
            help="Name in the store, or folder.",
            autocompletion=complete_adapters,
        ),
    ],
    repository: Annotated[
        str, typer.Argument(metavar="USER/REPO", help="Repository of the hub, new or not.")
    ],
    store: StoreOption = Path("adapters"),
    private: Annotated[
        bool, typer.Option("--private", help="Create the repository as a private one.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Write an adapter to a model repository of the Hugging Face hub, as one commit.

    The token is that of `hf auth login` or of HF_TOKEN; HF_ENDPOINT names another hub.

    \b
    adapterkit push acme/intent my-name/intent
    """
    from ..adapter.card import read_parent
    from ..adapter.hub import HubRepository
    from ..adapter.references import find_folder
    from ..adapter.store import Store

    target = HubRepository.of(repository)
    folder = find_folder(adapter, Store(store))
    parent = read_parent(folder)
    address = target.upload(folder, "Adapter of adapterkit", private=private)
    if parent is not None:
        log.info(f"{adapter} stands on '{parent.name}', which its users need as well")
    if as_json:
        typer.echo(json_text({"repository": target.name, "commit": address}))
        return
    typer.echo(address)


def pull(
    repository: Annotated[
        str,
        typer.Argument(metavar="USER/REPO[@REVISION]", help="Repository, branch, tag or commit."),
    ],
    name: Annotated[
        str | None, typer.Option("--name", help="Its name in the store; its own if omitted.")
    ] = None,
    store: StoreOption = Path("adapters"),
    as_json: JsonOption = False,
) -> None:
    """Publish an adapter of the Hugging Face hub in the store, as the next version of its name.

    Its files are checked against its checksums. An adapter of PEFT comes in with
    `adapterkit import hf://user/repo`.

    \b
    adapterkit pull my-name/intent@main --name acme/intent
    """
    from ..adapter.card import CARD, read_card
    from ..adapter.hub import HUB, HubRepository, adapter_folder_files
    from ..adapter.store import Store
    from ..errors import AdapterError

    source, opened = HubRepository.of(repository), Store(store)
    if name is not None:
        opened.check_target(name)
    folder = source.download()
    if not (folder / CARD).is_file():
        raise AdapterError(
            f"{HUB}{source}: {CARD} is missing; an adapter of PEFT comes in with `adapterkit "
            f"import {HUB}{source} --name tenant/name`"
        )
    target = name or str(read_card(folder)["name"])
    published = opened.publish_files(target, adapter_folder_files(folder), read_card)
    if as_json:
        content = {"name": published.name, "version": published.number}
        typer.echo(json_text({**content, "folder": str(published.folder)}))
        return
    typer.echo(f"{published.folder}: {published.name}@{published.number} from {source}")
