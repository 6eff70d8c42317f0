"""The store: versions that stay, aliases that move, and names that never leave the folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import MakeAdapter

from adapterkit.adapter import Adapter
from adapterkit.backbone import Backbone
from adapterkit.errors import AdapterError, AdapterkitError, UnknownAdapterError
from adapterkit.files import CARD, CONFIG, load_adapter, save_adapter
from adapterkit.store import ALIASES, Store, find_folder

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
    """A store of its own: `acme/intent` in two versions and `globex` in one."""
    shutil.copytree(two_versions, ROOT)
    return Store(ROOT)


def same(one: Adapter, other: Adapter) -> bool:
    return all(
        torch.equal(tensor, theirs[name])
        for mine, theirs in ((one.tensors, other.tensors), (one.head, other.head))
        for name, tensor in mine.items()
    )


def test_an_adapter_comes_back_as_it_was_published(
    store: Store, tiny: Backbone, make_adapter: MakeAdapter
) -> None:
    for reference, seed in (("acme/intent@1", 1), ("acme/intent@2", 2), ("acme/intent", 2)):
        adapter = load_adapter(store.path(reference), tiny)
        assert same(adapter, make_adapter(tiny, seed=seed))
        assert adapter.name == "acme/intent"
    labels = load_adapter(store.path("globex"), tiny).task.labels  # type: ignore[attr-defined]
    assert labels == ("envío", "银行")


def test_every_version_stays_as_it_was(
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


def test_the_first_adapter_makes_the_store(tiny: Backbone, make_adapter: MakeAdapter) -> None:
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
def test_a_reference_is_a_name_and_perhaps_a_version(
    store: Store, reference: str, folder: str
) -> None:
    (ROOT / "acme/intent" / ALIASES).write_text('{"latest": 2, "stable": 1}')
    assert store.path(reference) == ROOT / folder
    assert find_folder(reference, store) == ROOT / folder


def test_publishing_leaves_other_aliases(
    store: Store, tiny: Backbone, make_adapter: MakeAdapter
) -> None:
    (ROOT / "acme/intent" / ALIASES).write_text('{"latest": 2, "stable": 1}')
    store.publish(make_adapter(tiny), tiny.geometry)
    assert store.path("acme/intent@stable") == ROOT / "acme/intent/1"
    assert store.path("acme/intent") == ROOT / "acme/intent/3"


def test_versions_count_as_numbers(store: Store, tiny: Backbone, make_adapter: MakeAdapter) -> None:
    for version in (9, 10):
        shutil.copytree(ROOT / "globex/1", ROOT / f"globex/{version}")
    assert store.publish(make_adapter(tiny, name="globex"), tiny.geometry).name == "11"
    assert store.path("globex").name == "11"


def test_only_whole_adapters_are_versions(
    store: Store, tiny: Backbone, make_adapter: MakeAdapter
) -> None:
    home = ROOT / "acme/intent"
    for name in ("7", ".saving-x", "notes", "007", "0"):
        (home / name).mkdir()
    (home / "8").write_text("a file")
    (home / "007" / CARD).write_text("{}")
    with pytest.raises(UnknownAdapterError, match="'acme/intent' has no version '7'"):
        store.path("acme/intent@7")
    assert store.publish(make_adapter(tiny), tiny.geometry).name == "3"


@pytest.mark.parametrize(
    ("reference", "words"),
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
def test_what_is_not_there_is_told_with_what_is(store: Store, reference: str, words: str) -> None:
    for look in (store.path, lambda name: find_folder(name, store)):
        with pytest.raises(UnknownAdapterError) as caught:
            look(reference)
        assert words in str(caught.value)


def test_an_empty_store_says_so() -> None:
    words = "no adapter 'acme/intent' in the store nowhere; it holds none; is --store right?"
    with pytest.raises(UnknownAdapterError, match=words.replace("?", r"\?")):
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


def test_a_folder_is_found_as_it_is_given(
    store: Store, tiny: Backbone, make_adapter: MakeAdapter
) -> None:
    loose = save_adapter(make_adapter(tiny), "loose", tiny.geometry)
    for given in ("loose", "./loose", str(loose.resolve()), "shelf/acme/intent/1"):
        assert find_folder(given, store).samefile(given)


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
def test_a_folder_that_is_no_adapter_is_told(store: Store, reference: str) -> None:
    Path("empty").mkdir()
    with pytest.raises(UnknownAdapterError, match="not an adapter folder") as caught:
        find_folder(reference, store)
    assert str(caught.value) == f"{reference}: not an adapter folder, {CONFIG} is missing"


def test_a_text_in_place_of_a_name_is_told(store: Store) -> None:
    with pytest.raises(AdapterkitError, match="is not an adapter name"):
        find_folder("I lost my card. " * 40, store)


def test_an_adapter_cannot_be_published_inside_another(
    store: Store, tiny: Backbone, make_adapter: MakeAdapter
) -> None:
    before = contents(Path())
    cases = [
        (store, "globex/1"),  # would lie inside version 1 of globex
        (Store(ROOT / "globex/1"), "a"),
        (Store(ROOT / "globex"), "1/a"),
    ]
    for shelf, name in cases:
        with pytest.raises(AdapterError, match="globex/1: is itself an adapter folder, not part"):
            shelf.publish(make_adapter(tiny, name=name), tiny.geometry)
    assert contents(Path()) == before


def test_a_name_whose_place_is_taken_by_a_tenant_is_told(
    tiny: Backbone, make_adapter: MakeAdapter
) -> None:
    store = Store(ROOT)
    store.publish(make_adapter(tiny, name="acme/1"), tiny.geometry)
    before = contents(Path())
    with pytest.raises(AdapterError, match="shelf/acme/1: something is there already; nothing was"):
        store.publish(make_adapter(tiny, name="acme"), tiny.geometry)
    assert contents(Path()) == before


@pytest.mark.parametrize("taken", ["shelf", "shelf/acme", "shelf/acme/intent"])
def test_a_file_in_the_way_is_told(tiny: Backbone, make_adapter: MakeAdapter, taken: str) -> None:
    Path(taken).parent.mkdir(parents=True, exist_ok=True)
    Path(taken).write_text("mine")
    before = contents(Path())
    with pytest.raises(AdapterError, match=f"^{taken}: not a folder that can be written to"):
        Store(ROOT).publish(make_adapter(tiny), tiny.geometry)
    assert contents(Path()) == before


def test_an_alias_file_in_the_way_is_told(tiny: Backbone, make_adapter: MakeAdapter) -> None:
    (ROOT / "acme/intent" / ALIASES).mkdir(parents=True)
    with pytest.raises(AdapterError, match=r"aliases\.json: cannot be written"):
        Store(ROOT).publish(make_adapter(tiny), tiny.geometry)
    assert [p.name for p in (ROOT / "acme/intent").iterdir() if p.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("content", "words"),
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
def test_a_damaged_alias_file_is_told(store: Store, content: str, words: str) -> None:
    (ROOT / "acme/intent" / ALIASES).write_text(content)
    with pytest.raises(AdapterkitError) as caught:
        store.path("acme/intent")
    assert words in str(caught.value)
    assert store.path("globex").is_dir(), "the others are as before"


def test_folders_that_only_look_like_adapters_are_not_listed(store: Store) -> None:
    for name in ("acme/my intent", "acme/.trash", "empty", "acme/gone"):
        (ROOT / name).mkdir(parents=True)
        (ROOT / name / ALIASES).write_text('{"latest": 1}')
    shutil.copytree(ROOT / "globex/1", ROOT / "acme/my intent/1")
    assert store.names() == ["acme/intent", "globex"]


def test_an_adapter_may_be_called_like_the_alias_file(
    store: Store, tiny: Backbone, make_adapter: MakeAdapter
) -> None:
    name = f"acme/{ALIASES}"
    store.publish(make_adapter(tiny, name=name), tiny.geometry)
    assert store.names() == [name, "acme/intent", "globex"]
    assert store.path(name).is_dir()
