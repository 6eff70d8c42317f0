"""ONNX files in ONNX Runtime, where it is installed, against the adapters."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from adapterkit.backbone.model import Backbone
from adapterkit.errors import AdapterError
from adapterkit.export.formats import FORMATS
from adapterkit.export.onnx_model import MODEL, onnx_logits
from helpers.adapters import MakeAdapter
from helpers.sequences import logits_of, tokenise
from helpers.task_adapters import random_task_adapter


def test_other_tasks_are_refused(tiny: Backbone, tmp_path: Path) -> None:
    adapter = random_task_adapter(tiny, "tagging", tmp_path)
    with pytest.raises(AdapterError, match=r"only classifiers of texts .* not tagging"):
        FORMATS["onnx"](adapter, tiny, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_padded_batch_is_answered_as_by_the_adapter(
    tiny_folder: Path, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    for library in ("onnxscript", "onnxruntime"):
        pytest.importorskip(library)
    tiny = Backbone.load(str(tiny_folder), device="cpu", prepared=False)
    adapter = make_adapter(tiny, "lora", labels=("no", "yes", "maybe"), pooling="pooler")
    folder = FORMATS["onnx"](adapter, tiny, tmp_path / "out")
    assert {"config.json", "tokenizer.json", MODEL} <= {path.name for path in folder.iterdir()}
    rows = tokenise(tiny, ["where is my card", "a", "rain sun"], ["the rain", "b", "fast"], 50)
    longest = max(map(len, rows))
    batch = {
        "input_ids": [[*r.input_ids, *[0] * (longest - len(r))] for r in rows],
        "attention_mask": [[1] * len(r) + [0] * (longest - len(r)) for r in rows],
        "token_type_ids": [[*r.token_type_ids, *[0] * (longest - len(r))] for r in rows],
    }
    expected = logits_of(tiny, adapter, rows)
    torch.testing.assert_close(onnx_logits(folder, batch), expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(AdapterError, match="its head reads the mean of all states"):
        FORMATS["onnx"](make_adapter(tiny, "lora"), tiny, tmp_path / "mean")
