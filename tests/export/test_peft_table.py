"""Folders of PEFT against PEFT: every method, task and family is equal or refused."""

from __future__ import annotations

import inspect
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from adapterkit.adapter.adapter import Adapter
from adapterkit.backbone.families.base import family_of
from adapterkit.backbone.model import Backbone
from adapterkit.errors import AdapterError
from adapterkit.export.formats import FORMATS
from adapterkit.export.plain_task import with_plain_task
from adapterkit.export.verification import transformers_outputs
from adapterkit.inference.forward import forward
from adapterkit.tasks.base import tasks
from helpers.adapters import METHODS, of_method
from helpers.families import MODEL_TYPES, save_family
from helpers.peft_readme import as_the_readme_says
from helpers.task_adapters import random_task_adapter, read_example, request_row

NO_FORM = ("bottleneck", "fusion")
"""Methods that PEFT does not have."""


def outcome(adapter: Adapter, backbone: Backbone, folder: Path) -> str:
    """`equal`, or why the adapter was refused; fails if PEFT answers otherwise."""
    try:
        FORMATS["peft"](adapter, backbone, folder)
    except AdapterError as error:
        assert not folder.exists()
        return str(error)
    plain, model = with_plain_task(adapter), as_the_readme_says(folder)
    for inputs in read_example(backbone, plain, request_row(plain)).inputs:
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PEFT's own
            expected = forward(backbone, [(plain, inputs)])[0].values
            found = transformers_outputs(model, plain, backbone, inputs)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    return "equal"


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_a_family_says_whether_its_model_takes_a_prefix(model_type: str) -> None:
    import transformers

    mapping: Any = transformers.MODEL_MAPPING
    model = mapping[type(transformers.AutoConfig.for_model(model_type))]
    takes = "past_key_values" in inspect.signature(model.forward).parameters
    assert family_of(model_type).takes_past_keys is takes


@pytest.mark.slow
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_every_method_and_task_is_equal_or_refused(
    model_type: str, tiny_folder: Path, tmp_path: Path, report: Callable[[str], None]
) -> None:
    save_family(tmp_path / "backbone", model_type, tiny_folder, "AutoModel")
    backbone = Backbone.load(str(tmp_path / "backbone"), device="cpu", prepared=False)
    head, counts = backbone.geometry.sequence_head, Counter[str]()
    for kind in sorted(tasks()):
        if kind == "masked_language_modelling":
            continue  # its head is the backbone's, which a folder of PEFT does not hold
        settings = {}
        if head is not None and hasattr(tasks()[kind], "pooling") and kind != "embedding":
            settings = {"pooling": head.pooling}
        adapter = random_task_adapter(backbone, kind, tmp_path, **settings)
        for method in METHODS:
            one = replace(of_method(adapter, method, backbone), backbone=str(backbone.name))
            result = outcome(one, backbone, tmp_path / f"{kind} {method}")
            counts["equal" if result == "equal" else "refused"] += 1
            assert result == "equal" or "has no exact form as a folder of PEFT" in result, result
            assert method not in NO_FORM or result != "equal"
    report(f"{model_type}: {dict(counts)}")
    assert counts["refused"] > 0
