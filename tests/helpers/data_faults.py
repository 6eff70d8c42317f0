"""Data files with one error each, and the message that names it."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from pyarrow.parquet import write_table

CSV = "text,label\nmy card,no\nthe bank,yes\n"
JSONL = '{"text": "my card", "label": "no"}\n{"text": "the bank", "label": "yes"}\n'
CSV_FAULTS: dict[str, tuple[str | bytes, str]] = {
    "empty file": ("", "x.csv: there are no rows"),
    "header alone": ("text,label\n", "x.csv: there are no rows"),
    "blank lines": ("\n\n\n", "x.csv: there are no rows"),
    "no text column": ("txt,label\na,b\n", "x.csv:2: there is no column 'text' for text; did you"),
    "no label column": ("text,lable\na,b\n", "x.csv:2: there is no column 'label' for label; did"),
    "bars": ("text|label\na|b\n", "x.csv:2: there is no column 'text' for text; valid are:"),
    "column twice": ("text,label,text\na,b,c\n", "x.csv:1: the column 'text' is there twice"),
    "nameless column": ("text,label,,\na,b,,c\n", "x.csv:2: field 4 is 'c', and the header has no"),
    "empty text": (CSV + ",no\n", "x.csv:4: column 'text' is empty; fill it or leave the row out"),
    "blank text": (CSV + '" \t ",no\n', "x.csv:4: column 'text' is empty"),
    "ideographic space": (CSV + "\u3000,no\n", "x.csv:4: column 'text' is empty"),
    "empty label": (CSV + "a,\n", "x.csv:4: column 'label' is empty"),
    "field too few": (CSV + "a\n", "x.csv:4: 1 fields where the header has 2; quote texts that"),
    "field too many": (CSV + "a, b,no\n", "x.csv:4: 3 fields where the header has 2; quote texts"),
    "after blank lines": (CSV + "\n\n,no\n", "x.csv:6: column 'text' is empty"),
    "after a long quote": (CSV + '"a\n\nb",no\n,no\n', "x.csv:7: column 'text' is empty"),
    "inside a long quote": (CSV + '"a\n\nb",no,no\n', "x.csv:4: 3 fields where the header has 2"),
    "after Windows lines": (
        (CSV + '"a\nb",no\n,no\n').replace("\n", "\r\n"),
        "x.csv:6: column 'text' is empty",
    ),
    "after old Mac lines": ((CSV + ",no\n").replace("\n", "\r"), "x.csv:4: column 'text' is empty"),
    "after a line separator": (CSV + "a\u2028b\x85\x0b,no\n,no\n", "x.csv:5: column 'text' is em"),
    "quote left open": (CSV + '"a,no\nb,yes\n', "x.csv:4: not CSV (unexpected end of data); close"),
    "text after a quote": (CSV + '"a" b,no\n', "x.csv:4: not CSV ("),
    "Latin-1": (
        CSV.encode() + "café,no\n".encode("latin-1"),
        "x.csv:4: the byte 0xe9 is not UTF-8",
    ),
    "Latin-1 far down": (
        CSV.encode() + b"a,no\n" * 9000 + "señor,no\n".encode("latin-1"),
        "x.csv:9004: the byte 0xf1 is not UTF-8 text; save the file as UTF-8",
    ),
    "UTF-16": (CSV.encode("utf-16"), "x.csv:1: the byte 0xff is not UTF-8 text; save the file"),
    "GBK": (CSV.encode() + "我的卡,no\n".encode("gbk"), "x.csv:4: the byte 0xce is not UTF-8 text"),
    "unknown split": (
        "text,label,split\na,no,train\nb,yes,dev\n",
        "x.csv:3: split is 'dev'; expected train, validation, test",
    ),
    "empty split": (
        "text,label,split\na,no,train\nb,yes,\n",
        "x.csv:3: split is ''; expected train, validation, test",
    ),
    "no training rows": (
        "text,label,split\na,no,test\nb,yes,validation\n",
        "x.csv: there are no training rows",
    ),
}
"""Each error to the CSV file and part of its message."""
JSONL_FAULTS: dict[str, tuple[str | bytes, str]] = {
    "empty file": ("", "x.jsonl: there are no rows"),
    "blank lines": ("\n  \n", "x.jsonl: there are no rows"),
    "broken line": (JSONL + '{"text": \n', "x.jsonl:3: not JSON (Expecting value at character"),
    "half a line": (JSONL + JSONL[:20], "x.jsonl:3: not JSON ("),
    "two on a line": (JSONL + "{} {}\n", "x.jsonl:3: not JSON (Extra data at character 4)"),
    "a CSV file": (CSV, "x.jsonl:1: not JSON (Expecting value at character 1)"),
    "array": (JSONL + "[1, 2]\n", "x.jsonl:3: expected a JSON object, got list"),
    "bare text": (JSONL + '"a"\n', "x.jsonl:3: expected a JSON object, got str"),
    "whole file an array": ("[\n" + JSONL, "x.jsonl:1: not JSON ("),
    "key twice": (
        JSONL + '{"text": "a", "label": "b", "text": "c"}\n',
        "x.jsonl:3: the key 'text' is there twice",
    ),
    "key twice inside": (
        JSONL + '{"text": "a", "label": "b", "more": [{"我": 1, "我": 1}]}\n',
        "x.jsonl:3: the key '我' is there twice",
    ),
    "key missing": (JSONL + '{"text": "a"}\n', "x.jsonl:3: there is no column 'label' for label"),
    "key misspelt": (
        JSONL + '{"txt": "a", "label": "b"}\n',
        "'text' for text; did you mean 'txt'?",
    ),
    "nothing": (JSONL + "{}\n", "x.jsonl:3: there is no column 'text' for text; nothing is valid"),
    "text a list": (
        JSONL + '{"text": ["我"], "label": "b"}\n',
        "x.jsonl:3: column 'text': expected a text, got ['我']",
    ),
    "text an object": (JSONL + '{"text": {}, "label": "b"}\n', "expected a text, got {}"),
    "text null": (JSONL + '{"text": null, "label": "b"}\n', "expected a text, got None"),
    "text true": (
        JSONL + '{"text": true, "label": "b"}\n',
        "x.jsonl:3: column 'text': expected a text, got True",
    ),
    "label a written list": (
        JSONL + '{"text": "a", "label": "[\'b\', \'c\']"}\n',
        "x.jsonl:3: column 'label': \"['b', 'c']\" is a list that was written as a text",
    ),
    "text empty": (JSONL + '{"text": "", "label": "b"}\n', "x.jsonl:3: column 'text' is empty"),
    "half an emoji": (
        JSONL + '{"text": "a \\ud83d", "label": "b"}\n',
        "x.jsonl:3: column 'text': expected a text, got 'a \\ud83d'",
    ),
    "half an emoji as label": (
        JSONL + '{"text": "a", "label": "\\ude42"}\n',
        "x.jsonl:3: column 'label': expected a text",
    ),
    "too deep": (JSONL + '{"text": ' + "[" * 100_000 + "\n", "x.jsonl:3: cannot be read ("),
    "too many digits": (JSONL + '{"text": ' + "1" * 5000 + "}\n", "x.jsonl:3: cannot be read ("),
    "after a line separator": (
        '{"text": "a\u2028b", "label": "b"}\n\n{"text": " "}\n',
        "x.jsonl:3: there is no column 'label'",
    ),
    "not UTF-8": (
        JSONL.encode() + b'{"text": "caf\xe9"}\n',
        "x.jsonl:3: the byte 0xe9 is not UTF-8",
    ),
    "split a list": (
        '{"text": "a", "label": "b", "split": ["train"]}\n',
        "x.jsonl:1: split is ['train']; expected train, validation, test",
    ),
}
"""Each error to the JSONL file and part of its message."""
TSV_FAULTS: dict[str, tuple[str | bytes, str]] = {
    label: (
        content.replace(b",", b"\t") if isinstance(content, bytes) else content.replace(",", "\t"),
        words.replace("x.csv", "x.tsv"),
    )
    for label, (content, words) in CSV_FAULTS.items()
}
TSV_FAULTS |= {
    label: (TSV_FAULTS[label][0], "x.tsv:4: a quoted field runs over a tab or a line end; set data")
    for label in ("blank text", "after a long quote", "inside a long quote", "after Windows lines")
}
TSV_FAULTS["tab in quotes"] = (
    'text\tlabel\na\tno\n"b\tno\nc"\tyes\n',
    "x.tsv:3: a quoted field runs over a tab or a line end; set data.quoting to none if quotes are",
)
"""Those of a CSV file, and that of a quote that is a plain character."""


def parquet(*columns: tuple[str, list[Any]]) -> bytes:
    """A Parquet file with these columns, in row groups of two."""
    names, values = [name for name, _ in columns], [pa.array(values) for _, values in columns]
    out = pa.BufferOutputStream()
    write_table(pa.Table.from_arrays(values, names), out, row_group_size=2)
    return bytes(out.getvalue())


TEXTS = ("text", ["my card", "the bank", "a", "b"])
LABELS = ("label", ["no", "yes", "no", "yes"])
NOT_UTF8 = pa.array([b"a", b"b", b"caf\xe9", b"d"]).view(pa.string())
"""A column of bytes declared as text."""
PARQUET_FAULTS: dict[str, tuple[str | bytes, str]] = {
    "empty file": ("", "x.parquet: not a Parquet file that can be read ("),
    "a CSV file": (CSV, "x.parquet: not a Parquet file that can be read ("),
    "cut short": (parquet(TEXTS, LABELS)[:-9], "x.parquet: not a Parquet file that can be read ("),
    "no rows": (parquet(("text", []), ("label", [])), "x.parquet: there are no rows"),
    "no text column": (
        parquet(("txt", TEXTS[1]), LABELS),
        "x.parquet:1: there is no column 'text' for text; did you mean 'txt'?",
    ),
    "column twice": (parquet(TEXTS, TEXTS, LABELS), "x.parquet: the column 'text' is there twice"),
    "empty text": (
        parquet(("text", ["a", "b", "c", " "]), LABELS),
        "x.parquet:4: column 'text' is empty",
    ),
    "no label": (
        parquet(TEXTS, ("label", ["no", "yes", None, "no"])),
        "x.parquet:3: column 'label': expected a text, got None",
    ),
    "text of bytes": (
        parquet(("text", [b"a"]), ("label", ["no"])),
        "x.parquet:1: column 'text': expected a text, got b'a'",
    ),
    "text not UTF-8": (parquet(("text", NOT_UTF8), LABELS), "x.parquet:3: cannot be read ('utf-8'"),
    "unknown split": (
        parquet(TEXTS, LABELS, ("split", ["train", "test", "train", "dev"])),
        "x.parquet:4: split is 'dev'; expected train, validation, test",
    ),
}
"""Each error to the Parquet file and part of its message."""
DATA_FAULTS = {
    **{f"CSV, {label}": ("x.csv", *fault) for label, fault in CSV_FAULTS.items()},
    **{f"TSV, {label}": ("x.tsv", *fault) for label, fault in TSV_FAULTS.items()},
    **{f"JSONL, {label}": ("x.jsonl", *fault) for label, fault in JSONL_FAULTS.items()},
    **{f"Parquet, {label}": ("x.parquet", *fault) for label, fault in PARQUET_FAULTS.items()},
}
