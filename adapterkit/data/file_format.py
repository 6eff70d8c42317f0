"""How a text file is written: its encoding, and the separator and quotes of a table."""

from __future__ import annotations

import codecs
from dataclasses import dataclass
from typing import Literal, get_args

Quoting = Literal["minimal", "none"]


@dataclass(frozen=True)
class FileFormat:
    """How a text file is written; Parquet files say it themselves.

    Attributes:
        separator: One character between the fields of a .csv or .tsv file. If omitted: a tab in a
            .tsv file; a comma in a .csv file, or the semicolon or tab of a header without commas.
        quoting: minimal: quotes enclose a field with separators or line ends. none: a quote is a
            plain character. If omitted: minimal, but a field of a .tsv file must not hold a tab or
            a line end, because a quote is a plain character in many of these files.
        encoding: Name of the encoding, as Python knows it, such as cp1252 or utf-16.
    """

    separator: str | None = None
    quoting: Quoting | None = None
    encoding: str = "utf-8"

    def __post_init__(self) -> None:
        if self.separator is not None and (len(self.separator) != 1 or self.separator in '"\r\n'):
            raise ValueError(
                f"separator: expected one character, no quote or line end, got {self.separator!r}"
            )
        if self.quoting not in (None, *get_args(Quoting)):
            options = ", ".join(get_args(Quoting))
            raise ValueError(f"quoting: expected one of {options}, got {self.quoting!r}")
        try:
            "".encode(self.encoding)
        except (LookupError, ValueError):  # the latter: a null character in the name
            raise ValueError(
                f"encoding: Python knows no text encoding {self.encoding!r:.60}; "
                "try utf-8, utf-16, cp1252 or gb18030"
            ) from None

    @property
    def codec(self) -> str:
        """The encoding to open a file with; a byte order mark is no part of the text."""
        is_utf8 = codecs.lookup(self.encoding).name == "utf-8"  # also "U8" or "utf_8"
        return "utf-8-sig" if is_utf8 else self.encoding
