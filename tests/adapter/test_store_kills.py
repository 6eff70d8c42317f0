"""Processes that are killed while they publish or delete: nothing is lost, nothing stays behind."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import pytest

from adapterkit.adapter.card import CARD
from adapterkit.adapter.folder import adapter_files
from adapterkit.adapter.store import Store
from adapterkit.backbone.model import Backbone
from adapterkit.errors import UnknownAdapterError
from adapterkit.names import ALIASES
from helpers.adapters import MakeAdapter

ROOT = Path("shelf")
NAME = "acme/intent"
ROUNDS = 40

Files = Mapping[str, bytes]


@pytest.fixture(scope="module")
def files(tiny: Backbone, make_adapter: MakeAdapter) -> Files:
    return adapter_files(make_adapter(tiny), tiny.geometry)


def finishes_before(operation: int, work: Callable[[], object]) -> bool:
    """Whether work in a child process finishes; the child exits at its n-th file operation."""
    child = os.fork()
    if child == 0:
        n_events = [0]

        def count(event: str, _: object) -> None:
            if event.startswith(("open", "os.", "shutil.")):
                n_events[0] += 1
                if n_events[0] == operation:
                    os._exit(9)

        sys.addaudithook(count)
        try:
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def remains(folder: Path) -> list[str]:
    """Hidden files of a store besides its lock."""
    return sorted(p.name for p in folder.rglob(".*") if p.name != ".lock")


@pytest.mark.parametrize("version", [1, None])
def test_a_name_can_be_published_after_a_kill_at_any_step_of_its_deletion(
    files: Files, version: int | None
) -> None:
    for operation in range(1, 500, 3):
        store = Store(Path(str(operation)))
        for _ in range(2):
            store.publish_files(NAME, files)
        finished = finishes_before(operation, lambda: store.delete(NAME, version))  # noqa: B023
        published = Store(store.root).publish_files(NAME, files)
        assert Store(store.root).find(NAME) == published
        for number in Store(store.root).versions(NAME)[0]:
            assert store.verify(f"{NAME}@{number}") == []
        assert remains(store.root) == []
        if finished:
            break
    assert finished
    assert operation > 10


def test_a_deletion_that_was_killed_is_finished_by_deleting_again(files: Files) -> None:
    for operation in range(1, 500, 3):
        store = Store(Path(str(operation)))
        for _ in range(2):
            store.publish_files(NAME, files)
        if finishes_before(operation, lambda: store.delete(NAME)):  # noqa: B023
            break
        with suppress(UnknownAdapterError):  # all folders are renamed, and only removed now
            Store(store.root).delete(NAME)
        with pytest.raises(UnknownAdapterError):
            Store(store.root).find(NAME)
        assert list(store.root.rglob(CARD)) == []
    assert operation > 10


def test_nothing_is_lost_when_writers_are_killed_at_random(files: Files) -> None:
    rng, kept, n_published = random.Random(0), dict[str, set[int]](), 0
    for round_number in range(ROUNDS):
        name, seed = rng.choice(["acme/intent", "globex"]), rng.random()
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                publish_and_delete(name, files, random.Random(seed), write)
            finally:
                os._exit(1)
        os.close(write)
        # Every other child is killed after its first publication, however slow it is.
        begin = os.read(read, 1) if round_number % 2 else b""
        time.sleep(rng.random() * 0.05)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        with os.fdopen(read, "rb") as rest:
            for line in (begin + rest.read()).splitlines():
                number = int(line)
                n_published += number > 0
                kept[name] = kept.get(name, set()) | {number} if number else set()
        published = Store(ROOT).publish_files(name, files)
        kept.setdefault(name, set()).add(published.number)
        versions, aliases = Store(ROOT).versions(name)
        assert kept[name] <= set(versions)
        assert aliases == {"latest": published.number}
        assert [Store(ROOT).verify(f"{name}@{n}") for n in versions] == [[]] * len(versions)
    assert n_published >= ROUNDS // 2


def publish_and_delete(name: str, files: Files, rng: random.Random, log: int) -> None:
    """Publishes and deletes until killed; writes each number, and 0 before each deletion."""
    store = Store(ROOT)
    while True:
        os.write(log, f"{store.publish_files(name, files).number}\n".encode())
        if rng.random() < 0.5:
            os.write(log, b"0\n")
            store.delete(name)


def test_a_half_deleted_version_keeps_its_number(files: Files) -> None:
    store = Store(ROOT)
    for _ in range(2):
        store.publish_files(NAME, files)
    for file in (ROOT / NAME / "2").iterdir():
        if file.name != "report":
            file.unlink()
    assert store.publish_files(NAME, files).number == 3
    assert (ROOT / NAME / ALIASES).is_file()
