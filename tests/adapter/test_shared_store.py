"""Several publishers of one remote store: nothing is lost or mixed, also if some are killed."""

from __future__ import annotations

import importlib
import json
import os
import random
import re
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest

from adapterkit.adapter import lease
from adapterkit.adapter import remote_store as remote
from adapterkit.adapter.card import CARD
from adapterkit.adapter.checksums import SUMS
from adapterkit.adapter.lease import Lease
from adapterkit.adapter.peft_format import CONFIG
from adapterkit.adapter.shared_files import GcsFiles, LockedFiles, SharedFiles, shared_files
from adapterkit.adapter.store import Store
from adapterkit.adapter.weights import WEIGHTS
from adapterkit.errors import AdapterError, AdapterkitError, UnknownAdapterError
from adapterkit.names import ALIASES
from helpers.object_store import make_bucket, s3_server

NAME = "acme/intent"
KINDS = ["s3", "file", "memory"]
SLOW_ON_S3 = [pytest.param("s3", marks=pytest.mark.slow), "file"]

Work = Callable[[Store, int], object]
"""What a writer does with its own store object; it gets its number."""


def files_of(publisher: int, number: int) -> dict[str, bytes]:
    """An adapter folder: each file says who published it."""
    mark = json.dumps({"publisher": publisher, "number": number}).encode()
    return {CARD: mark, CONFIG: mark, WEIGHTS: mark * 50, "report/curve.csv": mark}


@pytest.fixture(scope="module")
def s3() -> Iterator[None]:
    """An S3 server of this machine."""
    importlib.import_module("s3fs")  # once, and not in each child process
    with s3_server() as variables, pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        yield
        fsspec.filesystem("s3").clear_instance_cache()


@pytest.fixture
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty store whose changes are seen without delay."""
    monkeypatch.setattr(remote, "FRESH", 0.0)
    kind = getattr(request, "param", "memory")
    if kind == "file":
        return f"file://{tmp_path}/bucket"
    bucket = f"{tmp_path.name.replace('_', '-').lower()}-{time.time_ns()}"[-60:].lstrip("-")
    if kind == "s3":
        request.getfixturevalue("s3")
        make_bucket(os.environ["AWS_ENDPOINT_URL"], bucket)
    return f"{kind}://{bucket}/adapters"


def fork(work: Callable[[], object]) -> int:
    """Starts work in a child process; returns its number."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return child


def side_by_side(url: str, folder: Path, *works: Work) -> None:
    """Does several works at the same time, in processes or (memory) threads, each with a cache."""

    def one(number: int) -> None:
        works[number](Store(url, folder / f"cache{number}"), number)

    if url.startswith("memory"):
        with ThreadPoolExecutor(len(works)) as threads:
            list(threads.map(one, range(len(works))))
        return
    children = [fork(lambda number=number: one(number)) for number in range(len(works))]  # type: ignore[misc]
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert codes == [0] * len(works)


def publisher(log: Path, count: int, name: str = NAME) -> Work:
    """Publishes some adapters, and logs the number of each."""

    def publish(store: Store, publisher: int) -> None:
        with (log / f"publisher{publisher}").open("a", buffering=1) as file:
            for number in range(count):
                version = store.publish_files(name, files_of(publisher, number))
                file.write(f"{publisher} {number} {version.number}\n")

    return publish


def logged(log: Path) -> dict[int, tuple[int, int]]:
    """Version to its publisher and number; fails if a version was given twice."""
    versions: dict[int, tuple[int, int]] = {}
    for file in log.glob("publisher*"):
        for line in file.read_text().splitlines():
            who, number, version = map(int, line.split())
            assert version not in versions
            versions[version] = (who, number)
    return versions


def contents(store: Store, name: str = NAME) -> dict[int, tuple[int, int]]:
    """Publisher and number of every version; fails if one is mixed, damaged or there twice."""
    found: dict[int, tuple[int, int]] = {}
    for version in store.versions(name)[0]:
        folder = store.path(f"{name}@{version}")
        assert store.verify(f"{name}@{version}") == []
        mark = json.loads((folder / CARD).read_bytes())
        expected = files_of(mark["publisher"], mark["number"])
        inside = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
        assert inside == {*expected, SUMS}
        assert all((folder / file).read_bytes() == content for file, content in expected.items())
        found[version] = (mark["publisher"], mark["number"])
    assert len(set(found.values())) == len(found)
    return found


@pytest.mark.parametrize("url", KINDS, indirect=True)
def test_publishers_at_the_same_time_lose_nothing(url: str, tmp_path: Path) -> None:
    side_by_side(url, tmp_path, publisher(tmp_path, 3), publisher(tmp_path, 3))
    published = logged(tmp_path)
    reader = Store(url, tmp_path / "reader")
    assert contents(reader) == published
    assert len(published) == 6
    assert reader.versions(NAME) == (list(range(1, 7)), {"latest": 6})
    assert reader.names() == [NAME]


@pytest.mark.parametrize("url", [*SLOW_ON_S3, "memory"], indirect=True)
def test_aliases_and_rollbacks_at_the_same_time_are_all_done(url: str, tmp_path: Path) -> None:
    n = 3
    side_by_side(url, tmp_path, publisher(tmp_path, 2 * n + 2))

    def change(store: Store, writer: int) -> None:
        for number in range(n):
            store.alias(NAME, f"w{writer}-{number}", number + 1)
            store.roll_back(NAME)

    side_by_side(url, tmp_path, change, change)
    aliases = Store(url, tmp_path / "reader").versions(NAME)[1]
    expected = {f"w{writer}-{number}": number + 1 for writer in (0, 1) for number in range(n)}
    assert aliases == {**expected, "latest": 2}


def start_publisher(url: str, folder: Path, publisher_number: int, count: int) -> int:
    """Publishes in a child process, whose number is returned; it logs to `folder/log`."""
    cache = folder / f"cache{min(publisher_number, 1000)}"
    work = publisher(folder / "log", count)
    return fork(lambda: work(Store(url, cache), publisher_number))


def kill_publishers(url: str, folder: Path, rounds: int, longest: float) -> None:
    """Kills publishers at random moments, each beside another that goes on."""
    rng, log = random.Random(0), folder / "log"
    log.mkdir()
    for number in range(rounds):
        victim = start_publisher(url, folder, 1000 + number, 1000)
        while not (log / f"publisher{1000 + number}").exists():
            time.sleep(0.001)
        time.sleep(rng.uniform(0, longest))
        other = start_publisher(url, folder, number, 2)
        time.sleep(rng.uniform(0, longest))
        os.kill(victim, signal.SIGKILL)
        os.waitpid(victim, 0)
        assert os.waitstatus_to_exitcode(os.waitpid(other, 0)[1]) == 0


@pytest.mark.parametrize("url", SLOW_ON_S3, indirect=True)
def test_a_killed_publisher_blocks_and_spoils_nothing(url: str, tmp_path: Path) -> None:
    check_kills(url, tmp_path, 3, 0.1)


def check_kills(url: str, folder: Path, rounds: int, longest: float) -> None:
    """All publications that were reported are there, complete, and the last one is the latest."""
    kill_publishers(url, folder, rounds, longest)
    published = logged(folder / "log")
    found = contents(Store(url, folder / "reader"))
    assert published.items() <= found.items()
    # A publisher may be killed between its publication and its line in the log.
    assert len(found) - len(published) <= rounds
    last = Store(url, folder / "last").publish_files(NAME, files_of(0, 0))
    assert last.number > max(found)
    assert Store(url, folder / "reader").versions(NAME)[1] == {"latest": last.number}


def test_what_is_not_complete_is_not_seen(url: str, tmp_path: Path) -> None:
    store = Store(url, tmp_path / "here")
    store.publish_files(NAME, files_of(0, 0))
    files = fsspec.filesystem("memory")
    home = url.removeprefix("memory:/") + f"/{NAME}"
    for name, content in files_of(0, 1).items():
        files.pipe_file(f"{home}/2/{name}", content)
    assert store.versions(NAME) == ([1], {"latest": 1})
    with pytest.raises(UnknownAdapterError, match="has no version '2'"):
        store.find(f"{NAME}@2")
    assert store.publish_files(NAME, files_of(0, 2)).number == 3
    assert Store(url, tmp_path / "there").versions(NAME) == ([1, 3], {"latest": 3})


def test_a_bucket_without_claims_is_continued(url: str, tmp_path: Path) -> None:
    store = Store(url, tmp_path / "here")
    store.publish_files(NAME, files_of(0, 0))
    files = fsspec.filesystem("memory")
    home = url.removeprefix("memory:/") + f"/{NAME}"
    files.rm_file(f"{home}/1/.claim")
    files.pipe_file(f"{home}/{ALIASES}", b'{"latest": 1}\n')
    assert store.publish_files(NAME, files_of(0, 1)).number == 2
    store.delete(NAME, 1)
    store.delete(NAME)
    assert store.names() == []
    assert store.publish_files(NAME, files_of(0, 2)).number == 3, "no number is used twice"


def test_a_slow_publisher_does_not_move_latest_back(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, fast = Store(url, tmp_path / "slow"), Store(url, tmp_path / "fast")
    files: SharedFiles = slow.remote.shared  # type: ignore[union-attr]
    put = files.put

    def put_late(path: str, content: bytes) -> None:
        if path.endswith(f"1/{SUMS}"):
            assert fast.publish_files(NAME, files_of(1, 0)).number == 2
        put(path, content)

    monkeypatch.setattr(files, "put", put_late)
    assert slow.publish_files(NAME, files_of(0, 0)).number == 1
    assert fast.versions(NAME) == ([1, 2], {"latest": 2})


def test_deleting_beside_publishing_leaves_no_alias_without_a_version(
    url: str, tmp_path: Path
) -> None:
    Store(url, tmp_path / "first").publish_files(NAME, files_of(9, 9))
    refusals: list[str] = []

    def often(change: Callable[[Store, int, int], object]) -> Work:
        def work(store: Store, writer: int) -> None:
            rng = random.Random(writer)
            for number in range(25):
                try:
                    change(store, writer * 100 + number, rng.randint(0, 20))
                except AdapterkitError as error:
                    refusals.append(str(error))

        return work

    publish = often(lambda store, number, _: store.publish_files(NAME, files_of(0, number)))
    delete = often(lambda store, _, version: store.delete(NAME, version or None))
    set_alias = often(lambda store, _, version: store.alias(NAME, "stable", version or None))
    side_by_side(url, tmp_path, publish, delete, set_alias, publish)
    store = Store(url, tmp_path / "reader")
    last = store.publish_files(NAME, files_of(8, 8)).number
    versions, aliases = store.versions(NAME)
    expected = "means; point|no version|no adapter|no alias|has just become|was deleted while"
    assert [text for text in refusals if not re.search(expected, text)] == []
    assert aliases["latest"] == last
    assert set(aliases.values()) <= set(versions)
    contents(store)


def test_a_number_is_a_version_or_a_name_but_not_both(url: str, tmp_path: Path) -> None:
    store = Store(url, tmp_path / "here")
    store.publish_files("acme/2", files_of(0, 0))
    assert store.publish_files("acme", files_of(0, 1)).number == 1
    assert store.publish_files("acme", files_of(0, 2)).number == 3
    with pytest.raises(AdapterError, match="is itself an adapter folder"):
        store.publish_files("acme/1", files_of(0, 3))
    with pytest.raises(AdapterError, match="is itself an adapter folder"):
        store.check_target("acme/3")
    assert store.names() == ["acme", "acme/2"]


def test_two_readers_of_one_cache_copy_a_version_at_the_same_time(url: str, tmp_path: Path) -> None:
    Store(url, tmp_path / "here").publish_files(NAME, files_of(0, 0))
    store = Store(url, tmp_path / "there")
    with ThreadPoolExecutor(8) as threads:
        folders = list(threads.map(lambda _: Store(url, tmp_path / "there").path(NAME), range(16)))
    assert set(folders) == {tmp_path / "there" / "acme" / "intent" / "1"}
    assert store.verify(NAME) == []


# Stores with other means.


def count_up(files: SharedFiles, path: str, times: int) -> None:
    """Adds one to the number in a file several times, beside others."""
    for _ in range(times):
        while True:
            before = files.read(path)
            number = 0 if before is None else int(before.content)
            if files.swap(path, f"{number + 1}".encode() + b" " * random.randint(0, 99), before):
                break


def test_a_lease_admits_one_writer_at_a_time(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    path = f"/{tmp_path.name}-lease/count"
    with ThreadPoolExecutor(3) as threads:
        for done in [
            threads.submit(count_up, LockedFiles(memory, Lease(memory)), path, 5) for _ in range(3)
        ]:
            done.result()
    assert int(memory.cat_file(path)) == 15
    assert memory.ls(f"/{tmp_path.name}-lease", detail=False) == [path]


def test_the_lease_of_a_killed_writer_expires(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "EXPIRY", 0.2)
    memory = fsspec.filesystem("memory")
    folder = f"/{tmp_path.name}-killed"
    memory.pipe_file(f"{folder}/{lease.PREFIX}dead", b"")
    count_up(LockedFiles(memory, Lease(memory)), f"{folder}/count", 1)
    assert memory.ls(folder, detail=False) == [f"{folder}/count"]


class Careless(type(fsspec.filesystem("memory"))):  # type: ignore[misc]
    """A store that accepts the protocol of S3, but ignores conditions."""

    protocol = "s3"

    def info(self, path: str, **_: object) -> Mapping[str, object]:
        return {**super().info(path), "ETag": "same"}

    def pipe_file(self, path: str, value: bytes, **_: object) -> None:
        super().pipe_file(path, value)


def test_a_store_that_ignores_conditions_is_used_with_leases(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = shared_files(Careless(), f"/{tmp_path.name}-careless")
    assert isinstance(files, LockedFiles)
    assert "ignores conditional writes" in caplog.text
    count_up(files, f"/{tmp_path.name}-careless/count", 2)


class Generations:
    """Objects with generations, as Google Cloud Storage has them behind gcsfs."""

    protocol = ("gs", "gcs")
    _location = "https://storage.googleapis.com"

    def __init__(self) -> None:
        self.objects: dict[str, tuple[bytes, int]] = {}

    def invalidate_cache(self) -> None:
        """Nothing is cached."""

    def info(self, path: str) -> dict[str, object]:
        if path not in self.objects:
            raise FileNotFoundError(path)
        return {"type": "file", "generation": str(self.objects[path][1])}

    def cat_file(self, path: str) -> bytes:
        return self.objects[path][0]

    def call(self, method: str, place: str, bucket: str, **options: object) -> None:
        assert (method, options["uploadType"]) == ("POST", "media")
        assert place == f"{self._location}/upload/storage/v1/b/{{}}/o"
        path, content = f"{bucket}/{options['name']}", options["data"]
        assert isinstance(content, bytes)
        now = self.objects.get(path, (b"", 0))[1]
        if str(now) != options["ifGenerationMatch"]:
            raise FileExistsError(path)
        self.objects[path] = (content, now + 10**15)


def test_google_cloud_storage_compares_generations() -> None:
    store = Generations()
    files = shared_files(store, "bucket/adapters")
    assert isinstance(files, GcsFiles)
    path = "bucket/adapters/acme/aliases.json"
    assert files.swap(path, b"1", None)
    before = files.read(path)
    assert not files.swap(path, b"other", None)
    assert files.swap(path, b"2", before)
    assert not files.swap(path, b"3", before)
    assert files.swap(path, b"2", before), "a write that was sent twice is one's own"
    assert store.objects[path][0] == b"2"


@pytest.mark.slow
@pytest.mark.parametrize("url", ["s3", "file"], indirect=True)
def test_500_publications_of_two_machines(url: str, tmp_path: Path) -> None:
    for number in range(5):  # names
        name, log = f"acme/task{number}", tmp_path / f"{number}"
        log.mkdir()
        side_by_side(url, tmp_path, publisher(log, 50, name), publisher(log, 50, name))
        reader = Store(url, tmp_path / "reader")
        assert contents(reader, name) == logged(log)
        assert reader.versions(name) == (list(range(1, 101)), {"latest": 100})


@pytest.mark.slow
@pytest.mark.parametrize("url", ["s3", "file"], indirect=True)
def test_50_publishers_are_killed(url: str, tmp_path: Path) -> None:
    check_kills(url, tmp_path, 50, 0.7)
