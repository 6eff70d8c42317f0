"""Writes the hashes of the versions in constraints.txt, for `pip install --require-hashes`.

`pip install uv`, then `python .ci/hash_packages.py` after a change of a dependency. Of a version,
every file counts that the package index has, for all Python versions and processors; of torch also
the wheels in the folder that PIP_FIND_LINKS names, such as a build without CUDA.
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
    "hashes.txt": "what adapterkit and its extras explain, sign and traces need, and its build",
    "hashes-dev.txt": "what tests and documentation need besides",
    "hashes-cuda.txt": "what torch needs besides with CUDA on Linux",
}
RUNTIME_EXTRAS = ("explain", "sign", "traces")
CUDA = re.compile(r"(nvidia|cuda)-")
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


def local_hashes(name: str, version: str) -> set[str]:
    """Hashes of the wheels of a version in PIP_FIND_LINKS, also of its local builds (`+cpu`)."""
    places = os.environ.get("PIP_FIND_LINKS", "").split()
    wheels = (path for place in places for path in Path(place).glob("*.whl"))
    found = (path for path in wheels if re.match(rf"{name}-{re.escape(version)}[-+]", path.name))
    return {f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}" for path in found}


def main() -> None:
    pinned = {
        normalised(line.partition("==")[0]): line
        for line in CONSTRAINTS.read_text(encoding="utf-8").splitlines()
        if "==" in line
    }
    runtime, everything = compiled(RUNTIME_EXTRAS), compiled((*RUNTIME_EXTRAS, "docs", "test"))
    lines: dict[str, list[str]] = {file: [HEAD.format(FILES[file])] for file in FILES}
    for name, (version, hashes) in sorted(everything.items()):
        if name in pinned:
            file, line = "hashes.txt" if name in runtime else "hashes-dev.txt", pinned[name]
        elif CUDA.match(name):
            file, line = "hashes-cuda.txt", f"{name}=={version}"
        else:
            sys.exit(f"{name}=={version} is not in {CONSTRAINTS}")
        if name == "torch":
            hashes |= local_hashes(name, version)
        lines[file] += [line, *(f" \\\n    --hash={one}" for one in sorted(hashes)), "\n"]
    for file, parts in lines.items():
        (FOLDER / file).write_text("".join(parts), encoding="utf-8")


if __name__ == "__main__":
    main()
