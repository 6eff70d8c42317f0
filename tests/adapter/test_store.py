"""The store: immutable versions, movable aliases, and names that never lead out of the folder."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from adapterkit.adapter import remote_store as remote
from adapterkit.adapter.adapter import Adapter
from adapterkit.adapter.card import CARD
from adapterkit.adapter.checksums import SUMS
from adapterkit.adapter.folder import load_adapter, save_adapter
from adapterkit.adapter.peft_format import CONFIG
from adapterkit.adapter.references import find_folder
from adapterkit.adapter.store import Store
from adapterkit.adapter.weights import WEIGHTS
from adapterkit.backbone.model import Backbone
from adapterkit.errors import AdapterError, AdapterkitError, UnknownAdapterError
from adapterkit.names import ALIASES
from helpers.adapters import MakeAdapter
from helpers.command_line import run_command

ROOT = Path("shelf")

BAD_NAMES = [
    "",
    ".",
    "..",
    "../intent",
    "acme/..",
    "acme/../intent",
    "acme/in..tent",
    "/etc/passwd",
    "acme//intent",
    "acme/intent/",
    "/acme",
    "acme/team/intent",
    "~/intent",
    ".hidden",
    "acme/.hidden",
    "-option",
    "acme\\intent",
    "C:\\intent",
    "my intent",
    "intent\n",
    "intent\0",
    "intent;rm",
    "in*tent",
    "ácme/intent",
    "银行",
    "a" * 65,
    "base",
]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file under a folder, by path."""
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="session")
def two_versions(
    tiny: Backbone, make_adapter: MakeAdapter, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    root = tmp_path_factory.mktemp("shelf")
    for seed in (1, 2):
        Store(root).publish(make_adapter(tiny, seed=seed), tiny.geometry)
    Store(root).publish(make_adapter(tiny, name="globex", labels=("envío", "银行")), tiny.geometry)
    return root


@pytest.fixture
def store(two_versions: Path) -> Store:
    """A copy for one test: `acme/intent` in two versions and `globex` in one."""
    shutil.copytree(two_versions, ROOT)
    return Store(ROOT)


def equal_weights(first: Adapter, second: Adapter) -> bool:
    return all(
        torch.equal(tensor, expected[name])
        for actual, expected in ((first.tensors, second.tensors), (first.head, second.head))
        for name, tensor in actual.items()
    )


def test_a_loaded_adapter_equals_the_published_one(
    store: Store, tiny: Backbone, make_adapter: MakeAdapter
) -> None:
    for reference, seed in (("acme/intent@1", 1), ("acme/intent@2", 2), ("acme/intent", 2)):
        adapter = load_adapter(store.path(reference), tiny)
        assert equal_weights(adapter, make_adapter(tiny, seed=seed))
        assert adapter.name == "acme/intent"
    labels = load_adapter(store.path("globex"), tiny).task.labels  # type: ignore[attr-defined]
    assert labels == ("envío", "银行")


def test_publishing_leaves_earlier_versions_unchanged(
    store: Store, tiny: Backbone, make_adapter: MakeAdapter
) -> None:
    before = contents(ROOT)
    aliases = str(ROOT / "acme/intent" / ALIASES)
    assert json.loads(before.pop(aliases)) == {"latest": 2}
    folder = store.publish(make_adapter(tiny, seed=3), tiny.geometry)
    assert folder == ROOT / "acme/intent/3"
    after = contents(ROOT)
    assert json.loads(after[aliases]) == {"latest": 3}
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) - {aliases} == set(contents(folder))


def test_publishing_the_first_adapter_creates_the_store(
    tiny: Backbone, make_adapter: MakeAdapter
) -> None:
    store = Store("deep/down/shelf")
    assert store.names() == []
    assert store.publish(make_adapter(tiny), tiny.geometry) == store.path("acme/intent@1")
    assert store.names() == ["acme/intent"]
    assert sorted(p.name for p in (store.root / "acme/intent").iterdir()) == ["1", ALIASES]


def test_names_are_listed_in_order(store: Store, tiny: Backbone, make_adapter: MakeAdapter) -> None:
    store.publish(make_adapter(tiny, name="acme/billing"), tiny.geometry)
    store.publish(make_adapter(tiny, name="acme"), tiny.geometry)
    assert store.names() == ["acme", "acme/billing", "acme/intent", "globex"]


@pytest.mark.parametrize(
    ("reference", "folder"),
    [
        ("acme/intent", "acme/intent/2"),
        ("acme/intent@latest", "acme/intent/2"),
        ("acme/intent@2", "acme/intent/2"),
        ("acme/intent@1", "acme/intent/1"),
        ("acme/intent@stable", "acme/intent/1"),
        ("globex", "globex/1"),
        ("globex@latest", "globex/1"),
    ],
)
def test_a_reference_is_a_name_and_an_optional_version(
    store: Store, reference: str, folder: str
) -> None:
    (ROOT / "acme/intent" / ALIASES).write_text('{"latest": 2, "stable": 1}')
    assert store.path(reference) == ROOT / folder
    assert find_folder(reference, store) == ROOT / folder


def test_publishing_keeps_other_aliases(
    store: Store, tiny: Backbone, make_adapter: MakeAdapter
) -> None:
    (ROOT / "acme/intent" / ALIASES).write_text('{"latest": 2, "stable": 1}')
    store.publish(make_adapter(tiny), tiny.geometry)
    assert store.path("acme/intent@stable") == ROOT / "acme/intent/1"
    assert store.path("acme/intent") == ROOT / "acme/intent/3"


def test_versions_are_ordered_as_numbers(
    store: Store, tiny: Backbone, make_adapter: MakeAdapter
) -> None:
    for version in (9, 10):
        shutil.copytree(ROOT / "globex/1", ROOT / f"globex/{version}")
    assert store.publish(make_adapter(tiny, name="globex"), tiny.geometry).name == "11"
    assert store.path("globex").name == "11"


def test_only_complete_adapters_are_versions(
    store: Store, tiny: Backbone, make_adapter: MakeAdapter
) -> None:
    folder = ROOT / "acme/intent"
    for name in ("7", ".saving-x", "notes", "007", "0"):
        (folder / name).mkdir()
    (folder / "8").write_text("a file")
    (folder / "007" / CARD).write_text("{}")
    with pytest.raises(UnknownAdapterError, match="'acme/intent' has no version '7'"):
        store.path("acme/intent@7")
    assert store.publish(make_adapter(tiny), tiny.geometry).name == "9", "8 is taken"


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("acme/intnt", "no adapter 'acme/intnt' in the store shelf; did you mean 'acme/intent'?"),
        ("glob", "there is no adapter 'glob' in the store shelf; did you mean 'globex'?"),
        ("acme", "there is no adapter 'acme' in the store shelf; valid are: acme/intent, globex"),
        ("zzz@latest", "there is no adapter 'zzz' in the store shelf; valid are: acme/intent, gl"),
        ("acme/intent@3", "'acme/intent' has no version '3'; valid are: 1, 2, latest"),
        ("acme/intent@0", "'acme/intent' has no version '0'; valid are: 1, 2, latest"),
        ("acme/intent@01", "'acme/intent' has no version '01'; "),
        ("acme/intent@-1", "'acme/intent' has no version '-1'; "),
        ("acme/intent@", "'acme/intent' has no version ''; valid are: 1, 2, latest"),
        ("acme/intent@latst", "'acme/intent' has no version 'latst'; did you mean 'latest'?"),
        ("acme/intent@1@2", "'acme/intent' has no version '1@2'; "),
        ("acme/intent@../../globex/1", "'acme/intent' has no version '../../globex/1'; "),
        ("acme/intent@²", "'acme/intent' has no version '²'; "),
    ],
)
def test_an_unknown_reference_names_the_nearest_or_all_valid_ones(
    store: Store, reference: str, message: str
) -> None:
    for find in (store.path, lambda name: find_folder(name, store)):
        with pytest.raises(UnknownAdapterError) as caught:
            find(reference)
        assert message in str(caught.value)


def test_an_empty_store_is_named_in_the_error() -> None:
    message = "no adapter 'acme/intent' in the store nowhere; it holds none; is --store right?"
    with pytest.raises(UnknownAdapterError, match=message.replace("?", r"\?")):
        Store("nowhere").path("acme/intent")


@pytest.mark.parametrize("name", BAD_NAMES, ids=repr)
def test_a_bad_name_never_becomes_a_path(
    store: Store, tiny: Backbone, make_adapter: MakeAdapter, name: str
) -> None:
    before = contents(Path())
    with pytest.raises(AdapterkitError, match=r"not an adapter name|cannot be called 'base'"):
        store.path(name)
    with pytest.raises(AdapterkitError, match=r"not an adapter name|cannot be called 'base'"):
        store.publish(make_adapter(tiny, name=name), tiny.geometry)
    with pytest.raises(AdapterkitError):
        find_folder(name, store)
    assert contents(Path()) == before


def test_a_folder_is_found_by_any_path(
    store: Store, tiny: Backbone, make_adapter: MakeAdapter
) -> None:
    loose = save_adapter(make_adapter(tiny), "loose", tiny.geometry)
    for path in ("loose", "./loose", str(loose.resolve()), "shelf/acme/intent/1"):
        assert find_folder(path, store).samefile(path)


def test_a_folder_comes_before_a_name(
    store: Store, tiny: Backbone, make_adapter: MakeAdapter
) -> None:
    save_adapter(make_adapter(tiny), "globex", tiny.geometry)
    assert find_folder("globex", store) == Path("globex")
    Path("globex", CONFIG).unlink()
    assert find_folder("globex", store) == ROOT / "globex/1"


@pytest.mark.parametrize(
    "reference", ["./no", "/no/such", ".", "..", "shelf", "shelf/acme", "empty"]
)
def test_a_folder_that_is_not_an_adapter_is_an_error(store: Store, reference: str) -> None:
    Path("empty").mkdir()
    with pytest.raises(UnknownAdapterError, match="not an adapter folder") as caught:
        find_folder(reference, store)
    assert str(caught.value) == f"{reference}: not an adapter folder, {CONFIG} is missing"


def test_a_text_in_place_of_a_name_is_an_error(store: Store) -> None:
    with pytest.raises(AdapterkitError, match="is not an adapter name"):
        find_folder("I lost my card. " * 40, store)


def test_an_adapter_cannot_be_published_inside_another(
    store: Store, tiny: Backbone, make_adapter: MakeAdapter
) -> None:
    before = contents(Path())
    cases = [
        (store, "globex/1"),  # inside version 1 of globex
        (Store(ROOT / "globex/1"), "a"),
        (Store(ROOT / "globex"), "1/a"),
    ]
    for shelf, name in cases:
        with pytest.raises(AdapterError, match="globex/1: is itself an adapter folder, not part"):
            shelf.publish(make_adapter(tiny, name=name), tiny.geometry)
    assert contents(Path()) == before


def test_names_that_look_like_versions_are_passed_over(
    tiny: Backbone, make_adapter: MakeAdapter
) -> None:
    store = Store(ROOT)
    for name in ("acme/1", "acme/3", "acme/999999999"):
        store.publish(make_adapter(tiny, name=name), tiny.geometry)
    numbers = [store.publish(make_adapter(tiny, name="acme"), tiny.geometry).name for _ in "ab"]
    assert numbers == ["2", "4"]
    assert store.versions("acme") == ([2, 4], {"latest": 4})
    store.delete("acme")
    assert store.names() == ["acme/1", "acme/3", "acme/999999999"]


@pytest.mark.parametrize("taken", ["shelf", "shelf/acme", "shelf/acme/intent"])
def test_a_file_in_place_of_a_folder_is_an_error(
    tiny: Backbone, make_adapter: MakeAdapter, taken: str
) -> None:
    Path(taken).parent.mkdir(parents=True, exist_ok=True)
    Path(taken).write_text("mine")
    before = contents(Path())
    with pytest.raises(AdapterError, match=f"^{taken}: not a folder that can be written to"):
        Store(ROOT).publish(make_adapter(tiny), tiny.geometry)
    assert contents(Path()) == before


def test_a_folder_in_place_of_the_alias_file_is_an_error(
    tiny: Backbone, make_adapter: MakeAdapter
) -> None:
    (ROOT / "acme/intent" / ALIASES).mkdir(parents=True)
    with pytest.raises(AdapterError, match=r"aliases\.json: cannot be written"):
        Store(ROOT).publish(make_adapter(tiny), tiny.geometry)
    assert [p.name for p in (ROOT / "acme/intent").iterdir() if p.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "aliases.json: not readable as JSON"),
        ("[1]", "aliases.json: expected a JSON object"),
        ('{"latest": "two"}', 'aliases.json: expected version numbers, such as {"latest": 1}'),
        ('{"latest": null}', "aliases.json: expected version numbers"),
        ('{"latest": [2]}', "aliases.json: expected version numbers"),
        ('{"latest": 9}', "'acme/intent' has no version 'latest'; valid are: 1, 2"),
        ('{"latest": -1, "stable": 1}', "has no version 'latest'; valid are: 1, 2, stable"),
        ("{}", "'acme/intent' has no version 'latest'; valid are: 1, 2"),
    ],
)
def test_a_damaged_alias_file_is_an_error(store: Store, content: str, message: str) -> None:
    (ROOT / "acme/intent" / ALIASES).write_text(content)
    with pytest.raises(AdapterkitError) as caught:
        store.path("acme/intent")
    assert message in str(caught.value)
    assert store.path("globex").is_dir(), "other adapters are still found"


def test_folders_that_only_look_like_adapters_are_not_listed(store: Store) -> None:
    for name in ("acme/my intent", "acme/.trash", "acme/gone"):
        (ROOT / name).mkdir(parents=True)
        (ROOT / name / ALIASES).write_text('{"latest": 1}')
    shutil.copytree(ROOT / "globex/1", ROOT / "acme/my intent/1")
    (ROOT / "acme/plain").mkdir()
    assert store.names() == ["acme/gone", "acme/intent", "globex"]
    with pytest.raises(UnknownAdapterError):  # its versions were deleted by hand
        store.find("acme/gone")
    listed = run_command("list", ROOT, "--json").json
    assert [row["name"] for row in listed] == ["acme/intent", "globex"]


def test_an_adapter_may_have_the_name_of_the_alias_file(
    store: Store, tiny: Backbone, make_adapter: MakeAdapter
) -> None:
    name = f"acme/{ALIASES}"
    store.publish(make_adapter(tiny, name=name), tiny.geometry)
    assert store.names() == [name, "acme/intent", "globex"]
    assert store.path(name).is_dir()


def test_aliases_are_set_moved_and_removed(store: Store) -> None:
    store.alias("acme/intent", "stable", 1)
    assert store.versions("acme/intent") == ([1, 2], {"latest": 2, "stable": 1})
    assert store.path("acme/intent@stable") == store.path("acme/intent@1")
    store.alias("acme/intent", "stable", 2)
    assert store.path("acme/intent@stable") == store.path("acme/intent@2")
    store.alias("acme/intent", "stable", None)
    with pytest.raises(UnknownAdapterError, match="'stable'"):
        store.path("acme/intent@stable")
    with pytest.raises(UnknownAdapterError, match="no alias"):
        store.alias("acme/intent", "stable", None)
    with pytest.raises(UnknownAdapterError, match="no version '9'"):
        store.alias("acme/intent", "stable", 9)
    with pytest.raises(UnknownAdapterError):
        store.alias("acme/nobody", "stable", 1)


@pytest.mark.parametrize(
    "alias", ["", "1", "7x", "Stable", "a/b", "..", "-x", "a b", "a" * 33, "é"]
)
def test_an_invalid_alias_is_refused(store: Store, alias: str) -> None:
    before = contents(ROOT)
    with pytest.raises(AdapterkitError, match="alias"):
        store.alias("acme/intent", alias, 1)
    assert contents(ROOT).items() >= before.items()


def test_latest_cannot_be_removed(store: Store) -> None:
    with pytest.raises(AdapterkitError, match="alias"):
        store.alias("acme/intent", "latest", None)


def test_rolling_back_moves_latest_and_keeps_all_versions(
    store: Store, tiny: Backbone, make_adapter: MakeAdapter
) -> None:
    assert store.roll_back("acme/intent").number == 1
    assert store.versions("acme/intent") == ([1, 2], {"latest": 1})
    with pytest.raises(UnknownAdapterError, match="no version before 1"):
        store.roll_back("acme/intent")
    folder = store.publish(make_adapter(tiny, seed=3), tiny.geometry)
    assert folder.name == "3", "a version number is never used again"
    assert store.find("acme/intent").number == 3


def test_deleting_versions_and_names(store: Store) -> None:
    with pytest.raises(AdapterkitError, match="'latest' means"):
        store.delete("acme/intent", 2)
    store.delete("acme/intent", 1)
    assert store.versions("acme/intent") == ([2], {"latest": 2})
    with pytest.raises(UnknownAdapterError, match="no version '1'"):
        store.path("acme/intent@1")
    with pytest.raises(UnknownAdapterError):
        store.delete("acme/intent", 1)
    store.delete("acme/intent")
    assert store.names() == ["globex"]
    assert not (ROOT / "acme").exists()
    with pytest.raises(UnknownAdapterError):
        store.delete("acme/intent")


def test_the_number_of_a_deleted_version_is_not_used_again(
    store: Store, tiny: Backbone, make_adapter: MakeAdapter
) -> None:
    for number in (3, 4):
        store.roll_back("acme/intent")
        store.delete("acme/intent", number - 1)
        assert store.versions("acme/intent") == ([1], {"latest": 1})
        folder = store.publish(make_adapter(tiny, seed=number), tiny.geometry)
        assert folder.name == str(number)
    store.delete("acme/intent")
    assert not (ROOT / "acme").exists()


def test_a_change_of_aliases_keeps_what_another_writer_has_just_changed(store: Store) -> None:
    store.alias("acme/intent", "stable", 1)
    assert store.versions("acme/intent")[1]["stable"] == 1
    # A change in the same tick of the clock, by a file that got the inode of the one before it.
    file = ROOT / "acme/intent" / ALIASES
    times = file.stat().st_atime_ns, file.stat().st_mtime_ns
    content = file.read_text().replace('"stable": 1', '"stable": 2')
    with file.open("r+") as out:
        out.write(content)
    os.utime(file, ns=times)
    store.alias("acme/intent", "tried", 1)
    assert Store(ROOT).versions("acme/intent")[1] == {"latest": 2, "stable": 2, "tried": 1}


def test_deleting_a_name_keeps_the_names_below_it(
    store: Store, tiny: Backbone, make_adapter: MakeAdapter
) -> None:
    store.publish(make_adapter(tiny, name="acme"), tiny.geometry)
    store.delete("acme")
    assert store.names() == ["acme/intent", "globex"]
    assert store.find("acme/intent").number == 2


def test_verify_finds_a_changed_byte(store: Store) -> None:
    folder = store.path("acme/intent")
    assert store.verify("acme/intent") == []
    for file in sorted(folder.iterdir()):
        if file.name == SUMS:
            continue
        content = file.read_bytes()
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        (fault,) = store.verify("acme/intent")
        assert file.name in fault
        file.unlink()
        (fault,) = store.verify("acme/intent")
        assert file.name in fault
        file.write_bytes(content)
    (folder / SUMS).unlink()
    assert "without checksums" in store.verify("acme/intent")[0]


def test_checksums_pass_sha256sum(store: Store) -> None:
    done = subprocess.run(
        ["sha256sum", "-c", SUMS], cwd=store.path("acme/intent"), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_equal_content_has_equal_digests(
    store: Store, tiny: Backbone, make_adapter: MakeAdapter
) -> None:
    first = store.find("acme/intent@1").digest
    assert first != store.find("acme/intent@2").digest
    store.publish(make_adapter(tiny, seed=1), tiny.geometry)
    assert store.find("acme/intent@3").digest == first
    bare = store.path("acme/intent@3")
    (bare / SUMS).unlink()
    assert Store(ROOT).find("acme/intent@3").digest == first


def test_a_store_sees_versions_that_another_process_published(
    store: Store, tiny: Backbone, make_adapter: MakeAdapter
) -> None:
    assert store.find("acme/intent").number == 2
    Store(ROOT).publish(make_adapter(tiny, seed=5), tiny.geometry)
    assert store.find("acme/intent").number == 3
    Store(ROOT).roll_back("acme/intent")
    assert store.find("acme/intent").number == 2
    Store(ROOT).delete("acme/intent")
    with pytest.raises(UnknownAdapterError):
        store.find("acme/intent")


def test_an_unknown_name_does_not_reveal_other_names(store: Store) -> None:
    with pytest.raises(UnknownAdapterError) as error:
        store.find("acme/intend")
    assert str(error.value) == "there is no adapter 'acme/intend'"
    with pytest.raises(UnknownAdapterError, match="did you mean 'acme/intent'"):
        store.path("acme/intend")


def test_concurrent_writers_publish_one_version_each(
    tiny: Backbone, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    adapters = [make_adapter(tiny, seed=n) for n in range(12)]
    with ThreadPoolExecutor(6) as pool:
        folders = list(
            pool.map(lambda a: Store(tmp_path / "s").publish(a, tiny.geometry), adapters)
        )
    store = Store(tmp_path / "s")
    assert sorted(int(folder.name) for folder in folders) == list(range(1, 13))
    assert store.versions("acme/intent") == (list(range(1, 13)), {"latest": 12})
    for adapter, folder in zip(adapters, folders, strict=True):
        assert equal_weights(load_adapter(folder, tiny), adapter)


PUBLISH = """
import os, sys
from adapterkit.backbone.model import Backbone
from adapterkit.adapter.folder import load_adapter
from adapterkit.adapter.store import Store
backbone = Backbone.load(sys.argv[1], device="cpu")
store = Store(sys.argv[2])
adapter = load_adapter(store.path("acme/intent"), backbone)
for _ in sys.stdin:
    child = os.fork()
    if child == 0:
        print(os.getpid(), flush=True)
        while True:
            store.publish(adapter, backbone.geometry)
    os.waitpid(child, 0)
    print("killed", flush=True)
"""
"""A program that forks a child for each line of its input; the child publishes until killed."""


def test_a_store_is_sound_after_a_kill_during_publishing(
    programs: Path, store: Store, tiny: Backbone, tiny_folder: Path, make_adapter: MakeAdapter
) -> None:
    Path("publish.py").write_text(PUBLISH, encoding="utf-8")
    command = [str(programs / "python"), "publish.py", str(tiny_folder), str(ROOT)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as publisher:
        for wait in (0.005, 0.02, 0.05):
            assert publisher.stdin is not None
            assert publisher.stdout is not None
            print(file=publisher.stdin, flush=True)
            child = int(publisher.stdout.readline())
            time.sleep(wait)
            os.kill(child, signal.SIGKILL)
            assert publisher.stdout.readline() == "killed\n"
            check_after_kill(tiny, make_adapter)


def check_after_kill(tiny: Backbone, make_adapter: MakeAdapter) -> None:
    """Every version of the store is valid, and the next one can be published."""
    fresh = Store(ROOT)
    versions, aliases = fresh.versions("acme/intent")
    assert versions == list(range(1, len(versions) + 1))
    assert aliases["latest"] in (versions[-1], versions[-1] - 1)
    for version in versions:
        assert fresh.verify(f"acme/intent@{version}") == []
        load_adapter(fresh.path(f"acme/intent@{version}"), tiny)
    folder = fresh.publish(make_adapter(tiny, seed=4), tiny.geometry)
    assert int(folder.name) == versions[-1] + 1


@pytest.fixture
def remote_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a store whose changes are seen without delay."""
    monkeypatch.setattr(remote, "FRESH", 0.0)
    return f"memory://{tmp_path.name}/shelf"


def test_a_store_behind_a_url(
    remote_url: str, tiny: Backbone, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    writer, reader = Store(remote_url, tmp_path / "here"), Store(remote_url, tmp_path / "there")
    assert reader.names() == []
    adapters = [make_adapter(tiny, seed=n) for n in (1, 2)]
    for adapter in adapters:
        writer.publish(adapter, tiny.geometry)
    assert reader.names() == ["acme/intent"]
    assert reader.versions("acme/intent") == ([1, 2], {"latest": 2})
    for number, adapter in enumerate(adapters, start=1):
        assert equal_weights(load_adapter(reader.path(f"acme/intent@{number}"), tiny), adapter)
    assert reader.verify("acme/intent") == []
    writer.roll_back("acme/intent")
    assert reader.find("acme/intent").number == 1
    reader.alias("acme/intent", "stable", 2)
    assert writer.find("acme/intent@stable").number == 2
    writer.delete("acme/intent")
    with pytest.raises(UnknownAdapterError):
        reader.find("acme/intent")
    fresh = make_adapter(tiny, seed=9)
    writer.publish(fresh, tiny.geometry)
    assert equal_weights(load_adapter(reader.path("acme/intent"), tiny), fresh), (
        "the cached copy of the deleted version is not used"
    )


def test_a_damaged_download_is_refused(
    remote_url: str, tiny: Backbone, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    import fsspec

    Store(remote_url, tmp_path / "here").publish(make_adapter(tiny), tiny.geometry)
    files = fsspec.filesystem("memory")
    files.pipe_file(f"/{tmp_path.name}/shelf/acme/intent/1/{WEIGHTS}", b"broken")
    reader = Store(remote_url, tmp_path / "there")
    with pytest.raises(AdapterError, match="damaged on the way"):
        reader.find("acme/intent")
    assert not (tmp_path / "there" / "acme" / "intent" / "1").exists()


def test_an_unreachable_url_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="nowhere://"):
        Store("nowhere://bucket/adapters", tmp_path)
