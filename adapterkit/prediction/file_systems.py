"""Files of jobs, on this machine or wherever fsspec reaches."""

from __future__ import annotations

from typing import Any

from ..errors import DataError


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
