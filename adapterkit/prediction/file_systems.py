"""Files of jobs, on this machine or wherever fsspec reaches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import AdapterkitError, DataError


def file_system(url: str, name: str) -> tuple[Any, str]:
    """The fsspec file system of a path or URL, and the path in it.

    Args:
        url: The path or URL.
        name: How the message calls it.

    Raises:
        DataError: The protocol is not known, or its package is not installed.
    """
    from fsspec.core import url_to_fs

    try:
        files, path = url_to_fs(url, use_listings_cache=False)
    except (ValueError, ImportError) as error:
        raise DataError(f"{name}: {error}") from None
    return files, path


@contextmanager
def file_errors(fault: str) -> Iterator[None]:
    """Inside, an error of a file system becomes one of ours. Each has exceptions of its own: that
    of S3 without credentials is no `OSError`.

    Args:
        fault: What is wrong then, such as `answers/part-00000.jsonl: cannot be written`.

    Raises:
        DataError: There was an error.
    """
    try:
        yield
    except (AdapterkitError, MemoryError):
        raise
    except Exception as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise DataError(f"{fault} ({' '.join(str(reason).split())})") from None
