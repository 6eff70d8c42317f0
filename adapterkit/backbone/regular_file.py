"""Files that are opened by name: regular ones of a known size, never a pipe or a device.

Opening a pipe waits for a writer, and reading a device may never end.
"""

from __future__ import annotations

import stat
from pathlib import Path

from ..errors import AdapterkitError


def check_regular_file(path: Path, limit: int, error_type: type[AdapterkitError]) -> None:
    """Refuses what cannot be opened and read in a bounded time. Symbolic links are followed.

    Args:
        path: The file.
        limit: The most bytes that it may have.
        error_type: The exception that is raised.

    Raises:
        FileNotFoundError: There is no such file.
        AdapterkitError: It is not a regular file, or larger than the limit.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise error_type(f"{path}: cannot be opened ({error.strerror})") from None
    if not stat.S_ISREG(status.st_mode):
        raise error_type(f"{path}: not a regular file")
    if status.st_size > limit:
        raise error_type(f"{path}: has {status.st_size} bytes, more than the {limit} that are read")
