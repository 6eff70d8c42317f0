"""Writes the hashes of the versions in constraints.txt, for `pip install --require-hashes`.

`pip install uv`, then `PIP_FIND_LINKS=FOLDER python .ci/hash_packages.py` after a change of a
dependency. Of a version, every file counts that the package index has, for all Python versions and
processors. FOLDER has the wheels of torch without CUDA (2.13.0+cpu), which the index does not have.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
CONSTRAINTS = FOLDER / "constraints.txt"
HEAD = "# Written by .ci/hash_packages.py: {}.\n"
FILES = {
    "hashes.txt": "what adapterkit, its extras explain, sign and traces, and its build need",
    "hashes-cpu.txt": "torch without CUDA",
    "hashes-cuda.txt": "torch of the package index, with CUDA on Linux",
    "hashes-dev.txt": "what tests and documentation need besides",
}
RUNTIME_EXTRAS = ("explain", "sign", "traces")
CUDA = re.compile(r"(nvidia|cuda)-|triton$")
ENTRY = re.compile(
    r"^([\w.-]+)==(\S+) \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", re.MULTILINE
)
HASH = re.compile(r"sha256:[0-9a-f]{64}")


def normalised(name: str) -> str:
    """The name of a package as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def compiled(extras: tuple[str, ...]) -> dict[str, tuple[str, set[str]]]:
    """Version and hashes by package of the project with some extras, and of its build."""
    command = ["uv", "pip", "compile", "pyproject.toml", "-", "--constraint", str(CONSTRAINTS)]
    command += [part for extra in extras for part in ("--extra", extra)]
    command += ["--generate-hashes", "--no-header", "--no-annotate", "--python-version", "3.11.5"]
    command += ["--python-platform", "x86_64-manylinux_2_28"]
    done = subprocess.run(  # noqa: S603
        command, cwd=FOLDER.parent, input="hatchling", capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(done.stderr)
    return {
        normalised(name): (version, set(HASH.findall(hashes)))
        for name, version, hashes in ENTRY.findall(done.stdout)
    }


def local_builds(name: str, version: str) -> dict[str, set[str]]:
    """Hashes by version of the wheels in PIP_FIND_LINKS that are local builds (`+cpu`)."""
    found: dict[str, set[str]] = {}
    for wheel in Path(os.environ.get("PIP_FIND_LINKS", "missing")).glob(f"{name}-{version}+*.whl"):
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        found.setdefault(wheel.name.split("-")[1], set()).add(f"sha256:{digest}")
    if not found:
        sys.exit(f"PIP_FIND_LINKS: no wheel {name}-{version}+cpu-....whl is there")
    return found


def entry(pin: str, hashes: set[str]) -> str:
    """The lines of a package."""
    return "".join([pin, *(f" \\\n    --hash={one}" for one in sorted(hashes)), "\n"])


def main() -> None:
    lines = CONSTRAINTS.read_text(encoding="utf-8").splitlines()
    pins = {normalised(line.partition("==")[0]): line for line in lines if "==" in line}
    runtime, everything = compiled(RUNTIME_EXTRAS), compiled((*RUNTIME_EXTRAS, "docs", "test"))
    texts = {file: HEAD.format(content) for file, content in FILES.items()}
    for name, (version, hashes) in sorted(everything.items()):
        if name not in pins and not CUDA.match(name):
            sys.exit(f"{name}=={version} is not in {CONSTRAINTS}")
        text = entry(pins.get(name, f"{name}=={version}"), hashes)
        if name == "torch" or CUDA.match(name):
            texts["hashes-cuda.txt"] += text
        elif name in runtime:
            texts["hashes.txt"] += text
        if name in pins and (CUDA.match(name) or name not in runtime):
            texts["hashes-dev.txt"] += text
    version, _ = everything["torch"]
    for build, hashes in local_builds("torch", version).items():
        texts["hashes-cpu.txt"] += entry(f"torch=={build}", hashes)
    for file, text in texts.items():
        (FOLDER / file).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
