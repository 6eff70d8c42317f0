"""Commands of adapterkit without the seconds in which Python imports torch.

A server process imports the package once and forks for every command. The programs `adapterkit` and
`python` of a folder for the PATH connect to it: the command runs in the fork, with the caller's
arguments, folder, environment and standard streams, and is killed with the program. Plug-ins are
found in the caller's PYTHONPATH, because no import of the server looks for them.
"""

from __future__ import annotations

import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from filelock import FileLock

PRELOADED = """
accelerate captum.attr datasets evaluate matplotlib.backends.backend_agg matplotlib.pyplot
rich.progress sklearn.metrics sklearn.preprocessing transformers.models.bert.modeling_bert
transformers.models.bert.tokenization_bert uvicorn adapterkit.adapter.model_card adapterkit.cli.app
adapterkit.client.http adapterkit.inference.attribution adapterkit.inference.predictor
adapterkit.serving.server adapterkit.training.comparison adapterkit.training.data_report
adapterkit.training.recipe_group
""".split()
PACKAGES = """
adapterkit.backbone.families adapterkit.methods adapterkit.metrics adapterkit.ops.kernels
adapterkit.tasks adapterkit.training.callbacks
""".split()
"""Packages of which every module is imported. None must be asked for its kinds, since the answer is
kept and lacks those of plug-ins."""

CLIENT = """#!{python} -IS
import json, os, signal, socket, sys
name, arguments = os.path.basename(sys.argv[0]), sys.argv[1:]
if name == "adapterkit":
    command = ["-m", name, *arguments]
else:
    command = arguments[1:] if arguments[:1] == ["-u"] else arguments
    if not (command and (command[0] == "-m" or command[0].endswith(".py"))):
        os.execv({python!r}, [{python!r}, *arguments])
connection = socket.socket(socket.AF_UNIX)
connection.connect({socket!r})
request = [command, os.getcwd(), dict(os.environ)]
file = connection.makefile("rwb")
socket.send_fds(connection, [b"\\0"], [0, 1, 2])
file.write(json.dumps(request).encode() + b"\\n")
file.flush()
process = int(file.readline())
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda number, _: os.kill(process, number))
sys.exit(int(file.readline() or b"1"))
"""

LONELY_SECONDS = 60.0
"""After which a server ends that has no user."""


@contextmanager
def command_server(folder: Path) -> Iterator[Path]:
    """Starts the server of a folder, or uses the one that another process has started there.

    Yields:
        The folder to put on PATH.
    """
    server = None
    with FileLock(folder / "lock"):
        user = _connect(folder)
        if user is None:
            server = _start(folder)
            while (user := _connect(folder)) is None:
                assert server.poll() is None, "the command server did not start"
                time.sleep(0.05)
    with user:
        yield folder / "bin"
    if server is not None:
        server.wait()  # it ends with its last user, which may be another process


def _connect(folder: Path) -> socket.socket | None:
    """A connection that keeps the server of a folder running; None if there is no server."""
    connection = socket.socket(socket.AF_UNIX)
    with suppress(OSError):
        connection.connect(str(folder / "users"))
        if connection.recv(1):
            return connection
    connection.close()
    return None


def _start(folder: Path) -> subprocess.Popen[bytes]:
    """Writes the programs and starts the server, which then imports for seconds."""
    programs = folder / "bin"
    programs.mkdir(exist_ok=True)
    client = CLIENT.format(python=sys.executable, socket=str(folder / "commands"))
    for name in ("adapterkit", "python"):
        (programs / name).write_text(client, encoding="utf-8")
        (programs / name).chmod(0o755)
    return subprocess.Popen([sys.executable, "-P", __file__, str(folder)])


def serve(folder: Path) -> None:
    """Forks for every command until the last user has gone."""
    for name in PRELOADED:
        import_module(name)
    for package in PACKAGES:
        for module in iter_modules(import_module(package).__path__):
            import_module(f"{package}.{module.name}")
    gc.freeze()  # a command collects only its own garbage
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no one waits for the child processes
    commands, users = _listen(folder / "commands"), _listen(folder / "users")
    connected: list[socket.socket] = []
    while True:
        ready, _, _ = select.select([commands, users, *connected], [], [], LONELY_SECONDS)
        if commands in ready:
            connection, _ = commands.accept()
            if os.fork() == 0:
                commands.close()  # nobody must wait for a server that has ended
                users.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                run_command(connection)
            connection.close()
        if users in ready:
            connected.append(users.accept()[0])
            connected[-1].send(b"1")
        for user in set(ready) & set(connected):
            user.close()
            connected.remove(user)
        if not connected:
            return


def _listen(path: Path) -> socket.socket:
    """A socket at a path, where a client finds it only when it listens."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{path}.new")
    listener.listen()
    os.rename(f"{path}.new", path)
    return listener


def run_command(connection: socket.socket) -> None:
    """Runs the command of a connection in this process and exits."""
    _, streams, *_ = socket.recv_fds(connection, 1, 3)
    file = connection.makefile("rwb")
    command, folder, environment = json.loads(file.readline())
    file.write(f"{os.getpid()}\n".encode())
    file.flush()
    threading.Thread(target=_end_with, args=(connection,), daemon=True).start()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
    code: object = 0
    try:
        if command[0] == "-m":
            sys.argv = command[1:]
            runpy.run_module(command[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = command
            sys.path.insert(0, str(Path(command[0]).parent))
            runpy.run_path(command[0], run_name="__main__")
    except SystemExit as end:
        code = end.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    if isinstance(code, str):
        sys.stderr.write(f"{code}\n")
    number = code if isinstance(code, int) else int(code is not None)
    sys.stdout.flush()
    sys.stderr.flush()
    with suppress(BrokenPipeError):
        file.write(f"{number}\n".encode())
        file.flush()
    os._exit(number)


def _end_with(connection: socket.socket) -> None:
    """Kills this process when the program has ended, which waits for it unless it is killed."""
    connection.recv(1)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
