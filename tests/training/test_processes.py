"""Several processes train what one process trains."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from adapterkit.adapter.adapter import Adapter, MemberWeights
from adapterkit.adapter.folder import load_adapter
from adapterkit.adapter.store import Store
from adapterkit.backbone.load_options import LoadOptions
from adapterkit.backbone.model import Backbone
from adapterkit.errors import BackboneError
from adapterkit.training.processes import ProcessError, check_sharding
from adapterkit.training.recipe import Recipe
from adapterkit.training.spread import divide
from adapterkit.training.train import train, train_many
from helpers.checkpoints import save_random_bert
from helpers.command_line import run_command, write_recipe
from helpers.joint_training import assert_same_weights, with_changes, write_rows
from helpers.paths import ROOT
from helpers.processes import MOST_TOKENS, train_in_processes
from helpers.vocabulary import WORDS

RECIPE = """
name: t/{name}
backbone: {{model: {model}}}
data: {{path: {rows}}}
"""
TASK = "task: {type: classification, dropout: 0.2}"
LORA = "method: {type: lora, dropout: 0.1}"
TRAINING = "epochs: 2, batch_size: 7, learning_rate: 1e-2"
SHORT = "epochs: 1, batch_size: 7, learning_rate: 1e-2"
VARIED = f"""
augmentation: {{token_dropout: 0.2, synonyms: synonyms.csv, replace: 0.5}}
training: {{{TRAINING}, accumulation: 2, adversarial: 1}}
"""
SECTIONS = {
    "lora": f"{TASK}\n{LORA}\ntraining: {{{TRAINING}, accumulation: 2}}",
    "varied": f"{TASK}\n{LORA}\n{VARIED}",
    "prefix": f"{TASK}\nmethod: {{type: prefix}}\ntraining: {{{SHORT}}}",
    "bottleneck": f"{TASK}\nmethod: {{type: bottleneck}}\ntraining: {{{SHORT}}}",
    "embedding": f"""
task: {{type: embedding, pooling: mean, dimensions: 8, symmetric: true}}
{LORA}
training: {{{SHORT}, adversarial: 1}}
""",
    "embedding-cut": f"""
task: {{type: embedding, pooling: mean}}
{LORA}
training: {{{SHORT}, accumulation: 2, max_tokens: 30}}
""",
}
"""The last batch of an embedding has one row, of which the second process has none."""
TOGETHER = {
    "crowd": f"{LORA}\ntraining: {{{SHORT}, ensemble: 2, seed: 3}}",
    "small": "method: {type: bottleneck}\n"
    "training: {epochs: 1, batch_size: 30, learning_rate: 1e-2, adversarial: 0}",
}
"""An ensemble and another recipe, trained by one command."""
SHARDED = {
    "sharded": f"{TASK}\n{LORA}\ntraining: {{{SHORT}}}",
    "sharded-embedding": SECTIONS["embedding-cut"],
}
"""Trained with FSDP; of the first, the second process has no memory for its part of a batch."""
SYNONYMS = "word,synonym\nmoney,fee\nbank,card\nrain,sun\n"


def write_pairs(n: int, path: Path) -> Path:
    """Rows of two texts; a tenth is drawn for validation."""
    lines = [f"{WORDS[i % 9]} {WORDS[i % 7]} {i},{WORDS[i % 5]} {i}" for i in range(n)]
    path.write_text("\n".join(["text,text_pair", *lines]), encoding="utf-8")
    return path


@pytest.fixture
def trained(
    programs: Path,
    tiny: Backbone,
    tiny_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, tuple[Adapter, Adapter]]:
    """Each adapter trained in this process, and in two processes."""
    folder = tmp_path_factory.mktemp("processes")
    (folder / "synonyms.csv").write_text(SYNONYMS, encoding="utf-8")
    rows = write_rows(1, 60, str(folder / "rows.csv"))
    pairs = write_pairs(40, folder / "pairs.csv")
    files = []
    for name, sections in {**SECTIONS, **SHARDED}.items():
        files.append(folder / f"{name}.yaml")
        source = pairs if "embedding" in name else rows
        text = RECIPE.format(name=name, model=tiny_folder, rows=source) + sections
        files[-1].write_text(text, encoding="utf-8")
    together = {}
    for name, sections in TOGETHER.items():
        together[name] = folder / f"{name}.yaml"
        text = RECIPE.format(name=name, model=tiny_folder, rows=rows) + sections
        together[name].write_text(text, encoding="utf-8")
    whole, sharded = files[: len(SECTIONS)], files[len(SECTIONS) :]
    two = train_in_processes(
        whole, folder, programs, together=list(together.values()), sharded=sharded
    )
    one = [train(Recipe.load(file), tiny, progress=False) for file in whole]
    one += train_as_divided(tiny, *map(Recipe.load, together.values()))
    one += [train(Recipe.load(file), tiny, progress=False) for file in sharded]
    assert {adapter.training["processes"] for adapter in one} == {1}
    names = (*SECTIONS, *TOGETHER, *SHARDED)
    return dict(zip(names, zip(one, two, strict=True), strict=True))


def train_as_divided(backbone: Backbone, crowd: Recipe, small: Recipe) -> list[Adapter]:
    """What the two processes train, each its part as one process: a member of the ensemble and the
    small recipe, and the other member."""
    members = [
        with_changes(crowd, training={"seed": seed, "ensemble": 1})
        for seed in (crowd.training.seed, crowd.training.seed + 1)
    ]
    first, alone = train_many([members[0], small], backbone, progress=False)
    other = train(members[1], backbone, progress=False)
    weights = MemberWeights(other.tensors, other.head)
    return [replace(first, extra_members=(weights,)), alone]


def test_two_processes_train_what_one_trains(
    trained: dict[str, tuple[Adapter, Adapter]],
) -> None:
    """One test for all of one launch: each worker of the tests would launch its own."""
    for name in ("lora", "prefix", "bottleneck", "embedding", "embedding-cut"):
        one, two = trained[name]
        assert_same_weights(one, two, tolerance=1e-4)
        assert_same_losses(one, two)
        assert one.metrics["validation"] == pytest.approx(two.metrics["validation"], abs=1e-5), name
    # With adversarial training too: results do not depend on how a batch is divided.
    assert_same_weights(*trained["varied"], tolerance=1e-3)
    assert_same_losses(*trained["varied"])
    # Members and recipes that are divided: as one process that trains the same part, up to
    # rounding, since each process times the products of the backbone for itself.
    for name in ("crowd", "small"):
        one, two = trained[name]
        assert two.n_members == one.n_members == (2 if name == "crowd" else 1)
        for mine, theirs in zip(one.members, two.members, strict=True):
            assert_same_weights(mine, theirs, tolerance=1e-5)
        assert two.training["together"] == 2
        assert_same_losses(one, two)
        assert len(two.training["history"]) == len(one.training["history"])
    assert [member["seed"] for member in trained["crowd"][1].training["members"]] == [4]
    one, two = trained["small"]
    assert two.metrics["validation"] == pytest.approx(one.metrics["validation"], abs=1e-6)
    # The weights of the backbone divided among the processes, of which one falls back in the middle
    # of a step, while the other needs its part.
    for name in SHARDED:
        one, two = trained[name]
        assert_same_weights(one, two, tolerance=1e-3)
        assert_same_losses(one, two)
        assert one.metrics["validation"] == pytest.approx(two.metrics["validation"], abs=1e-5), name
    assert trained["sharded"][1].training["max_tokens"] <= MOST_TOKENS


def assert_same_losses(one: Adapter, two: Adapter) -> None:
    losses = zip(one.training["losses"], two.training["losses"], strict=True)
    for (_, alone), (_, together) in losses:
        assert alone == pytest.approx(together, abs=1e-4)


def test_what_cannot_be_sharded_is_refused(tiny: Backbone, tiny_folder: Path) -> None:
    recipe = Recipe.load(write_recipe(tiny_folder))
    crowd = with_changes(recipe, training={"ensemble": 2})
    for recipes in ([recipe, recipe], [crowd]):
        with pytest.raises(ProcessError, match="FSDP: several recipes, or members of an ensemble"):
            check_sharding(recipes)
    with pytest.raises(ProcessError, match="FSDP: this backbone was loaded as a whole on every"):
        check_sharding([recipe], tiny)
    for options, words in (
        ({"quantization": "int8"}, "FSDP: .* quantization int8 cannot be divided"),
        ({"device_map": "auto"}, "FSDP: the weights of a backbone with a device_map cannot be"),
    ):
        with pytest.raises(BackboneError, match=words):
            LoadOptions(sharded=True, **options)  # type: ignore[arg-type]  # of several kinds


@pytest.mark.parametrize(
    ("costs", "parts"),
    [
        ([5, 5, 5, 5], [[0, 2], [1, 3]]),
        ([1, 1, 9, 1], [[2], [0, 1, 3]]),
        ([3], [[0], []]),
        ([2, 8, 3, 4], [[1], [0, 2, 3]]),
    ],
)
def test_parts_cost_about_the_same(costs: list[int], parts: list[list[int]]) -> None:
    assert divide(costs, 2) == parts


def test_the_documented_command_publishes_one_adapter(
    programs: Path, tiny: Backbone, tiny_folder: Path
) -> None:
    """Whatever `device` says: the recipe leaves it at `auto`."""
    documented = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^accelerate launch --multi_gpu .* train\b", documented, re.MULTILINE)
    recipe = write_recipe(tiny_folder)
    recipe.write_text(recipe.read_text(encoding="utf-8").replace(", device: cpu", ""))
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    variables = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true"}
    variables["PYTHON_EXEC"] = str(programs / "python")  # of the two processes
    done = subprocess.run(
        ["bash", "-c", f"{command} {recipe}"],
        env=variables,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert [folder.name for folder in Path("adapters/acme/topic").glob("[0-9]*")] == ["1"]
    assert done.stdout.count("adapters/acme/topic/1") == 1
    two = load_adapter(Path("adapters/acme/topic/1"), tiny)
    one = train(Recipe.load(recipe), tiny, progress=False)
    assert (one.training["processes"], two.training["processes"]) == (1, 2)
    assert_same_losses(one, two)
    assert_same_weights(one, two, tolerance=1e-4)
    assert one.metrics["test"] == pytest.approx(two.metrics["test"], abs=1e-4)


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"WORLD_SIZE": "2"}, "2 processes were launched, and this one would train alone on cpu"),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, "4 processes were launched"),
        (
            {"ACCELERATE_MIXED_PRECISION": "no", "MASTER_PORT": "29500"},
            "accelerate launch was asked for several processes and has started one",
        ),
    ],
)
def test_a_process_that_trains_alone_beside_others_is_refused(
    tiny: Backbone,
    tiny_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    words: str,
) -> None:
    recipe = write_recipe(tiny_folder)
    train(Recipe.load(recipe, ["training.epochs=1"]), tiny, progress=False)  # joins no process
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    result = run_command("train", recipe)
    assert result.code == 2
    assert words in result.err
    assert not Path("adapters").exists()


def launched(*arguments: str | Path) -> subprocess.Popen[str]:
    """`adapterkit train` in two processes."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
    command += ["--num_processes", "2", "--main_process_port", "0", "-m", "adapterkit", "train"]
    with Path("errors.txt").open("w", encoding="utf-8") as errors:
        return subprocess.Popen(
            [*command, *map(str, arguments)],
            env={**os.environ, "ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL,
            stderr=errors,
            text=True,
        )


def process_of(launcher: subprocess.Popen[str], rank: int) -> int:
    """The id of a process that the launcher has started."""
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = (path / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1]
            variables = (path / "environ").read_bytes().split(b"\0")
            if int(parent) == launcher.pid and f"RANK={rank}".encode() in variables:
                return int(path.name)
    raise AssertionError(f"the launcher has no process {rank}")


def wait_for_checkpoint(launcher: subprocess.Popen[str], name: str, number: int) -> None:
    checkpoints = Store("adapters").checkpoint_dir(name)
    while not any(int(path.name) >= number for path in checkpoints.glob("[0-9]*")):
        assert launcher.poll() is None, Path("errors.txt").read_text(encoding="utf-8")
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "words"),
    [
        (signal.SIGKILL, "local_rank: 1"),
        (signal.SIGSTOP, "Error: process 1 of 2 (counted from 0) has ended, or did not answer for"),
        (signal.SIGTERM, "Interrupted by SIGTERM after"),
    ],
    ids=["killed", "stopped", "ended"],
)
def test_a_lost_process_ends_the_others_and_one_process_goes_on(
    tiny: Backbone, tiny_folder: Path, number: signal.Signals, words: str
) -> None:
    sections = "{epochs: 90, batch_size: 4, timeout: 5, checkpoint: {steps: 1, minutes: 0}}"
    recipe = write_recipe(tiny_folder, training=sections)
    launcher = launched(recipe)
    wait_for_checkpoint(launcher, "acme/topic", 20)
    os.kill(process_of(launcher, 1), number)
    assert launcher.wait(timeout=120) != 0
    assert words in Path("errors.txt").read_text(encoding="utf-8")
    assert not list(Path("adapters/acme").glob("topic/[0-9]*"))
    result = run_command("train", recipe, "--resume")
    assert result.code == 0, result.err
    resumed = load_adapter(Path("adapters/acme/topic/1"), tiny)
    whole = train(Recipe.load(recipe), tiny, progress=False)
    for (_, alone), (_, together) in zip(
        whole.training["losses"], resumed.training["losses"], strict=True
    ):
        assert alone == pytest.approx(together, abs=2e-6)  # the record has six digits
    assert_same_weights(whole, resumed, tolerance=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "words"),
    [
        (signal.SIGKILL, "Interrupted by SIGTERM after"),  # the launcher ends the other process
        (signal.SIGSTOP, "Error: process 1 of 2 (counted from 0) has ended, or did not answer for"),
        (signal.SIGTERM, "Interrupted by SIGTERM after"),
    ],
    ids=["killed", "stopped", "ended"],
)
def test_recipes_on_two_processes_go_on_after_one_was_lost(
    tiny: Backbone, tiny_folder: Path, number: signal.Signals, words: str
) -> None:
    """Up to rounding: each process times the products of the backbone for itself."""
    recipes = []
    for name, epochs in (("long", 120), ("short", 30)):
        sections = f"{{epochs: {epochs}, batch_size: 4, timeout: 5, checkpoint: {{steps: 1}}}}"
        recipes.append(
            write_recipe(tiny_folder, f"t/{name}", training=sections).rename(f"{name}.yaml")
        )
    launcher = launched(*recipes)
    wait_for_checkpoint(launcher, "t/short", 20)
    wait_for_checkpoint(launcher, "t/long", 20)
    os.kill(process_of(launcher, 1), number)
    assert launcher.wait(timeout=120) != 0
    assert words in Path("errors.txt").read_text(encoding="utf-8")
    assert Store("adapters").names() == []
    assert launched(*recipes, "--resume").wait(timeout=300) == 0
    assert "goes on after" in Path("errors.txt").read_text(encoding="utf-8")
    for recipe in map(Recipe.load, recipes):
        resumed = load_adapter(Path("adapters", recipe.name, "1"), tiny)
        whole = train(recipe, tiny, progress=False)
        assert_same_weights(whole, resumed, tolerance=1e-5)
        assert_same_losses(whole, resumed)
    assert not Path("adapters/.checkpoints").exists()


MEASURED = """
import ctypes, gc, sys
from dataclasses import replace
from pathlib import Path

from adapterkit.training.recipe import Recipe
from adapterkit.training.train import load_backbone, train

def megabytes():
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    text = Path("/proc/self/smaps_rollup").read_text(encoding="utf-8")
    return next(int(x.split()[1]) for x in text.splitlines() if x.startswith("Rss:")) / 1024

recipe = Recipe.load("large.yaml")
small = replace(recipe, backbone=replace(recipe.backbone, model=sys.argv[1]))
train(small, progress=False)  # what is made once takes its memory before
before = megabytes()
backbone = load_backbone([recipe])
loaded = megabytes() - before
adapter = train(recipe, backbone, progress=False)
losses = " ".join(str(loss) for _, loss in adapter.training["losses"])
sys.stdout.write(f"{loaded} {megabytes() - before} {losses}\\n")
"""

FSDP = """
distributed_type: FSDP
fsdp_config: {fsdp_version: 2}
num_processes: 2
"""


@pytest.mark.slow
def test_each_process_keeps_half_of_the_frozen_weights(tiny_folder: Path) -> None:
    """With a configuration of Accelerate. All layers have 403 MB, one layer has 50."""
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "card", "rain"]
    sizes = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 8}
    save_random_bert(Path("large"), vocabulary, **sizes)
    rows = [f"card {'rain ' * (n % 3)},{n % 2},train" for n in range(16)]
    Path("rows.csv").write_text("\n".join(["text,label,split", *rows]), encoding="utf-8")
    text = RECIPE.format(name="large", model="large", rows="rows.csv")
    Path("large.yaml").write_text(f"{text}{LORA}\ntraining: {{epochs: 1, batch_size: 8}}")
    Path("measured.py").write_text(MEASURED, encoding="utf-8")
    Path("fsdp.yaml").write_text(FSDP, encoding="utf-8")
    found = {}
    for options in ("--multi_gpu --num_processes 2", "--config_file fsdp.yaml"):
        command = [sys.executable, "-m", "accelerate.commands.launch", *options.split()]
        command += ["--main_process_port", "0", "measured.py", str(tiny_folder)]
        variables = {"ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            command, env={**os.environ, **variables}, capture_output=True, text=True, timeout=500
        )
        assert done.returncode == 0, done.stderr[-3000:]
        found[options] = [list(map(float, x.split())) for x in done.stdout.splitlines()]
    whole, sharded = found.values()
    assert len(whole) == len(sharded) == 2
    for (loaded, trained, *losses), (_, _, *expected) in zip(sharded, whole, strict=True):
        assert loaded < 403 / 2 + 20
        assert trained < 403 / 2 + 50 + 20
        assert losses == pytest.approx(expected, abs=1e-4)
    assert min(loaded for loaded, *_ in whole) > 390


@pytest.mark.slow
def test_banking77_on_two_processes_is_banking77_on_one(
    programs: Path, shared_data: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"""
        name: t/topic
        data: {{path: {shared_data / "banking77" / "data.csv"}, validation: 0}}
        method: {{type: lora}}
        training: {{epochs: 1}}
        """
    )
    one = train(Recipe.load(recipe), progress=False)
    (two,) = train_in_processes([recipe], tmp_path, programs)
    assert_same_losses(one, two)
    assert one.metrics["test"]["accuracy"] == two.metrics["test"]["accuracy"]
