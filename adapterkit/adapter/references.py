"""What a user may name an adapter by: a folder, a repository of a hub, or a name in a store."""

from __future__ import annotations

from collections.abc import Sequence
from os.path import isdir, isfile, join
from pathlib import Path

from ..backbone.embedded import EMBEDDED
from ..errors import UnknownAdapterError
from ..names import BASE
from .card import backbone_of
from .hub import HUB, HubRepository
from .peft_format import CONFIG
from .store import Store


def find_folder(reference: str, store: Store) -> Path:
    """The folder of an adapter that a user names: the folder itself, a local copy of a repository
    of the Hugging Face hub (`hf://user/repo@revision`), else a name in the store.

    Raises:
        UnknownAdapterError: It is none of them.
        AdapterError: The repository cannot be downloaded.
    """
    if reference.startswith(HUB):
        return HubRepository.of(reference.removeprefix(HUB)).download()
    if isfile(join(reference, CONFIG)):  # os.path: a text too long for a path is not one
        return Path(reference)
    is_path = reference.startswith((".", "/"))
    if is_path or (isdir(reference) and not isdir(store.root / reference)):
        raise UnknownAdapterError(f"{reference}: not an adapter folder, {CONFIG} is missing")
    return store.path(reference)


def backbone_name(references: Sequence[str], store: Store, chosen: str | None = None) -> str:
    """Name of the backbone to load for some adapters: that on which the first one was trained.

    Args:
        references: Adapters as in `find_folder`, or `base` for the plain backbone; every one is
            looked up.
        store: The store.
        chosen: The backbone that the user names, which is taken then.

    Returns:
        The name; that of the embedded backbone if there is no adapter.

    Raises:
        UnknownAdapterError: One of them is no adapter.
        AdapterError: Its card is garbled, or it is a folder of PEFT that names no base model.
    """
    folders = [find_folder(reference, store) for reference in references if reference != BASE]
    return chosen or (backbone_of(folders[0]) if folders else EMBEDDED)
