"""The model of padded rows against the packed forward: every method, task and family."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from adapterkit.adapter.adapter import Adapter, MemberWeights
from adapterkit.backbone.model import Backbone
from adapterkit.errors import AdapterError
from adapterkit.export.comparison import Request, compare
from adapterkit.export.padded_model import PaddedModel
from adapterkit.export.runtime_folder import compared_requests, listed_adapters
from adapterkit.tasks.base import tasks
from adapterkit.tasks.types import Example
from helpers.adapters import METHODS, MakeAdapter, of_method
from helpers.families import MODEL_TYPES, save_family
from helpers.modernbert import save_random_modernbert
from helpers.sequences import tokenise
from helpers.task_adapters import random_task_adapter, read_example, request_row

TEXTS = ["where is my card", "a", "rain sun and the fast rain", "the bank " * 9]


def session_of(model: PaddedModel) -> Callable[[Mapping[str, Tensor]], Tensor]:
    """Computes the model with torch, as a runtime computes its file."""

    def run(inputs: Mapping[str, Tensor]) -> Tensor:
        logits: Tensor = model(*inputs.values())
        return logits.detach()

    return run


def requests_of(backbone: Backbone, adapters: Sequence[Adapter]) -> list[Request]:
    """Every text for every adapter, in an order in which the adapters of a batch differ."""
    rows = tokenise(backbone, TEXTS, None, 40)
    return [(n, Example((row,))) for row in rows for n in range(len(adapters))]


def assert_equal(backbone: Backbone, adapters: Sequence[Adapter]) -> None:
    """Refused by `compare` if a logit differs."""
    model = PaddedModel(adapters, backbone)
    requests = requests_of(backbone, adapters)
    compare(session_of(model), model, backbone, requests, exact=True)


def member(backbone: Backbone, make: MakeAdapter) -> MemberWeights:
    """Another member of an ensemble of LoRA adapters."""
    other = make(backbone, "lora", seed=5)
    return MemberWeights(other.tensors, other.head)


def every_method(backbone: Backbone, make: MakeAdapter) -> list[Adapter]:
    """An adapter of every method; their numbers of labels differ."""
    return [
        make(backbone, kind, name=f"t/{kind}", labels=("no", "yes", "maybe")[: 2 + n % 2], **own)
        for n, (kind, own) in enumerate(METHODS.items())
    ]


@pytest.mark.parametrize("model_type", ["bert", "deberta-v2", "eurobert"])
def test_rows_of_every_method_are_those_of_the_adapters(
    model_type: str, tiny_folder: Path, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    folder = save_family(tmp_path / "model", model_type, tiny_folder)
    backbone = Backbone.load(str(folder), device="cpu", prepared=False)
    assert_equal(backbone, every_method(backbone, make_adapter))


def test_local_layers_attend_within_the_window(
    tiny_folder: Path, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    folder = save_random_modernbert(tmp_path / "model", tiny_folder, local_attention=4)
    backbone = Backbone.load(str(folder), device="cpu", prepared=False)
    assert_equal(backbone, every_method(backbone, make_adapter))


def test_stacks_and_ensembles_are_those_of_the_adapters(
    tiny_folder: Path, make_adapter: MakeAdapter
) -> None:
    tiny = Backbone.load(str(tiny_folder), device="cpu", prepared=False)
    lora = make_adapter(tiny, "lora", name="a/lora", seed=1)
    prefix = make_adapter(tiny, "prefix", name="a/prefix", num_virtual_tokens=3)
    stacked = replace(lora, name="a/stack", on_top_of=prefix)
    unshifted = make_adapter(tiny, "prefix", name="a/unshifted", shift_positions=False)
    top = replace(prefix, name="a/top", on_top_of=stacked)
    assert_equal(tiny, [stacked, lora, top, unshifted])
    assert_equal(tiny, [replace(lora, extra_members=(member(tiny, make_adapter),))])


def check_task(backbone: Backbone, kind: str, folder: Path) -> None:
    """An adapter of a task by every method, in one file."""
    adapter = random_task_adapter(backbone, kind, folder)
    adapters = [
        replace(of_method(adapter, method, backbone), name=f"t/{method}") for method in METHODS
    ]
    model = PaddedModel(adapters, backbone)
    examples = [read_example(backbone, adapters[0], request_row(adapters[0], n)) for n in (2, 3)]
    requests = [(n, example) for example in examples for n in range(len(adapters))]
    compare(session_of(model), model, backbone, requests, exact=True)


@pytest.mark.parametrize("kind", ["tagging", "multiple_choice"])
def test_a_task_is_answered_as_by_the_adapters(
    kind: str, tiny_folder: Path, tmp_path: Path
) -> None:
    check_task(Backbone.load(str(tiny_folder), device="cpu", prepared=False), kind, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_every_task_and_method_is_answered_as_by_the_adapters(
    model_type: str, tiny_folder: Path, tmp_path: Path, report: Callable[[str], None]
) -> None:
    folder = save_family(tmp_path / "model", model_type, tiny_folder)
    backbone = Backbone.load(str(folder), device="cpu", prepared=False)
    kinds = [kind for kind in sorted(tasks()) if not tasks()[kind].masks_tokens]
    for kind in kinds:
        check_task(backbone, kind, tmp_path)
    report(f"{model_type}: {len(kinds) * len(METHODS)} adapters of {len(kinds)} tasks equal")


def test_a_difference_is_refused_or_measured(tiny_folder: Path, make_adapter: MakeAdapter) -> None:
    tiny = Backbone.load(str(tiny_folder), device="cpu", prepared=False)
    model = PaddedModel([make_adapter(tiny, "lora")], tiny)
    requests = requests_of(tiny, model.adapters)

    def wrong(inputs: Mapping[str, Tensor]) -> Tensor:
        logits = session_of(model)(inputs)
        logits[1] = -logits[1]
        return logits

    with pytest.raises(AdapterError, match="would have other answers in the file"):
        compare(wrong, model, tiny, requests, exact=True)
    found = compare(wrong, model, tiny, requests, exact=False)
    logits = model(torch.tensor([requests[1][1].inputs[0].input_ids]), *ones(requests[1]))
    p = float(logits.softmax(-1)[0, 0])
    assert found.difference == pytest.approx(abs(2 * p - 1), abs=1e-4)
    assert (found.rows, found.same_answers) == (4, 3)
    assert "3 answers are the same" in str(found)


def ones(request: Request) -> tuple[Tensor, Tensor]:
    """Attention mask and token types of a request."""
    mask = torch.ones(1, len(request[1].inputs[0]), dtype=torch.long)
    return mask, torch.zeros_like(mask)


def test_adapters_that_are_not_one_model_are_refused(
    tiny_folder: Path, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    tiny = Backbone.load(str(tiny_folder), device="cpu", prepared=False)

    def refused(adapters: list[Adapter], words: str) -> None:
        with pytest.raises(AdapterError, match=words):
            PaddedModel(adapters, tiny)

    lora = make_adapter(tiny, "lora")
    masked = random_task_adapter(tiny, "masked_language_modelling", tmp_path)
    refused([masked], "answers with tokens of the vocabulary")
    vectors = [random_task_adapter(tiny, "embedding", tmp_path, dimensions=n) for n in (4, 6)]
    refused(vectors, "returns vectors of 4 numbers and .* of 6")
    refused([lora, vectors[0]], "for classification and .* for embedding")
    ensemble = replace(lora, extra_members=(member(tiny, make_adapter),))
    refused([lora, ensemble], "is an ensemble of 2 members")
    kind = "question_answering"
    pairs = [
        random_task_adapter(tiny, kind, tmp_path, pair_token_types=has) for has in (True, False)
    ]
    refused(pairs, "read pairs with other token types, and a file has one tokenizer")


def test_rows_are_compared_for_every_adapter_of_their_name(
    tiny_folder: Path, make_adapter: MakeAdapter
) -> None:
    tiny = Backbone.load(str(tiny_folder), device="cpu", prepared=False)
    names = ("acme/a", "acme/a", "acme/b")  # two versions and another adapter
    adapters = [make_adapter(tiny, name=name, seed=n) for n, name in enumerate(names)]
    short: Any = adapters[2].task
    adapters[2] = replace(adapters[2], task=replace(short, max_length=4))
    model = PaddedModel(adapters, tiny)
    rows = [(None, "my card", "1"), ("acme/a", TEXTS[-1], "2"), ("acme/b", "a bank", "3")]
    found = compared_requests(model, tiny, rows)
    assert [number for number, _ in found] == [0, 1, 2, 0, 1, 2]
    assert max(len(example.inputs[0]) for _, example in found) == 4, "as the file's tokenizer cuts"
    compare(session_of(model), model, tiny, found, exact=True)
    with pytest.raises(AdapterError, match=r"^4: 'acme/c' is none of the adapters that are export"):
        compared_requests(model, tiny, [("acme/c", "a", "4")])


def test_the_list_of_adapters_has_the_settings_of_their_answers(
    tiny_folder: Path, tmp_path: Path
) -> None:
    tiny = Backbone.load(str(tiny_folder), device="cpu", prepared=False)
    adapter = random_task_adapter(tiny, "multi_label", tmp_path, threshold=0.3)
    (found,) = listed_adapters(PaddedModel([adapter], tiny))
    assert found["settings"]["threshold"] == 0.3
    assert (found["task"], found["outputs"]) == ("multi_label", len(found["labels"]))
