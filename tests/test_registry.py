"""Kinds of a package and of installed plug-ins."""

from __future__ import annotations

import subprocess
import sys
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


def run(site: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Runs Python code in a process that sees a folder of installed distributions."""
    code = f"import sys; sys.path.insert(0, {str(site)!r}); {code}"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def error_line(site: Path) -> str:
    """The one line that a command prints that asks for the methods, and cannot have them."""
    code = "sys.argv = ['adapterkit', 'train', '--keys']; from adapterkit.__main__ import main"
    done = run(site, f"{code}; main()")
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    return line


def test_a_plugin_comes_after_the_kinds_of_the_package(tmp_path: Path) -> None:
    install(tmp_path, "probe-kit", "z_probe = probe_module:Probe", METHOD.format("z_probe"))
    done = run(tmp_path, "from adapterkit.methods.base import methods; print(*methods())")
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
def test_a_broken_plugin_is_one_line(tmp_path: Path, entry: str, code: str, reason: str) -> None:
    install(tmp_path, "broken-kit", entry, code)
    line = error_line(tmp_path)
    assert reason in line
    assert "'broken'" in line
    assert "'broken-kit'" in line
    assert "adapterkit.methods" in line


def test_two_kinds_of_one_name_are_refused(tmp_path: Path) -> None:
    install(tmp_path, "second-lora", "lora = second_lora:Probe", METHOD.format("lora"))
    line = error_line(tmp_path)
    assert "'lora'" in line
    assert "adapterkit.methods.lora.LoRA" in line
    assert "'second-lora'" in line


def test_two_plugins_of_one_name_are_refused(tmp_path: Path) -> None:
    for name in ("first-kit", "second-kit"):
        module = name.replace("-", "_")
        install(tmp_path, name, f"probe = {module}:Probe", METHOD.format("probe"))
    line = error_line(tmp_path)
    assert "'probe'" in line
    assert "'first-kit'" in line
    assert "'second-kit'" in line
