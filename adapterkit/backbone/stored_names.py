"""Names of tensors in checkpoints of models that have other names for their modules."""

from __future__ import annotations

import re
from collections.abc import Mapping

StoredNames = Mapping[str, tuple[str, ...]]
"""Paths of modules in a checkpoint, or parts of paths, to those in the model. If there are several,
as for a linear that computes query, key and value, each gets an equal number of its rows."""


def model_names(name: str, stored_names: StoredNames) -> tuple[str, ...]:
    """The names in the model of a tensor in a checkpoint: one, or one for each part of its rows.

    Args:
        name: Its name in the checkpoint.
        stored_names: What the model calls otherwise.
    """
    names = [name]
    for stored, in_model in stored_names.items():
        pattern = rf"(?:(?<=\.)|^){re.escape(stored)}(?=\.)"
        if re.search(pattern, name):
            names = [re.sub(pattern, new, one, count=1) for one in names for new in in_model]
    return tuple(names)
