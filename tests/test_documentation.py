"""README and docs: every command and code block runs as it stands there, or says why not."""

from __future__ import annotations

import ast
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from filelock import FileLock
from typer.main import get_command

from adapterkit import AdapterkitError, Recipe
from adapterkit.cli.app import app
from adapterkit.yaml12 import read_yaml
from helpers.markdown import Block, blocks_of
from helpers.paths import ROOT

PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *(ROOT / "recipes" / name / "README.md" for name in ("deploy", "monitor", "router")),
    *sorted((ROOT / "docs").glob("*.md")),
]
README_LINES = 150
NOT_CODE = {"ini", "text"}
"""Languages of blocks that show something and do nothing."""
RECIPE_KEYS = {"name", "data", "backbone", "task", "method", "training", "augmentation"}
PORT = 8080
"""Where the documented server listens."""
TIMEOUT = 600


def _name(page: Path) -> str:
    """Names a page in the names of tests: `training`, or `recipes/router/README`."""
    return page.stem if page.parent in (ROOT, ROOT / "docs") else str(page.relative_to(ROOT))[:-3]


by_page = pytest.mark.parametrize("page", PAGES, ids=_name)


SLOW = [page for page in PAGES if any(block.marker == "slow" for block in blocks_of(page))]


class Reader:
    """Does what a page says, in a folder with `recipes` and `adapters` as in a clone.

    Args:
        folder: The folder; it is empty.
        programs: Goes first on the PATH.
    """

    def __init__(self, folder: Path, programs: Path) -> None:
        self.folder = folder
        (folder / "recipes").symlink_to(ROOT / "recipes")
        shutil.copytree(ROOT / "adapters", folder / "adapters")
        installed = str(Path(sys.executable).parent)
        path = os.pathsep.join([str(programs), installed, os.environ["PATH"]])
        self.environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
        self.environment["OMP_NUM_THREADS"] = "1"
        self._log = folder / "server.log"
        self._server: subprocess.Popen[bytes] | None = None
        self._port = FileLock(Path(tempfile.gettempdir()) / f"adapterkit_{PORT}.lock")

    def follow(self, block: Block) -> None:
        """Does what one block says."""
        if block.title is not None:
            (self.folder / block.title).write_text(block.text, encoding="utf-8")
        elif block.language in NOT_CODE:
            return
        elif block.language == "yaml":
            self._yaml(block)
        elif block.language == "toml":
            tomllib.loads(block.text)
        elif block.language == "python":
            (self.folder / "block.py").write_text(block.text, encoding="utf-8")
            self._bash(block, "python block.py")
        elif block.language == "bash" and block.text.startswith("adapterkit serve"):
            self._serve(block)
        elif block.language == "bash":
            self._bash(block, block.text)
        else:
            pytest.fail(f"{block.place}: nobody knows what to do with '{block.language}'")

    def _bash(self, block: Block, script: str) -> None:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT,
        )
        sys.stdout.write(f"{block.place}\n{block.text}{done.stdout}")  # shown if the test fails
        assert done.returncode == 0, f"{block.place} ends with {done.returncode}"
        assert '"error"' not in done.stdout, f"{block.place}: the server answers with an error"

    def _yaml(self, block: Block) -> None:
        """Checks a recipe, or a part of one; a first line `# FILE.yaml` makes it a file."""
        content = read_yaml(block.text)
        if named := re.match(r"# (\S+\.yaml)\n", block.text):
            (self.folder / named[1]).write_text(block.text, encoding="utf-8")
        if RECIPE_KEYS.issuperset(content):
            check_part_of_recipe(content, self.folder)

    def _serve(self, block: Block) -> None:
        self.close()
        self._port.acquire(TIMEOUT)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", PORT)) == 0:
                pytest.skip(f"another program listens on port {PORT}")
        with self._log.open("w") as log:
            self._server = subprocess.Popen(
                ["bash", "-c", f"exec {block.text}"],
                cwd=self.folder,
                env=self.environment,
                stderr=log,
            )
        deadline = time.monotonic() + TIMEOUT
        while not _is_ready():
            running = self._server.poll() is None and time.monotonic() < deadline
            assert running, self._log.read_text()
            time.sleep(0.05)

    def close(self) -> None:
        """Stops the server of the page."""
        if self._server is not None:
            self._server.terminate()
            code = self._server.wait(TIMEOUT)
            self._server = None
            self._port.release()
            assert code == 0, self._log.read_text()


def _is_ready() -> bool:
    try:
        with urlopen(f"http://127.0.0.1:{PORT}/ready") as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


def check_part_of_recipe(content: dict[str, Any], folder: Path) -> None:
    """Loads a recipe, after adding what a recipe needs and this part of one lacks.

    Raises:
        ValueError: It is not a recipe.
    """
    whole: dict[str, Any] = {"name": "a/b", "data": {}, "method": {"type": "lora"}, **content}
    if not {"path", "train", "dataset"} & whole["data"].keys():
        whole["data"] = {"path": "rows.csv", **whole["data"]}
    if "task" in whole:
        whole["task"] = {"type": "classification", **whole["task"]}
    Recipe.of(whole, folder)


@pytest.fixture
def reader(programs: Path, tmp_path: Path) -> Iterator[Reader]:
    reader = Reader(tmp_path, programs)
    yield reader
    reader.close()


@by_page
def test_a_page_runs_as_it_stands_there(page: Path, reader: Reader) -> None:
    for block in blocks_of(page):
        if block.marker is None:
            reader.follow(block)


@pytest.mark.slow
@pytest.mark.parametrize("page", SLOW, ids=_name)
def test_a_page_runs_with_its_slow_blocks(page: Path, reader: Reader) -> None:
    for block in blocks_of(page):
        if block.marker != "not run":
            reader.follow(block)


@by_page
def test_every_block_is_found(page: Path) -> None:
    content = page.read_text(encoding="utf-8")
    assert content.count("```") == 2 * len(blocks_of(page))
    assert len(re.findall(r"^<!-- (?:not run|slow):", content, re.MULTILINE)) == sum(
        block.marker is not None for block in blocks_of(page)
    )


@by_page
def test_python_blocks_import_from_adapterkit_alone(page: Path) -> None:
    for block in blocks_of(page):
        if block.language == "python":
            for node in ast.walk(ast.parse(block.text)):
                if isinstance(node, ast.ImportFrom):
                    assert not str(node.module).startswith("adapterkit."), block.place
                elif isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                    assert not any(name.startswith("adapterkit.") for name in names), block.place


@by_page
def test_keys_of_recipes_in_the_text_exist(page: Path, tmp_path: Path) -> None:
    for code in re.findall(
        r"`((?:data|backbone|task|method|training|augmentation): \{[^`]*\})`",
        page.read_text(encoding="utf-8"),
    ):
        if "..." in code:
            continue
        content = read_yaml(code.replace("\\|", "|"))
        try:
            check_part_of_recipe(content, tmp_path)
        except (AdapterkitError, ValueError) as error:
            pytest.fail(f"{page.name}: {code}: {error}")


@by_page
def test_files_that_a_page_links_to_exist(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


@by_page
def test_files_that_a_page_names_exist(page: Path) -> None:
    for name in re.findall(r"`([a-z_]+/[a-z_/]*\.py)`", page.read_text(encoding="utf-8")):
        # The life of a request names sub-packages of `serving` without it.
        folders = (ROOT, ROOT / "adapterkit", ROOT / "adapterkit/serving")
        assert any((folder / name).is_file() for folder in folders), f"{page.name}: {name}"


def test_the_site_builds_and_needs_no_network(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="the extra docs is not installed")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > len(list((ROOT / "docs").glob("*.md")))
    loaded = r"<(?:script|link|img)[^>]+(?:src|href)=\"?https?://[^>]*>"
    for page in pages:
        assert re.findall(loaded, page.read_text(encoding="utf-8")) == [], page.name


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= README_LINES


def test_the_pages_speak_of_every_command() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    group: Any = get_command(app)
    names: dict[str, Any] = group.commands
    for name, command in names.items():
        assert f"adapterkit {name}" in text, name
        for inner in getattr(command, "commands", {}):
            assert f"adapterkit {name} {inner}" in text, f"{name} {inner}"


def test_a_block_that_fails_fails_the_test(reader: Reader, tmp_path: Path) -> None:
    def block(language: str, text: str) -> Block:
        return Block(tmp_path, 1, language, None, text, None, None)

    failing: list[tuple[type[Exception], str, str]] = [
        (AssertionError, "bash", "adapterkit predict no/adapter text\n"),
        (AssertionError, "python", "from adapterkit import Nothing\n"),
        (ValueError, "yaml", "training: {epoch: 3}\n"),
    ]
    for error, language, text in failing:
        with pytest.raises(error):
            reader.follow(block(language, text))
