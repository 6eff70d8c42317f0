"""PEFT's model of a folder, from the call in its README."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

CALL = re.compile(
    r"`PeftModel\.from_pretrained\((\w+)\.from_pretrained\(\"(.+?)\"(.*?)\), \"folder\"\)`"
)


def as_the_readme_says(folder: Path) -> Any:
    """PEFT's model from the call in the README of a folder."""
    import peft
    import transformers
    from transformers.utils import logging

    logging.set_verbosity_error()
    found = CALL.search((folder / "README.md").read_text())
    assert found is not None
    auto, base, rest = found.groups()
    options = {"num_labels": int(rest.rpartition("=")[2])} if rest else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = getattr(transformers, auto).from_pretrained(base, **options)
        return peft.PeftModel.from_pretrained(model, folder).eval()
