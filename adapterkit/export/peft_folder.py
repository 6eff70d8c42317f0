"""An adapter as a folder of PEFT, without anything of adapterkit."""

from __future__ import annotations

from ..adapter.adapter import Adapter
from ..adapter.folder import adapter_files
from ..adapter.peft_format import (
    CONFIG,
    answers_in_peft,
    has_transformers_head,
    head_input,
    peft_fault,
)
from ..adapter.weights import WEIGHTS
from ..backbone.model import Backbone
from ..errors import AdapterError
from .plain_task import with_plain_task


def peft_folder(adapter: Adapter, backbone: Backbone) -> dict[str, bytes]:
    """The files of a folder with which PEFT computes the answers of an adapter.

    Args:
        adapter: The adapter.
        backbone: The backbone that it was trained on.

    Returns:
        Content by name.

    Raises:
        AdapterError: PEFT would compute something else.
    """
    geometry = backbone.geometry
    plain = with_plain_task(adapter)
    fault = peft_fault(plain, geometry)
    if not plain.method.head_prefix:
        fault = f"PEFT has no method '{plain.method.type}'"
    elif fault is None and plain.head and not has_transformers_head(plain, geometry):
        fault = f"its head reads {head_input(plain.task)}, as no task model of transformers does"
    elif fault is None and plain.head and not answers_in_peft(plain, geometry):
        fault = f"PEFT has no prefixes for {plain.task.transformers_model}"
    if fault is not None:
        raise AdapterError(
            f"'{adapter.name}' has no exact form as a folder of PEFT: {fault}; serve it with "
            "adapterkit"
        )
    files = adapter_files(plain, geometry)
    return {name: files[name] for name in (CONFIG, WEIGHTS, "README.md")}
