"""A system in a process of its own, perhaps of another environment, that takes its turns.

It is told its job in one line of JSON on standard input and answers every line it is told with one
line of JSON on standard output; its messages go to standard error.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from ..errors import AdapterkitError

PATIENCE = 10.0
"""Seconds a guest has to end after its input has."""


class Guest:
    """One such process; leaving its `with` block ends it.

    Args:
        command: What starts it, word by word.
        job: What it is told first.

    Attributes:
        said: Its answer to the job.

    Raises:
        AdapterkitError: It does not start, or does not answer.
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
            self.said = self.tell(job)
        except BaseException:
            self._end()
            raise

    def tell(self, line: Any) -> Any:
        """Its answer to one line.

        Raises:
            AdapterkitError: It has ended, or says what is no JSON.
        """
        answer = ""
        try:
            self._process.stdin.write(json.dumps(line) + "\n")
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
                process.stdin.close()  # which tells it to end
                process.wait(PATIENCE)
            except (subprocess.TimeoutExpired, BrokenPipeError):
                process.kill()
