"""Kinds of a package and of installed plug-ins."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from adapterkit.methods.base import methods

METHOD = '''
from dataclasses import dataclass
from typing import ClassVar

from adapterkit.methods.head import Head


@dataclass(frozen=True)
class Probe(Head):
    """A head under another name."""

    type: ClassVar[str] = "{}"
    peft_type: ClassVar[str] = "PROBE"
'''


def install(site: Path, distribution: str, entry: str, code: str) -> None:
    """Writes what an installer writes: a module and the metadata of its distribution."""
    module = entry.partition("=")[2].partition(":")[0].strip()
    (site / f"{module}.py").write_text(code, encoding="utf-8")
    info = site / f"{distribution.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[adapterkit.methods]\n{entry}\n")


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(programs: Path, tmp_path: Path) -> Run:
    """Runs a program in a process that has the distributions of the temporary folder installed."""

    def run_program(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [programs / name, *arguments],
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )

    return run_program


def error_line(run: Run) -> str:
    """The one line of a command that lists the methods and cannot load them."""
    done = run("adapterkit", "train", "--keys")
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    return line


def test_a_plugin_comes_after_the_kinds_of_the_package(tmp_path: Path, run: Run) -> None:
    install(tmp_path, "probe-kit", "z_probe = probe_module:Probe", METHOD.format("z_probe"))
    (tmp_path / "show.py").write_text(
        "from adapterkit.methods.base import methods\nprint(*methods())\n"
    )
    done = run("python", "show.py")
    assert done.stderr == ""
    assert done.stdout.split() == [*methods(), "z_probe"]


@pytest.mark.parametrize(
    ("entry", "code", "reason"),
    [
        ("broken = broken_module:Probe", "import no_such_module_at_all", "no_such_module_at_all"),
        ("broken = broken_module:Probe", "raise OSError('two\\nlines')", "OSError: two lines"),
        ("broken = broken_module:Probe", "", "no attribute 'Probe'"),
        ("broken = broken_module:Probe", "Probe = 3", "is not a subclass of Method"),
        ("broken = broken_module:Probe", METHOD.format("other"), "has the type 'other'"),
        (
            "broken = broken_module:Broken",
            "from adapterkit.methods.base import Method\n"
            "class Broken(Method):\n    type = 'broken'\n",
            "does not implement",
        ),
    ],
)
def test_a_broken_plugin_is_one_line(
    tmp_path: Path, run: Run, entry: str, code: str, reason: str
) -> None:
    install(tmp_path, "broken-kit", entry, code)
    line = error_line(run)
    assert reason in line
    assert "'broken'" in line
    assert "'broken-kit'" in line
    assert "adapterkit.methods" in line


def test_two_kinds_of_one_name_are_refused(tmp_path: Path, run: Run) -> None:
    install(tmp_path, "second-lora", "lora = second_lora:Probe", METHOD.format("lora"))
    line = error_line(run)
    assert "'lora'" in line
    assert "adapterkit.methods.lora.LoRA" in line
    assert "'second-lora'" in line


def test_two_plugins_of_one_name_are_refused(tmp_path: Path, run: Run) -> None:
    for name in ("first-kit", "second-kit"):
        module = name.replace("-", "_")
        install(tmp_path, name, f"probe = {module}:Probe", METHOD.format("probe"))
    line = error_line(run)
    assert "'probe'" in line
    assert "'first-kit'" in line
    assert "'second-kit'" in line
