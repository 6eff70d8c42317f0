"""Adapters in model repositories of the Hugging Face hub, through its own client.

The client finds the token of the user (`HF_TOKEN`, or that of `hf auth login`) and the address of
the hub (`HF_ENDPOINT`). Nothing of its messages is shown, since they may quote what was sent.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from .._version import __version__
from ..backbone.regular_file import check_regular_file
from ..errors import AdapterError, AdapterkitError
from ..names import PART
from .adapterhub_import import ADAPTERHUB_FILES
from .card import CARD
from .checksums import LARGEST_FILE, SIGNATURE, SUMS
from .folder_files import ALLOWED_FILES
from .peft_format import CONFIG
from .weights import MEMBERS, WEIGHTS

HUB = "hf://"
"""What stands before a repository where names and folders are accepted as well."""

REPOSITORY = re.compile(rf"(?!.*\.\.){PART}/{PART}")
REVISION = re.compile(r"(?!.*(?:\.\.|//))[A-Za-z0-9][A-Za-z0-9._/-]{0,127}")

PATTERNS = (
    *(CONFIG, WEIGHTS, CARD, SUMS, SIGNATURE, "README.md", "learning_curve.png"),
    *(f"{MEMBERS}/*.safetensors", "report/*"),
    *ADAPTERHUB_FILES,
)
"""The files that are downloaded; no pickled weights."""

REASONS = {
    "RepositoryNotFoundError": "there is no such repository, or you may not read it; "
    "`hf auth login` logs in",
    "RevisionNotFoundError": "there is no such branch, tag or commit",
    "GatedRepoError": "its owner grants access on request, and you have none",
    "OfflineModeIsEnabled": "HF_HUB_OFFLINE is set",
    "IncompleteSnapshotError": "the hub cannot be reached, and the local copy is not complete",
    "LocalEntryNotFoundError": "the hub cannot be reached, and there is no local copy",
}
"""What the client's errors mean, by their class."""

STATUSES = {
    401: "you are not logged in, or your token is not valid; `hf auth login` logs in",
    403: "your token does not allow it",
}
"""What an HTTP status means."""


@dataclass(frozen=True)
class HubRepository:
    """A model repository of the hub.

    Attributes:
        name: `user/repo`.
        revision: Branch, tag or commit; the main branch if it is None.
    """

    name: str
    revision: str | None = None

    def __str__(self) -> str:
        return self.name if self.revision is None else f"{self.name}@{self.revision}"

    @classmethod
    def of(cls, reference: str) -> Self:
        """A repository from `user/repo` or `user/repo@revision`.

        Raises:
            AdapterkitError: It is neither.
        """
        name, separator, revision = reference.partition("@")
        if not REPOSITORY.fullmatch(name):
            raise AdapterkitError(
                f"{reference!r:.200} is not a repository of the hub: expected user/repo or "
                "user/repo@revision"
            )
        if separator and not REVISION.fullmatch(revision):
            raise AdapterkitError(
                f"{reference!r:.200}: {revision!r:.130} is not a branch, tag or commit"
            )
        return cls(name, revision if separator else None)

    def download(self) -> Path:
        """The folder with a local copy of the repository's adapter, in the client's cache.

        Raises:
            AdapterError: There is no such repository, or the hub cannot be reached.
        """
        with self._as_adapter_error():
            folder = _client().snapshot_download(
                self.name, revision=self.revision, allow_patterns=list(PATTERNS)
            )
        if not (Path(folder) / CONFIG).is_file():
            raise AdapterError(f"{HUB}{self}: not an adapter, {CONFIG} is missing")
        return Path(folder)

    def upload(self, folder: Path, message: str, *, private: bool = False) -> str:
        """Writes an adapter folder to the repository in one commit, and creates it if need be.

        Files of an earlier adapter that this one has not are removed; others stay.

        Args:
            folder: The adapter folder.
            message: Of the commit.
            private: Whether the repository must be private, as which it is created. If not, a new
                one has the visibility that its owner's repositories have by default.

        Returns:
            The address of the commit.

        Raises:
            AdapterError: The hub refuses it, or cannot be reached.
        """
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        files = adapter_folder_files(folder)
        api = _client()
        operations: list[Any] = [CommitOperationAdd(name, files[name]) for name in sorted(files)]
        with self._as_adapter_error():
            api.create_repo(self.name, private=private or None, exist_ok=True)
            is_public = private and not api.model_info(self.name).private
        if is_public:
            raise AdapterError(
                f"{HUB}{self}: is there already and public; make it private on the hub, or leave "
                "out --private"
            )
        with self._as_adapter_error():
            for name in api.list_repo_files(self.name, revision=self.revision):
                if ALLOWED_FILES.fullmatch(name) and name not in files:
                    operations.append(CommitOperationDelete(name))
            commit = api.create_commit(
                self.name, operations, commit_message=message, revision=self.revision
            )
        return str(commit.commit_url)

    @contextmanager
    def _as_adapter_error(self) -> Iterator[None]:
        """Turns whatever the client raises into one line without its message.

        Raises:
            AdapterError: In place of it.
        """
        try:
            yield
        except Exception as error:  # the client raises many kinds, its own and its transport's
            raise AdapterError(f"{HUB}{self}: {_reason(error)}") from None


def _client() -> Any:
    from huggingface_hub import HfApi

    return HfApi(library_name="adapterkit", library_version=__version__)


def _reason(error: BaseException) -> str:
    """Why the client failed, by its error or the causes of it, and without its message."""
    cause: BaseException | None = error
    while cause is not None:
        status = getattr(getattr(cause, "response", None), "status_code", None)
        known = REASONS.get(type(cause).__name__) or STATUSES.get(status or 0)
        if known is not None:
            return known
        detail = type(cause).__name__ if status is None else f"HTTP status {status}"
        cause = cause.__cause__
    return f"the hub could not be asked ({detail})"


def adapter_folder_files(folder: Path) -> dict[str, bytes]:
    """The files of an adapter folder that adapterkit knows, name to content.

    Raises:
        AdapterError: One is not a regular file, or is too large.
    """
    files = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if ALLOWED_FILES.fullmatch(name) and not path.is_dir():
            check_regular_file(path, LARGEST_FILE, AdapterError)
            files[name] = path.read_bytes()
    return files
