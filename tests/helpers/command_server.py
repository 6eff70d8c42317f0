"""Commands of adapterkit without the seconds in which Python imports torch.

A server process imports the package once and forks for every command. The programs `adapterkit` and
`python` of a folder for the PATH connect to it: the command runs in the fork, with the caller's
arguments, folder, environment and standard streams. Plug-ins are found in the caller's PYTHONPATH,
because no import of the server looks for them.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PRELOADED = """
accelerate captum.attr datasets evaluate matplotlib.pyplot transformers uvicorn
adapterkit.adapter.model_card adapterkit.cli.app adapterkit.client.http
adapterkit.inference.attribution adapterkit.inference.predictor adapterkit.serving.server
adapterkit.training.comparison adapterkit.training.data_report adapterkit.training.train
""".split()

CLIENT = """#!{python} -IS
import json, os, signal, socket, sys
name = os.path.basename(sys.argv[0])
arguments = sys.argv[1:]
if name == "python" and not (arguments and arguments[0].endswith(".py")):
    os.execv({python!r}, [{python!r}, *arguments])
connection = socket.socket(socket.AF_UNIX)
connection.connect({socket!r})
request = [name, arguments, os.getcwd(), dict(os.environ)]
file = connection.makefile("rwb")
socket.send_fds(connection, [b"\\0"], [0, 1, 2])
file.write(json.dumps(request).encode() + b"\\n")
file.flush()
process = int(file.readline())
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda number, _: os.kill(process, number))
sys.exit(int(file.readline() or b"1"))
"""


@contextmanager
def command_server(folder: Path) -> Iterator[Path]:
    """Run the server; return the folder to put on PATH."""
    programs, path = folder / "bin", str(folder / "socket")
    programs.mkdir()
    for name in ("adapterkit", "python"):
        file = programs / name
        file.write_text(CLIENT.format(python=sys.executable, socket=path), encoding="utf-8")
        file.chmod(0o755)
    server = subprocess.Popen([sys.executable, "-P", __file__, path])
    try:
        while not Path(path).exists():
            assert server.poll() is None, "the command server did not start"
            time.sleep(0.05)
        yield programs
    finally:
        server.terminate()
        server.wait(30)


def serve(path: str) -> None:
    """Accept connections until killed."""
    for module in PRELOADED:
        __import__(module)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no one waits for the child processes
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{path}.new")
    listener.listen()
    os.rename(f"{path}.new", path)  # a client must not find a socket that does not listen yet
    while True:
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            run_command(connection)
        connection.close()


def run_command(connection: socket.socket) -> None:
    """Run the command of a connection in this process and exit."""
    _, streams, *_ = socket.recv_fds(connection, 1, 3)
    file = connection.makefile("rwb")
    name, arguments, folder, environment = json.loads(file.readline())
    file.write(f"{os.getpid()}\n".encode())
    file.flush()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
    code: object = 0
    try:
        if name == "python":
            sys.argv = arguments
            sys.path.insert(0, str(Path(arguments[0]).parent))
            runpy.run_path(arguments[0], run_name="__main__")
        else:
            from adapterkit.__main__ import main

            sys.argv = [name, *arguments]
            main()
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


if __name__ == "__main__":
    serve(sys.argv[1])
