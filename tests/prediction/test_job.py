"""Jobs over many files: shards, parts, interruption, and the same answers as one process gives."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec import AbstractFileSystem

from adapterkit.adapter.references import find_folder
from adapterkit.adapter.store import Store
from adapterkit.backbone.model import Backbone
from adapterkit.errors import DataError, UnreachableStoreError
from adapterkit.prediction import shard_worker
from adapterkit.prediction.job import in_this_process, run_job
from adapterkit.prediction.job_folder import PartRecord
from adapterkit.prediction.shard_worker import Job, ShardWorker
from adapterkit.prediction.shards import Shard, find_shards
from helpers.adapters import MakeAdapter
from helpers.command_line import run_command
from helpers.tolerance import assert_close

NAMES = ("acme/mood", "globex")


@pytest.fixture
def store(tiny: Backbone, make_adapter: MakeAdapter) -> Store:
    store = Store("store")
    for seed, name in enumerate(NAMES):
        adapter = make_adapter(tiny, "lora", name=name, seed=seed, labels=("bad", "good"))
        store.publish(adapter, tiny.geometry)
    return store


@pytest.fixture
def job(store: Store, tiny_folder: Path) -> Job:
    return Job("answers", str(store.root), backbone=str(tiny_folder))


def rows(n: int) -> list[dict[str, Any]]:
    return [
        {
            "id": number,
            "text": f"rain and sun {'card ' * (number % 5)}",
            "adapter": NAMES[number % 2],
        }
        for number in range(n)
    ]


def write_jsonl(path: str, content: Sequence[dict[str, Any]]) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in content)
    Path(path).write_text("".join(lines), encoding="utf-8")


def answers(folder: str = "answers") -> list[dict[str, Any]]:
    paths = sorted(Path(folder).glob("part-*.jsonl"))
    return [json.loads(line) for path in paths for line in path.read_text("utf-8").splitlines()]


def small_shards(monkeypatch: pytest.MonkeyPatch, n_bytes: int = 400) -> None:
    monkeypatch.setattr(
        "adapterkit.prediction.job.find_shards",
        lambda source, output: find_shards(source, n_bytes, output),
    )


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("last", ["", "\n", "\n\n  \n"])
@pytest.mark.parametrize("n_bytes", [1, 2, 7, 30, 1000])
def test_every_line_is_in_one_shard(n_bytes: int, line_end: str, last: str) -> None:
    lines = ["雨", "", "a", "sun and rain", "\u3000", "卡" * 9, "b"]
    Path("texts.txt").write_bytes((line_end.join(lines) + last).encode())
    found = []
    for shard in find_shards("texts.txt", n_bytes):
        Path("copy").mkdir(exist_ok=True)
        content = shard.copy(Path("copy")).read_text("utf-8")
        assert content.strip(), shard
        found += content.split()
    assert found == " ".join(lines).split()


def test_row_groups_are_divided() -> None:
    pq.write_table(pa.table({"text": [f"t{n}" for n in range(50)]}), "t.parquet", row_group_size=7)
    shards = find_shards("t.parquet", 1)
    assert [(one.begin, one.end) for one in shards] == [(n, n + 1) for n in range(8)]
    Path("copy").mkdir()
    copies = [pq.read_table(shard.copy(Path("copy"))) for shard in shards]
    assert pa.concat_tables(copies)["text"].to_pylist() == [f"t{n}" for n in range(50)]
    assert shards[2].name.endswith("t.parquet (from row group 2)")


def test_files_are_found_by_folder_and_pattern() -> None:
    for name in ("b.jsonl", "a.csv", "_manifest.json", ".hidden.csv", "notes.md"):
        write_jsonl(f"in/{name}", [{"text": "sun"}])
    assert [Path(one.url).name for one in find_shards("in")] == ["a.csv", "b.jsonl"]
    assert [Path(one.url).name for one in find_shards("in/*.jsonl")] == ["b.jsonl"]
    with pytest.raises(DataError, match=r"^--input in/\*\.tsv: there is no such file$"):
        find_shards("in/*.tsv")
    with pytest.raises(DataError, match=r"notes\.md: expected a file ending in \.csv, "):
        find_shards("in/notes.md")
    with pytest.raises(DataError, match=r"^nowhere://x: "):
        find_shards("nowhere://x")


def test_hidden_folders_and_the_output_are_not_read() -> None:
    for name in ("a.jsonl", "_temporary/b.jsonl", "deep/.git/c.jsonl", "out/_records/0.json"):
        write_jsonl(f"in/{name}", [{"text": "sun"}])
    write_jsonl("in/out/part-00000.jsonl", [{"text": "sun"}])
    write_jsonl("in/outside/d.jsonl", [{"text": "sun"}])
    found = find_shards("in", output="in/out")
    assert [Path(one.url).name for one in found] == ["a.jsonl", "d.jsonl"]
    found = find_shards("in/**/*.jsonl", output="in/out")
    assert "part-00000.jsonl" not in {Path(one.url).name for one in found}


def test_files_without_a_row_are_refused() -> None:
    for name in ("a.jsonl", "b.txt"):
        Path(name).write_text("\n \n")
        with pytest.raises(DataError, match=f"^--input {name}: there are no rows$"):
            find_shards(name)


class NoCredentials(AbstractFileSystem):  # type: ignore[misc]  # fsspec has no types
    """A file system that refuses everything with an exception of its own, as that of S3 does."""

    protocol = "broken"

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        raise RuntimeError("Unable to locate\ncredentials")

    ls = cat_file = pipe_file = info


def test_a_file_system_that_refuses_is_one_line(job: Job) -> None:
    fsspec.register_implementation("broken", NoCredentials, clobber=True)
    reason = r"\(Unable to locate credentials\)$"
    with pytest.raises(DataError, match=rf"^--input broken://in: cannot be read {reason}"):
        find_shards("broken://in")
    write_jsonl("in.jsonl", rows(1))
    with pytest.raises(DataError, match=rf"^broken://out/_manifest.json: cannot be read {reason}"):
        run_job(replace(job, output="broken://out"), "in.jsonl", in_this_process)
    with pytest.raises(DataError, match=rf"^broken://in.csv: cannot be read {reason}"):
        Shard(0, "broken://in.csv").copy(Path())


def test_a_job_gives_the_answers_of_one_process(
    job: Job, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_jsonl("in/a.jsonl", rows(20))
    write_jsonl("in/b.jsonl", rows(3))
    small_shards(monkeypatch)
    records = run_job(job, "in", in_this_process)
    assert len(records) > 4
    write_jsonl("all.jsonl", rows(20) + rows(3))
    arguments = ("--store", "store", "--backbone", str(tiny_folder), "--device", "cpu")
    result = run_command("predict", *arguments, "--input", "all.jsonl", "--output", "one.jsonl")
    assert result.code == 0, result.err
    expected = [json.loads(line) for line in Path("one.jsonl").read_text().splitlines()]
    assert_close(answers(), expected)
    manifest = json.loads(Path("answers/_manifest.json").read_text())
    assert manifest["totals"] == {"parts": len(records), "rows": 23, "faults": 0, "errors": []}
    assert records[0].versions == {"acme/mood": "acme/mood@1", "globex": "globex@1"}


def test_an_interrupted_job_goes_on(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    write_jsonl("in.jsonl", rows(30))
    small_shards(monkeypatch)
    computed: list[int] = []

    def failing(job: Job, shards: Sequence[Shard]) -> Iterator[PartRecord]:
        worker = ShardWorker(job)
        for index, shard in enumerate(shards):
            if index == 2:
                raise KeyboardInterrupt
            computed.append(shard.number)
            yield worker(shard)

    with pytest.raises(KeyboardInterrupt):
        run_job(job, "in.jsonl", failing)
    # The worker was lost after it had written the part, and before its record.
    Path("answers/_records/00001.json").unlink()
    with pytest.raises(KeyboardInterrupt):
        run_job(job, "in.jsonl", failing)
    run_job(job, "in.jsonl", in_this_process)
    assert computed == [0, 1, 1, 2]
    assert [row["id"] for row in answers()] == list(range(30))
    run_job(job, "in.jsonl", failing)  # nothing is left to do
    assert computed == [0, 1, 1, 2]


def test_the_folder_of_another_job_is_refused(job: Job, tiny_folder: Path) -> None:
    write_jsonl("in.jsonl", rows(2))
    run_job(job, "in.jsonl", in_this_process)
    other = Job("answers", "store", ["globex"], backbone=str(tiny_folder))
    with pytest.raises(
        DataError, match=r"^--output answers: has the answers of another job, whose "
    ):
        run_job(other, "in.jsonl", in_this_process)
    Path("full").mkdir()
    Path("full/letter.txt").write_text("dear")
    with pytest.raises(DataError, match=r"^--output full: has files that no job wrote"):
        run_job(Job("full", "store", backbone=str(tiny_folder)), "in.jsonl", in_this_process)
    assert [path.name for path in Path("full").iterdir()] == ["letter.txt"]


def test_faults_stay_in_their_rows(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    content = [*rows(2), {"id": 2, "text": "", "adapter": "globex"}]
    content += [{"id": 3, "text": "sun", "adapter": "nobody"}, {"id": 4, "text": "rain"}]
    write_jsonl("in.jsonl", content)
    small_shards(monkeypatch, 1)
    records = run_job(job, "in.jsonl", in_this_process)
    found = answers()
    assert [row["id"] for row in found] == [0, 1, 2, 3, 4]
    assert [sorted({"error", "prediction"} & row.keys()) for row in found[:4]] == (
        [["prediction"]] * 2 + [["error"]] * 2
    )
    assert "in.jsonl (from byte " in found[2]["error"]
    assert "there is no adapter 'nobody'" in found[3]["error"]
    assert len(found[4]["vector"]) == 32  # the plain backbone
    assert sum(one.n_faults for one in records.values()) == 2


def test_a_file_that_cannot_be_read_is_told_and_tried_again(job: Job) -> None:
    Path("in").mkdir()
    write_jsonl("in/a.jsonl", rows(2))
    Path("in/b.csv").write_bytes(b"text\n\xff\xfe\n")
    records = run_job(job, "in", in_this_process)
    assert records[1].error is not None
    assert "b.csv" in records[1].error
    Path("in/b.csv").write_text("text,adapter\nsun,globex\n")
    assert run_job(job, "in", in_this_process)[1].error is None
    assert len(answers()) == 3


def test_a_file_that_has_changed_is_answered_again(job: Job) -> None:
    Path("in").mkdir()
    Path("in/a.csv").write_text("id,text,adapter\n1,sun,globex\n")
    Path("in/b.csv").write_text("id,text,adapter\n3,sun,globex\n")
    run_job(job, "in", in_this_process)
    Path("in/a.csv").write_text("id,text,adapter\n1,sun,globex\n2,rain,globex\n")
    computed: list[int] = []

    def counted(job: Job, shards: Sequence[Shard]) -> Iterator[PartRecord]:
        computed.extend(shard.number for shard in shards)
        return in_this_process(job, shards)

    run_job(job, "in", counted)
    assert computed == [0]
    assert [row["id"] for row in answers()] == ["1", "2", "3"]


def test_a_job_may_write_below_its_input(job: Job) -> None:
    write_jsonl("in/a.jsonl", rows(2))
    below = replace(job, output="in/answers[1]")
    first = run_job(below, "in", in_this_process)

    def nothing(_: Job, __: Sequence[Shard]) -> Iterator[PartRecord]:
        pytest.fail("all is done")

    assert run_job(below, "in", nothing) == first


def test_a_column_of_some_rows_alone_is_no_answer_of_others(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = rows(2)
    content[1]["label"] = "good"
    write_jsonl("in.jsonl", content)
    small_shards(monkeypatch, 1)
    with pytest.raises(
        DataError, match=r"a column 'label', so .* in 'label' and in 'predicted_label'"
    ):
        run_job(job, "in.jsonl", in_this_process)
    with pytest.raises(DataError, match="a column 'label'"):  # also when it goes on
        run_job(job, "in.jsonl", in_this_process)
    run_job(replace(job, output="other", prefix="model_"), "in.jsonl", in_this_process)
    assert [row.get("label") for row in answers("other")] == [None, "good"]


def test_the_backbone_is_that_of_the_first_adapter_also_after_a_plain_row(job: Job) -> None:
    write_jsonl("in.jsonl", [{"text": "sun", "adapter": "base"}, *rows(1)])
    run_job(replace(job, backbone=None), "in.jsonl", in_this_process)
    assert "prediction" in answers()[1]


def test_two_versions_in_one_job_are_refused(
    job: Job,
    store: Store,
    tiny: Backbone,
    make_adapter: MakeAdapter,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_jsonl("in.jsonl", rows(30))
    small_shards(monkeypatch)

    def slow(job: Job, shards: Sequence[Shard]) -> Iterator[PartRecord]:
        yield ShardWorker(job)(shards[0])
        adapter = make_adapter(tiny, "lora", name="globex", seed=5, labels=("bad", "good"))
        store.publish(adapter, tiny.geometry)
        yield from map(ShardWorker(job), shards[1:])

    with pytest.raises(DataError, match=r"^'globex' was published again .* globex@1 and globex@2;"):
        run_job(job, "in.jsonl", slow)


@pytest.mark.parametrize("n_bytes", [1, 10_000])
@pytest.mark.parametrize("names", [("globex@1", "globex"), ("globex", "globex@1")])
def test_two_versions_that_rows_name_are_never_mixed_up(
    n_bytes: int,
    names: tuple[str, str],
    job: Job,
    store: Store,
    tiny: Backbone,
    make_adapter: MakeAdapter,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store.publish(make_adapter(tiny, "lora", name="globex", seed=5), tiny.geometry)
    write_jsonl("in.jsonl", [{"text": "rain and sun", "adapter": name} for name in names])
    small_shards(monkeypatch, n_bytes)
    records = run_job(job, "in.jsonl", in_this_process)
    first, second = answers()
    assert "prediction" in first
    assert "error" not in first
    assert sum(one.n_faults for one in records.values()) == 1
    assert (
        f"'{names[0]}' and '{names[1]}' are both named 'globex'; a job answers by one of them"
        in second["error"]
    )


def test_a_job_of_two_versions_of_a_name_is_refused(
    job: Job, store: Store, tiny: Backbone, tiny_folder: Path, make_adapter: MakeAdapter
) -> None:
    adapter = make_adapter(tiny, "lora", name="globex", seed=5, labels=("bad", "good"))
    store.publish(adapter, tiny.geometry)
    write_jsonl("in.jsonl", [{"text": "sun"}])
    both = Job("other", "store", ["globex@1", "globex@2"], backbone=str(tiny_folder))
    with pytest.raises(DataError, match=r"^'globex@1' and 'globex@2' are both named 'globex'"):
        run_job(both, "in.jsonl", in_this_process)


def test_a_folder_of_the_store_is_pinned_as_its_version(job: Job, tiny_folder: Path) -> None:
    write_jsonl("in.jsonl", [{"text": "sun"}])
    folder = Job("answers", "store", ["./store/globex/1"], backbone=str(tiny_folder))
    assert run_job(folder, "in.jsonl", in_this_process)[0].versions == {"globex@1": "globex@1"}


def test_versions_that_two_workers_answered_are_refused(
    job: Job,
    store: Store,
    tiny: Backbone,
    make_adapter: MakeAdapter,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store.publish(make_adapter(tiny, "lora", name="globex", seed=5), tiny.geometry)
    content = [{"text": "rain and sun", "adapter": f"globex@{number}"} for number in (1, 2)]
    write_jsonl("in.jsonl", content)
    small_shards(monkeypatch, 1)

    def two_workers(job: Job, shards: Sequence[Shard]) -> Iterator[PartRecord]:
        return (ShardWorker(job)(shard) for shard in shards)

    with pytest.raises(DataError, match=r"^rows have answers of globex@1 and globex@2, and a job"):
        run_job(job, "in.jsonl", two_workers)


def test_an_outage_of_the_store_is_no_answer(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    write_jsonl("in.jsonl", rows(2))
    is_away = True

    def find(reference: str, store: Store) -> Path:
        if is_away:
            raise UnreachableStoreError("s3://shelf: cannot be reached")
        return find_folder(reference, store)

    monkeypatch.setattr(shard_worker, "find_folder", find)
    with pytest.raises(UnreachableStoreError):
        run_job(job, "in.jsonl", in_this_process)
    is_away = False
    run_job(job, "in.jsonl", in_this_process)
    assert ["error" in row for row in answers()] == [False, False]


def test_options_of_a_single_process_are_refused(store: Store) -> None:
    for options, words in (
        (("globex", "a text"), "give --input FILES and --output FOLDER"),
        (("globex", "--input", "-", "--output", "a"), "give --input FILES and --output FOLDER"),
        (("globex", "--input", "a", "--output", "a", "--explain"), "--explain is for a single"),
    ):
        result = run_command("predict", "--store", "store", "--engine", "ray", *options)
        assert (result.code, result.err.count("\n")) == (2, 1)
        assert words in result.err
