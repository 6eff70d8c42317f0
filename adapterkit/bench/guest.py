"""A guest: a system under test in a process of its own, perhaps of another environment.

A guest reads its job as one line of JSON from standard input. It answers this line and every later
one with one line of JSON on standard output; its messages go to standard error.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from ..errors import AdapterkitError

SHUTDOWN_SECONDS = 10.0
"""Seconds that a guest has to exit after its input was closed."""


class Guest:
    """One guest process; leaving its `with` block ends it.

    Args:
        command: Program and arguments.
        job: The first message.

    Attributes:
        first_reply: The reply to the job.

    Raises:
        AdapterkitError: The process does not start, or does not reply.
    """

    def __init__(self, command: Sequence[str], job: Mapping[str, Any]) -> None:
        self.command = " ".join(command)
        try:
            self._process: Any = subprocess.Popen(  # noqa: S603
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        except OSError as error:
            raise AdapterkitError(f"'{self.command}' cannot be run ({error.strerror})") from None
        try:
            self.first_reply = self.request(job)
        except BaseException:
            self._end()
            raise

    def request(self, message: Any) -> Any:
        """Sends one message and returns the reply.

        Raises:
            AdapterkitError: The process has ended, or its reply is not JSON.
        """
        answer = ""
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
            return json.loads(answer)
        except BrokenPipeError:
            pass
        except ValueError:
            if answer:
                raise AdapterkitError(
                    f"'{self.command}' answered {answer[:60]!r}, which is not a line of JSON"
                ) from None
        status = self._process.wait()
        raise AdapterkitError(
            f"'{self.command}' ended with status {status} instead of an answer; it says why above"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    def _end(self) -> None:
        with self._process as process:
            try:
                process.stdin.close()  # a guest exits at the end of its input
                process.wait(SHUTDOWN_SECONDS)
            except (subprocess.TimeoutExpired, BrokenPipeError):
                process.kill()
