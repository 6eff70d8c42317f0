"""The mixed benchmark: all systems get the same rows, and the timed runs compute the answers."""

from __future__ import annotations

import json
import shlex
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch

from adapterkit.backbone.load_options import LoadOptions
from adapterkit.backbone.model import Backbone
from adapterkit.backbone.packing import TokenSequence
from adapterkit.bench.mixed import MixedBench
from adapterkit.bench.peers import PaddedBatch, peft_model, plain_model
from adapterkit.bench.systems import guest_job, own_systems
from adapterkit.bench.workload import (
    LORA,
    MIXES,
    assign_owners,
    bench_adapters,
    labelled_rows,
    owners_of,
)
from adapterkit.errors import AdapterkitError
from adapterkit.inference.forward import AdapterOutput, forward
from adapterkit.inference.predictor import Predictor
from adapterkit.quiet import quiet_warnings
from helpers.command_line import run_command
from helpers.guest import GUEST

ROW = {
    "system",
    "batch",
    "tenants",
    "ms",
    "min",
    "max",
    "tokens_per_second",
    "base_over_it",
    "floor_over_it",
    "products_over_it",
    "faster_than_peft",
}


@pytest.fixture(scope="module")
def texts(tiny: Backbone) -> list[str]:
    return labelled_rows(tiny.tokenizer, 12)[0]


@pytest.fixture(scope="module")
def inputs(tiny: Backbone, texts: list[str]) -> list[TokenSequence]:
    return [TokenSequence(ids, [0] * len(ids)) for ids in tiny.tokenizer(texts)["input_ids"]]


def by_row(pieces: list[AdapterOutput]) -> dict[int, torch.Tensor]:
    return {
        row: line for piece in pieces for row, line in zip(piece.rows, piece.values, strict=True)
    }


@pytest.mark.parametrize("mix", MIXES)
def test_a_timed_run_computes_the_answers_of_the_predictor(
    mix: str, tiny: Backbone, texts: list[str], inputs: list[TokenSequence]
) -> None:
    (system,) = (s for s in own_systems(tiny, inputs, [5]) if s.batch == mix)
    adapters = bench_adapters(tiny, mix, 5)
    names = [adapters[owner].name for owner in owners_of(len(texts), 5)]
    answers = Predictor(tiny, adapters)(list(zip(names, texts, strict=True)))
    outputs: Any = system.run()
    for answer, (line,) in zip(answers, outputs, strict=True):
        expected = torch.tensor(list(answer["scores"].values()))
        found = line[0].softmax(-1).sort(descending=True).values
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_peft_answers_what_we_answer(
    tiny: Backbone, tiny_folder: Path, inputs: list[TokenSequence]
) -> None:
    adapters = bench_adapters(tiny, LORA, 4)
    batch, owners = PaddedBatch.of(inputs, tiny.device), owners_of(len(inputs), 4)
    with quiet_warnings(), torch.inference_mode():
        plain = plain_model(tiny_folder, LoadOptions(), tiny.device)
        model = peft_model(plain, adapters, tiny)
        hidden = batch.through(model, adapter_names=[f"t{owner}" for owner in owners])
        ours = by_row(forward(tiny, assign_owners(inputs, adapters)))
    pooled = (hidden * batch.mask[..., None]).sum(1) / batch.mask.sum(1, keepdim=True)
    for row, owner in enumerate(owners):
        head = adapters[owner].head
        expected = head["classifier.weight"] @ pooled[row] + head["classifier.bias"]
        torch.testing.assert_close(ours[row], expected, rtol=1e-4, atol=1e-5)


def test_transformers_answers_what_our_base_answers(
    tiny: Backbone, tiny_folder: Path, inputs: list[TokenSequence]
) -> None:
    with quiet_warnings(), torch.inference_mode():
        plain = plain_model(tiny_folder, LoadOptions(), tiny.device)
        expected = plain.pooler(PaddedBatch.of(inputs, tiny.device).through(plain))
        ours = by_row(forward(tiny, [(None, row) for row in inputs]))
    for row, line in ours.items():
        torch.testing.assert_close(line, expected[row], rtol=1e-4, atol=1e-5)


def test_all_systems_get_the_same_rows_and_owners(
    tiny: Backbone, tiny_folder: Path, inputs: list[TokenSequence]
) -> None:
    batch = PaddedBatch.of(inputs, tiny.device)
    job = guest_job(tiny_folder, "float32", inputs, 5)
    ours = assign_owners(inputs, bench_adapters(tiny, LORA, 5))
    names = [adapter.name for adapter in bench_adapters(tiny, LORA, 5)]
    for index, (adapter, row) in enumerate(ours):
        size = int(batch.mask[index].sum())
        assert batch.ids[index, :size].tolist() == job["rows"][index] == list(row.input_ids)
        assert adapter is not None
        assert adapter.name == names[job["owners"][index]]
    assert job["owners"] == owners_of(len(inputs), 5)


def test_a_quantised_backbone_is_compared_with_float32(tiny_folder: Path) -> None:
    pytest.importorskip("bitsandbytes")
    options = LoadOptions(quantization="8bit", device="cpu")
    bench = MixedBench(str(tiny_folder), load_options=options, tenants=(2,), rounds=1, peers=False)
    with ExitStack() as stack:
        backbone = Backbone.load_with(str(tiny_folder), options)
        systems, _ = bench.systems(tiny_folder, backbone, stack)
    assert [system.batch for system in systems if not system.tenants] == [
        "linears alone (floor)",
        "products alone",
        "no adapters (base)",
        "no adapters, float32",
    ]


def test_peers_of_an_int8_backbone_are_not_quantised(tiny: Backbone, tiny_folder: Path) -> None:
    plain = plain_model(tiny_folder, LoadOptions(quantization="int8"), tiny.device)
    linears = [module for module in plain.modules() if isinstance(module, torch.nn.Linear)]
    assert {type(linear) for linear in linears} == {torch.nn.Linear}
    assert {linear.weight.dtype for linear in linears} == {torch.float32}


def test_a_shape_of_a_folder_that_peft_cannot_compute_in_a_mixed_batch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a DeBERTa, one row of positions passes through the linears that PEFT adapts by row."""
    shape = {
        "model_type": "deberta-v2",
        "vocab_size": 30522,
        "hidden_size": 32,
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
        "intermediate_size": 32,
        "max_position_embeddings": 64,
        "relative_attention": True,
        "pos_att_type": ["c2p", "p2c"],
        "share_att_key": True,
    }
    (tmp_path / "config.json").write_text(json.dumps(shape))
    bench = MixedBench(f"random:{tmp_path}", count=2, length=4, tenants=(2,), rounds=1, clock="cpu")
    systems = {row["system"] for row in bench.run()["rows"]}
    assert systems == {"adapterkit", "transformers"}
    assert "PEFT is not measured: Length of `adapter_names`" in capsys.readouterr().err


def test_processor_time_of_guests_is_refused() -> None:
    with pytest.raises(AdapterkitError, match="without its guests"):
        MixedBench(guests=("true",), clock="cpu")


def test_the_command_prints_and_plots_every_system(tiny_folder: Path) -> None:
    Path("guest.py").write_text(GUEST)
    result = run_command(
        *("bench", "mixed", "--backbone", tiny_folder, "--rounds", "1", "--tenants", "1,3"),
        *("--device", "cpu", "--guest", f"{shlex.quote(sys.executable)} guest.py"),
        *("--plot", "bars.png", "--json"),
    ).json
    assert result.keys() == {"bench", "settings", "machine", "rows"}
    assert result["settings"]["tenants"] == [1, 3]
    assert result["settings"]["device"] == "cpu"
    assert all(row.keys() == ROW for row in result["rows"])
    found = {(row["system"], row["batch"], row["tenants"]): row for row in result["rows"]}
    assert {("adapterkit", mix, n) for mix in MIXES for n in (1, 3)} < found.keys()
    assert ("guest", "64 rows", 3) in found
    assert found["transformers", "no adapters, padded", 0]["ms"] > 0
    assert found["PEFT", LORA, 3]["faster_than_peft"] == 1.0
    assert found["adapterkit", "no adapters (base)", 0]["base_over_it"] == 1.0
    assert found["adapterkit", "products alone", 0]["products_over_it"] == 1.0
    assert Path("bars.png").read_bytes().startswith(b"\x89PNG")
