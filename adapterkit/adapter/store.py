"""A store: named adapters in a folder, with every version that was published.

`tenant/name/1/`, `tenant/name/2/`, ... are adapter folders. A version appears completely or not at
all, and then the alias `latest` is moved. Readers look into `store_index.py`; who writes a folder
is in `local_writer.py`, and who writes a bucket in `remote_writer.py`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

from ..atomic import file_digest
from ..backbone.geometry import Geometry
from ..errors import AdapterError, AdapterkitError, UnknownAdapterError, did_you_mean
from ..names import check_name
from .adapter import Adapter
from .alias_changes import pointed, promoted, rolled_back, rolled_out
from .aliases import LATEST, main_version
from .card import read_parent
from .checksums import checksum_errors, folder_digest, read_sums, with_checksums
from .folder import SignatureCheck, adapter_files
from .local_writer import LocalWriter
from .remote_store import Remote, is_url
from .remote_writer import RemoteWriter
from .rollout import Rollout
from .stacking import ParentRef
from .store_index import StoreIndex, Version
from .store_writer import StoreWriter
from .trust import Trust, check_version
from .weights import WEIGHTS

CHECKPOINTS = ".checkpoints"
"""Folder of a store for trainings that have not published their adapter yet."""

LOGS = ".logs"
"""Folder of a store for the logs of such trainings."""

PARTIAL_RESULTS = ".partial-results"
"""Folder of a store for comparisons and cross-validations that have not ended yet."""


class Store:
    """Adapters by name in a folder, or under a URL with local copies of those that were used.

    Any number of threads and processes may read and write at the same time; under a URL, also on
    several machines.

    Args:
        root: The folder, which is created with the first adapter, or any fsspec URL
            (`s3://bucket/adapters`).
        cache: Folder of the local copies of a URL; one in the user's cache if omitted.
        trust: Keys that may sign; versions without their signature are neither published nor
            loaded. If omitted, signatures are not read.
    """

    def __init__(
        self, root: str | Path, cache: str | Path | None = None, trust: Trust | None = None
    ) -> None:
        self.remote = Remote(str(root)) if is_url(str(root)) else None
        self.root = Path(root) if self.remote is None else self.remote.cache(cache)
        self.display_name = str(root)
        self.trust = trust
        self.check_signature: SignatureCheck | None = (
            None if trust is None else partial(check_version, trust, self.root)
        )
        self._index = StoreIndex(self.root, self.remote)
        self._writer: StoreWriter = (
            LocalWriter(self._index)
            if self.remote is None
            else RemoteWriter(self._index, self.remote)
        )

    @property
    def n_cached(self) -> int:
        """Names whose aliases and versions are cached."""
        return self._index.n_cached

    def publish(self, adapter: Adapter, geometry: Geometry) -> Path:
        """Saves an adapter as the next version of its name and makes it `latest`.

        The checkpoints of its training are removed, and the log, which is in the version's folder.

        Args:
            adapter: The adapter.
            geometry: Its backbone's.

        Returns:
            The version's folder.

        Raises:
            AdapterError: It cannot be written, or its parent is not in this store. The store is
                unchanged then.
        """
        check: Callable[[Path], object] | None = None
        if adapter.on_top_of is not None:
            parent = ParentRef.of(adapter.on_top_of)
            self.parent_folder(parent)
            # Once more while nobody else writes to the folder, so that it is not deleted meanwhile.
            check = partial(self._check_parent, parent)
        files = adapter_files(adapter, geometry)
        published = self.publish_files(adapter.name, files, check).folder
        for folder in self.checkpoint_dir(adapter.name).parent.glob("member=*"):
            self.discard(folder)
        self.discard(self.log_file(adapter.name))
        return published

    def publish_files(
        self,
        name: str,
        files: Mapping[str, bytes],
        check: Callable[[Path], object] | None = None,
    ) -> Version:
        """Publishes the files of an adapter folder as the next version, and makes it `latest`.

        Args:
            name: The adapter's name.
            files: Name in the folder to content.
            check: Called with the written folder before it gets its name. If it raises, nothing is
                published.

        Raises:
            AdapterError: It cannot be written, or no key that the store trusts has signed it. The
                store is unchanged then.
        """
        checks = partial(self._check_draft, name, check)
        return self._writer.publish(name, with_checksums(files), checks)

    def _check_draft(
        self, name: str, check: Callable[[Path], object] | None, draft: Path, number: int
    ) -> None:
        """Checks the folder of a new version before it gets its name."""
        if self.trust is not None:
            self.trust.check(draft, name, number, read_sums(draft))
        if check is not None:
            check(draft)

    def _check_parent(self, parent: ParentRef, draft: Path) -> None:
        """Checks, for the folder of a new version, that its parent is in the store.

        Raises:
            AdapterError: No version has its weights.
        """
        self.parent_folder(parent)

    def alias(self, name: str, alias: str, version: int | None) -> None:
        """Points an alias at a version, or removes it.

        Args:
            name: The adapter's name.
            alias: The alias, such as `stable`; `latest` cannot be removed.
            version: The version; None removes the alias.

        Raises:
            AdapterkitError: The alias is not a valid one.
            UnknownAdapterError: There is no such adapter, version or alias.
        """
        self._writer.change_aliases(name, pointed(name, alias, version))

    def roll_out(self, name: str, alias: str, rollout: Rollout) -> None:
        """Lets an alias mean several versions while a new one is tried.

        Args:
            name: The adapter's name.
            alias: The alias, which may be new; not `latest`, which every publication moves.
            rollout: The versions.

        Raises:
            AdapterkitError: The alias is not a valid one.
            UnknownAdapterError: There is no such adapter or version.
        """
        self._writer.change_aliases(name, rolled_out(name, alias, rollout))

    def promote(
        self, name: str, alias: str, version: int | None = None, only: Rollout | None = None
    ) -> Version:
        """Ends a rollout: from now on the alias means one of its versions alone.

        Args:
            name: The adapter's name.
            alias: The alias.
            version: The version; if None, the only one beside the main version.
            only: End this rollout and no other; if None, whatever the alias means now.

        Raises:
            AdapterkitError: There is no rollout of the alias, or another one than `only`, or it has
                no such version.
            UnknownAdapterError: There is no such adapter.
        """
        self._writer.change_aliases(name, promoted(name, alias, version, only))
        return self.find(f"{name}@{alias}")

    def roll_back(self, name: str, alias: str = LATEST) -> Version:
        """Ends the rollout of an alias at its main version. An alias without a rollout, such as
        `latest`, is pointed at the version before. No version is deleted.

        Raises:
            UnknownAdapterError: There is no such adapter or alias, or no earlier version.
        """
        self._writer.change_aliases(name, rolled_back(name, alias))
        return self.find(f"{name}@{alias}")

    def delete(self, name: str, version: int | None = None) -> None:
        """Deletes a version, or a name with all its versions.

        Deleting a name again finishes a deletion that was interrupted.

        Args:
            name: The adapter's name.
            version: Its number; None deletes them all.

        Raises:
            UnknownAdapterError: There is no such adapter or version.
            AdapterkitError: An alias still points to the version, or it is the parent of another
                adapter in this store (a remote store is not searched).
        """
        self._writer.delete(name, version)

    def verify(self, reference: str) -> list[str]:
        """What is wrong with the files of a version, and with its signature (`folder_faults`).

        Raises:
            UnknownAdapterError: There is no such adapter.
        """
        return self.folder_faults(self.find(reference).folder)

    def folder_faults(self, folder: Path) -> list[str]:
        """Differences between a version's files and the checksums of its publication, and what is
        wrong with its signature if the store has a trust file."""
        faults = checksum_errors(folder)
        if self.check_signature is not None:
            try:
                self.check_signature(folder, read_sums(folder))
            except AdapterError as error:
                faults.append(str(error))
        return faults

    def check_target(self, name: str) -> None:
        """Checks that an adapter can be published under a name, before it is trained.

        Raises:
            AdapterkitError: The name is not valid.
            AdapterError: There is something that is not part of a store or not a folder, or it
                cannot be written to.
        """
        self._writer.check_target(name)

    def checkpoint_dir(self, name: str, member: int = 0) -> Path:
        """The folder for the checkpoints of a training, or of one member of an ensemble, counted
        from 0. No name of an adapter has a dot in front or an equals sign."""
        return self.root / CHECKPOINTS / check_name(name) / f"member={member}"

    def partial_results_dir(self, command: str, name: str) -> Path:
        """The folder for what a command has computed of several trainings of a recipe."""
        parts = [command, *check_name(name).split("/")]
        return self.root / PARTIAL_RESULTS / "=".join(parts)

    def discard(self, path: Path) -> None:
        """Removes such a folder or a file, and the folders above it that are empty then, up to the
        store itself."""
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        for parent in path.parents:
            with suppress(OSError):  # it is not there, or not empty
                parent.rmdir()
            if parent == self.root:
                break

    def log_file(self, name: str) -> Path:
        """The file for the log of a training, until its adapter is published with the log."""
        return self.root / LOGS / f"{check_name(name)}.jsonl"

    def find(self, reference: str, position: float | None = None) -> Version:
        """The version that `name`, `name@version` or `name@alias` means; `name` is `@latest`.

        Args:
            reference: The reference.
            position: The place of a caller in a rollout (`Rollout.choose`); if None, a rollout
                means its main version.

        Raises:
            AdapterkitError: The name is not valid.
            UnknownAdapterError: There is no such adapter or version. The message names no other
                adapter, since tenants may see it.
        """
        name, at, wanted = reference.partition("@")
        index = self._index.of(name)
        wanted = wanted if at else LATEST
        number = index.number(wanted, position)
        if number == 0:
            known = [a for a, one in index.aliases.items() if main_version(one) in index.versions]
            known += map(str, sorted(index.versions))
            raise UnknownAdapterError(
                f"'{name}' has no version '{wanted}'; {did_you_mean(wanted, known)}"
            )
        if number not in index.found:
            folder = self.root / name / str(number)
            if self.remote is not None:
                self.remote.pull(f"{name}/{number}", folder)
            index.found[number] = Version(name, number, folder, folder_digest(folder))
            parent = read_parent(folder) if self.remote is not None else None
            if parent is not None:  # it is searched beside the folder, so a local copy is needed
                with suppress(AdapterkitError):
                    self.parent_folder(parent)
        return index.found[number]

    def known(self, reference: str, position: float | None = None) -> Version | None:
        """The version that `find` last returned for a reference, without a look at the store."""
        name, at, wanted = reference.partition("@")
        index = self._index.known(name)
        if index is None:
            return None
        return index.found.get(index.number(wanted if at else LATEST, position))

    def known_rollout(self, reference: str) -> Rollout | None:
        """The rollout that `name@alias` meant at the last look at the store; None for a single
        version."""
        name, _, alias = reference.partition("@")
        index = self._index.known(name)
        return None if index is None else index.rollout(alias)

    def rollouts(self, name: str) -> dict[str, Rollout]:
        """The rollouts of a name by alias.

        Raises:
            AdapterkitError: The name is not valid.
            UnknownAdapterError: There is no such adapter.
        """
        aliases = self._index.of(name).aliases
        return {alias: one for alias, one in aliases.items() if isinstance(one, Rollout)}

    def parent_folder(self, parent: ParentRef) -> Path:
        """The folder of an adapter's parent.

        Raises:
            AdapterError: No version has those weights.
        """
        if self.remote is not None:
            for number in reversed(self.versions(parent.name)[0]):
                folder = self.find(f"{parent.name}@{number}").folder
                if file_digest(folder / WEIGHTS) == parent.digest:
                    return folder
        return parent.find([self.root])

    def path(self, reference: str) -> Path:
        """The folder of a reference; for an unknown name the error suggests the nearest one.

        Raises:
            AdapterkitError: The name is not valid.
            UnknownAdapterError: There is no such adapter or version.
        """
        try:
            return self.find(reference).folder
        except UnknownAdapterError:
            name, names = reference.partition("@")[0], self.names()
            if name in names:
                raise
            hint = did_you_mean(name, names) if names else "it holds none; is --store right?"
            raise UnknownAdapterError(
                f"there is no adapter '{name}' in the store {self.display_name}; {hint}"
            ) from None

    def names(self) -> list[str]:
        """Names of all adapters in the store, at the cost of one `stat` each."""
        return self._index.names()

    def versions(self, name: str) -> tuple[list[int], dict[str, int]]:
        """The versions of a name, ascending, and the version that each alias means; of a rollout,
        its main version.

        Raises:
            AdapterkitError: The name is not valid.
            UnknownAdapterError: There is no such adapter.
        """
        index = self._index.of(name)
        aliases = {alias: main_version(target) for alias, target in index.aliases.items()}
        return sorted(index.versions), aliases
