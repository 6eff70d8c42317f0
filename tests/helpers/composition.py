"""The services of a compose file as processes of this machine.

A folder stands for the root of all containers. Addresses of the composition's network become free
ports of 127.0.0.1. Everything else of a command and an environment stays as the file has it.
"""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

VARIABLE = re.compile(r"\$(?:\$|\{(\w+)(?::([-?])([^}]*))?\})")
"""`$$`, `${NAME}`, `${NAME:-default}` and `${NAME:?message}`."""

ABSOLUTE = re.compile(r"(?<![^\s=])/")
"""Where a path of a container begins in an argument, and not a part of a URL."""

EVERYWHERE = "0.0.0.0"


def interpolated(value: Any, variables: Mapping[str, str]) -> Any:
    """A value of a compose file with its variables replaced.

    Raises:
        KeyError: A variable without a default has no value.
    """
    if isinstance(value, dict):
        return {key: interpolated(one, variables) for key, one in value.items()}
    if isinstance(value, list):
        return [interpolated(one, variables) for one in value]
    if not isinstance(value, str):
        return value

    def replacement(found: re.Match[str]) -> str:
        name, kind, rest = found.groups()
        if name is None:
            return "$"
        return variables.get(name, rest) if kind == "-" else variables[name]

    return VARIABLE.sub(replacement, value)


def free_port() -> int:
    """A port on which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


class Composition:
    """A compose file.

    Args:
        file: The file.
        root: An empty folder for the files of the containers.
        variables: Values of the file's variables.
        addresses: Address here of each `host:port` in the network of the composition.
    """

    def __init__(
        self,
        file: Path,
        root: Path,
        variables: Mapping[str, str],
        addresses: Mapping[str, str],
    ) -> None:
        self.content = interpolated(YAML(typ="safe").load(file), variables)
        self.root = root
        self.addresses = addresses
        self._folder = file.parent
        for name, service in self.content["services"].items():
            self._mount(name, service)

    def command(self, name: str, entrypoint: Sequence[str]) -> list[str]:
        """The command of a service.

        Args:
            name: The service.
            entrypoint: That of its image, as a command of this machine.
        """
        service = self.content["services"][name]
        ports = {
            key.partition(":")[2]: here.rpartition(":")[2]
            for key, here in self.addresses.items()
            if key.startswith(f"{name}:")
        }
        words = [self.local(ports.get(word, word)) for word in service["command"]]
        return [*service.get("entrypoint", entrypoint), *words]

    def environment(self, name: str) -> dict[str, str]:
        """The environment of a service."""
        variables = self.content["services"][name].get("environment", {})
        return {key: self.local(value) for key, value in variables.items()}

    def local(self, text: str) -> str:
        """A text of the composition with the paths and addresses that it has here."""
        for address, here in self.addresses.items():
            text = text.replace(address, here)
        return ABSOLUTE.sub(f"{self.root}/", text).replace(EVERYWHERE, "127.0.0.1")

    def path(self, path: str) -> Path:
        """Where a file of a container is here."""
        return Path(self.local(path))

    def _mount(self, name: str, service: Mapping[str, Any]) -> None:
        """Copies the files of a service, and makes the folders of its volumes."""
        secrets = self.content.get("secrets", {})
        files = {f"/run/secrets/{one}": secrets[one]["file"] for one in service.get("secrets", ())}
        for volume in service.get("volumes", ()):
            source, target, *_ = volume.split(":")
            if source.startswith("."):
                files[target] = source
            else:
                self.path(target).mkdir(parents=True, exist_ok=True)
        for target, source in files.items():
            self.path(target).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self._folder / source, self.path(target))


def image_environment(containerfile: Path) -> dict[str, str]:
    """The variables that the last stage of an image sets, without PATH."""
    stage = containerfile.read_text(encoding="utf-8").rpartition("\nFROM ")[2]
    lines = stage.replace("\\\n", " ").splitlines()
    pairs = (pair for line in lines if line.startswith("ENV ") for pair in line.split()[1:])
    found = dict(pair.split("=", 1) for pair in pairs)
    del found["PATH"]
    return found


@contextmanager
def running(
    command: Sequence[str], environment: Mapping[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a service, whose output goes to a file, until the block ends."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=output, cwd=log.parent
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
