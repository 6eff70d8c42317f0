"""Masked language modelling: transformers' own loss and fills, what is hidden, what is learnt."""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from adapterkit.adapter.adapter import Adapter
from adapterkit.adapter.folder import load_adapter
from adapterkit.adapter.store import Store
from adapterkit.adapter.weights import WEIGHTS, tensor_shapes
from adapterkit.backbone import lm_head
from adapterkit.backbone.model import Backbone
from adapterkit.errors import AdapterkitError, DataError
from adapterkit.inference.labelled import Split
from adapterkit.inference.pipeline import compute_outputs
from adapterkit.inference.predictor import Predictor
from adapterkit.tasks.base import Task, tasks
from adapterkit.tasks.masked_language_modelling import TOP, MaskedLanguageModelling
from adapterkit.tasks.types import Example, Outputs
from adapterkit.training.batches import MicroBatch
from adapterkit.training.recipe import Recipe
from adapterkit.training.train import train
from adapterkit.training.trainable import TrainableAdapter, TrainableAdapters
from helpers.adapters import MakeAdapter
from helpers.command_line import run_command
from helpers.vocabulary import WORDS

TEXTS = ["i lost my card", "the bank is not open wait please", "tea", "rain " * 30, "help " * 90]


@pytest.fixture(scope="session", params=["bert", "roberta"])
def with_head(
    request: pytest.FixtureRequest, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A random checkpoint that has a head for masked language modelling."""
    from transformers import AutoConfig, AutoModelForMaskedLM

    folder: Path = tmp_path_factory.mktemp("mlm") / request.param
    shutil.copytree(tiny_folder, folder)
    torch.manual_seed(5)
    config = AutoConfig.for_model(
        request.param,
        vocab_size=len((folder / "vocab.txt").read_text().splitlines()),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=72,
        pad_token_id=0,
        initializer_range=0.2,
    )
    model = AutoModelForMaskedLM.from_config(config)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, mean=float("orm.weight" in name), std=0.2)
    model.save_pretrained(folder)
    return folder


def plain(backbone: Backbone, make_adapter: MakeAdapter, **settings: Any) -> Adapter:
    """The task over an adapter that does nothing, its head as it begins."""
    generator = torch.Generator().manual_seed(0)
    task = MaskedLanguageModelling(**settings).bind_backbone(backbone.lm_head)
    adapter = make_adapter(backbone, "lora", name="t/domain")
    tensors = adapter.method.init_tensors(backbone.geometry, generator)
    head = task.fresh_head(backbone.geometry.hidden, generator)
    return replace(adapter, task=task, tensors=tensors, head=head)


def examples_of(task: Task, backbone: Backbone, texts: list[str], limit: int = 60) -> list[Example]:
    return task.examples([{"text": text} for text in texts], backbone.reader, limit)


def judged(task: Task, examples: list[Example]) -> list[Example]:
    """The rows as scoring puts them to the model."""
    return Split(examples, [None] * len(examples)).for_evaluation(task).examples


def theirs(folder: Path) -> Any:
    from transformers import AutoModelForMaskedLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    return AutoModelForMaskedLM.from_pretrained(folder).eval()


def test_the_loss_is_transformers(with_head: Path, make_adapter: MakeAdapter) -> None:
    backbone = Backbone.load(str(with_head), device="cpu")
    adapter, model = plain(backbone, make_adapter), theirs(with_head)
    assert adapter.head == {}, "the checkpoint's head stays where it is"
    examples = judged(adapter.task, examples_of(adapter.task, backbone, TEXTS))
    found = adapter.task.loss(
        Outputs.of(compute_outputs(backbone, [(adapter, e) for e in examples])), []
    )
    for loss, example in zip(found, examples, strict=True):
        sums, n = 0.0, 0
        for inputs in example.inputs:
            labels = torch.full((1, len(inputs)), -100)
            for index, token in inputs.masked:
                labels[0, index] = token
            with torch.inference_mode():
                result = model(torch.tensor([list(inputs.input_ids)]), labels=labels)
            sums, n = sums + float(result.loss) * len(inputs.masked), n + len(inputs.masked)
        assert float(loss) == pytest.approx(sums / n, rel=1e-5)


def test_fills_are_the_pipelines(with_head: Path, make_adapter: MakeAdapter) -> None:
    from transformers import AutoTokenizer, FillMaskPipeline

    backbone = Backbone.load(str(with_head), device="cpu")
    predictor = Predictor(backbone, [plain(backbone, make_adapter)])
    pipeline = FillMaskPipeline(
        model=theirs(with_head),
        tokenizer=AutoTokenizer.from_pretrained(with_head),  # type: ignore[arg-type]
        device=torch.device("cpu"),
    )
    for text in ("the [MASK] is lost", "[MASK]", "my [MASK] and the [MASK] bank"):
        (answer,) = predictor([("t/domain", text)])
        expected: Any = pipeline(text)
        several = text.count("[MASK]") > 1
        for ours, other in zip(
            answer["fills"] if several else [answer["fills"]],
            expected if several else [expected],
            strict=True,
        ):
            assert len(ours) == TOP
            for one, two in zip(ours, other, strict=True):
                assert one == {**two, "score": pytest.approx(two["score"], rel=1e-4)}
        best = answer["fills"][0] if several else answer["fills"]
        assert answer["answer"].split(", ")[0] == best[0]["token_str"]
        json.dumps(answer)
    with pytest.raises(DataError, match=r"there is no \[MASK\] to fill in 'the card'"):
        predictor([("t/domain", "the card")])


@pytest.mark.parametrize("known", [True, False])
def test_guesses_and_gradients_are_the_plain_head(
    monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    """Over the borders of chunks, with unknown goals among them."""
    monkeypatch.setattr(lm_head, "CHUNK", 3)
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    embeddings, states = draw(50, 8), draw(10, 8)
    target = torch.randint(50, (10,), generator=generator)
    if not known:
        target[[2, 7]] = -1
    tensors = {
        "cls.predictions.transform.dense.weight": draw(8, 8),
        "cls.predictions.transform.dense.bias": draw(8),
        "cls.predictions.transform.LayerNorm.weight": draw(8),
        "cls.predictions.transform.LayerNorm.bias": draw(8),
    }
    bias = draw(50)
    found: list[list[Any]] = []
    for fast in (True, False):
        leaves = {name: tensor.clone().requires_grad_() for name, tensor in tensors.items()}
        x = states.clone().requires_grad_()
        if fast:
            head = lm_head.LMHead(embeddings, {"cls.predictions.bias": bias}, 1e-12)
            lines = head.top_tokens(x, leaves, target, 3)
        else:
            dense, shift, scale, norm = leaves.values()
            inner = F.layer_norm(F.gelu(x @ dense.T + shift), (8,), scale, norm, 1e-12)
            scores = (inner @ embeddings.T + bias).log_softmax(-1)
            right = scores[range(10), target.clamp(min=0)] * (target >= 0)
            best = scores.detach().topk(3)
            lines = torch.cat([right[:, None], best.values, best.indices.float()], 1)
        (lines[:, 0] * torch.arange(1.0, 11.0)).sum().backward()
        found.append([lines, x.grad, *(leaf.grad for leaf in leaves.values())])
    for one, other in zip(*found, strict=True):
        assert one is not None
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    with torch.inference_mode():
        assert torch.equal(head.top_tokens(states, tensors, target, 3), found[0][0])
    assert len(head.top_tokens(states[:0], tensors, target[:0], 3)) == 0


def test_bfloat16_embeddings_say_almost_the_same(
    tiny_folder: Path, tiny: Backbone, make_adapter: MakeAdapter
) -> None:
    half = Backbone.load(str(tiny_folder), dtype="bfloat16", device="cpu")
    adapter = plain(tiny, make_adapter)
    examples = judged(adapter.task, examples_of(adapter.task, tiny, TEXTS))
    exact, rounded = (
        Outputs.of(compute_outputs(backbone, [(adapter, e) for e in examples])).logits[:, 0]
        for backbone in (tiny, half)
    )
    torch.testing.assert_close(exact, rounded, rtol=0.1, atol=0.1)


# What is hidden.


def test_fifteen_in_a_hundred_are_hidden_as_bert_hides(tiny: Backbone) -> None:
    task = MaskedLanguageModelling()
    (example,) = examples_of(task, tiny, [" ".join(WORDS * 2)], 128)
    (before,) = example.inputs
    kinds: Counter[str] = Counter()
    for seed in range(400):
        (after,) = task.masked_for(example, str(seed)).inputs
        assert len(after.masked) == round(0.15 * (len(before) - 2))
        hidden = dict(after.masked)
        for index, (old, new) in enumerate(zip(before.input_ids, after.input_ids, strict=True)):
            assert hidden.get(index, old) == old, "the right token is kept"
            assert old == new or index in hidden, "only what is hidden changes"
            if index in hidden:
                mask = tiny.reader.mask
                kinds["masked" if new == mask else "same" if new == old else "other"] += 1
        assert not hidden.keys() & {0, len(before) - 1}, "special tokens are not hidden"
    shares = {kind: count / kinds.total() for kind, count in kinds.items()}
    assert shares == pytest.approx({"masked": 0.8, "other": 0.1, "same": 0.1}, abs=0.02)


def test_draws_hang_on_the_seed_alone(tiny: Backbone) -> None:
    task = MaskedLanguageModelling()
    examples = examples_of(task, tiny, TEXTS)
    first, again, other = ([task.masked_for(e, seed) for e in examples] for seed in ("1", "1", "2"))
    assert first == again
    assert first != other
    assert judged(task, examples) == judged(task, examples)
    assert all(len(i.masked) >= 1 for example in first for i in example.inputs)


def test_whole_words_are_hidden_together(tiny: Backbone) -> None:
    """The tiny vocabulary spells unknown words in pieces: `x`, `##y`, `##z`."""
    text = "the xyz card vwxy lost mnop please " * 2
    (example,) = examples_of(MaskedLanguageModelling(), tiny, [text])
    tokens = tiny.tokenizer.convert_ids_to_tokens(example.inputs[0].input_ids)
    torn = 0
    for whole in (True, False):
        task = MaskedLanguageModelling(whole_words=whole, share=0.3)
        for seed in range(60):
            (after,) = task.masked_for(example, str(seed)).inputs
            hidden = {index for index, _ in after.masked}
            cuts = [p for p in hidden if tokens[p].startswith("##") and p - 1 not in hidden]
            cuts += [p for p in hidden if tokens[p + 1].startswith("##") and p + 1 not in hidden]
            assert not (whole and cuts)
            torn += len(cuts)
    assert torn > 0


def test_a_chinese_character_is_a_word(chinese_folder: Path) -> None:
    backbone = Backbone.load(str(chinese_folder), device="cpu")
    task, text = MaskedLanguageModelling(whole_words=True), "我想办一张新电话卡 unbelievably"
    (example,) = examples_of(task, backbone, [text])
    (words,) = example.notes.words
    assert words[0] is words[-1] is None
    assert len(set(words[1:10])) == 9
    latin = set(range(10, len(words) - 1))
    assert len(latin) > 2
    seen: Counter[str] = Counter()
    for seed in range(60):
        hidden = {index for index, _ in task.masked_for(example, str(seed)).inputs[0].masked}
        assert hidden & latin in (set(), latin)
        seen["latin" if hidden & latin else "alone"] += 1
        seen["neighbours apart"] += any(index + 1 not in hidden for index in hidden - latin)
    assert min(seen.values()) > 0
    assert len(seen) == 3


def test_masks_in_a_text_are_never_learnt(tiny: Backbone) -> None:
    task = MaskedLanguageModelling(share=0.9)
    (example,) = examples_of(task, tiny, ["the [MASK] is [MASK] lost"])
    assert example.inputs[0].masked == ((2, -1), (4, -1))
    for seed in range(20):
        hidden = dict(task.masked_for(example, str(seed)).inputs[0].masked)
        assert not hidden.keys() & {2, 4}
        assert tiny.reader.mask not in hidden.values()


def test_long_texts_are_read_whole_and_once(tiny: Backbone) -> None:
    task = MaskedLanguageModelling()
    (example,) = examples_of(task, tiny, [" ".join(WORDS * 5)], 20)
    ids = [i for inputs in example.inputs for i in inputs.input_ids[1:-1]]
    assert tiny.tokenizer.decode(ids) == " ".join(WORDS * 5)
    assert [len(words) for words in example.notes.words] == [len(i) for i in example.inputs]


# Training.


def corpus(folder: Path) -> Path:
    """A language in which every third word follows from the two before it."""
    lines = []
    for n in range(60):
        words = [WORDS[(n * 5 + k // 3 + 7 * (k % 3)) % len(WORDS)] for k in range(3 + n % 12)]
        lines.append(" ".join(words))
    (folder / "corpus.txt").write_text("\n".join(lines))
    return folder / "corpus.txt"


def plan(folder: Path, **training: Any) -> Recipe:
    return Recipe.of(
        {
            "name": "acme/domain",
            "data": {"path": corpus(folder).name, "validation": 0.2},
            "task": {"type": "masked_language_modelling"},
            "method": {"type": "lora", "targets": ["query", "value", "ffn_up", "ffn_down"]},
            "training": {"epochs": 8, "batch_size": 12, "learning_rate": 1e-2, **training},
        },
        folder,
    )


def test_a_domain_adapter_lowers_perplexity(tiny: Backbone, tmp_path: Path) -> None:
    adapter = train(plan(tmp_path), tiny, progress=False)
    first, *_, last = (e["validation"]["perplexity"] for e in adapter.training["history"])
    assert last < 0.7 * first
    assert adapter.metrics["validation"]["perplexity"] == pytest.approx(last, rel=0.5)
    folder = Store("shelf").publish(adapter, tiny.geometry)
    shapes = tensor_shapes(folder / WEIGHTS)
    assert all(tiny.reader.n_tokens not in shape for shape in shapes.values())
    again = load_adapter(folder, tiny)
    predictor = Predictor(tiny, [again])
    (answer,) = predictor([("acme/domain", "the card [MASK] lost")])
    assert len(answer["fills"]) == TOP
    result = run_command("evaluate", "acme/domain", "corpus.txt", "--store", "shelf")
    assert result.code == 0, result.err
    assert "perplexity" in result.out


def test_the_checkpoints_head_is_used_and_not_saved(with_head: Path, tmp_path: Path) -> None:
    backbone = Backbone.load(str(with_head), device="cpu")
    adapter = train(plan(tmp_path, epochs=2), backbone, progress=False)
    losses = [loss for _, loss in adapter.training["losses"]]
    assert losses[-1] < losses[0]
    folder = Store("shelf").publish(adapter, backbone.geometry)
    assert not [name for name in tensor_shapes(folder / WEIGHTS) if "cls." in name]
    assert load_adapter(folder, backbone).task == adapter.task
    content = plan(tmp_path, epochs=1).plain()
    content["task"]["transform"] = "fresh"
    fresh = train(Recipe.of(content, tmp_path), backbone, progress=False)
    assert len(fresh.head) == 4


def test_every_epoch_hides_anew_and_evaluation_the_same(
    tiny: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds: list[str] = []
    posed = MaskedLanguageModelling.masked_for

    def seen(self: Any, example: Example, seed: str) -> Example:
        seeds.append(seed)
        return posed(self, example, seed)

    monkeypatch.setattr(MaskedLanguageModelling, "masked_for", seen)
    train(plan(tmp_path, epochs=3, accumulation=2), tiny, progress=False)
    training = [seed for seed in seeds if not seed.startswith("judged")]
    assert len(training) == len(set(training)) == 3 * 48
    judged = Counter(seed for seed in seeds if seed.startswith("judged"))
    assert judged == {f"judged {n}": 1 for n in range(12)}


def test_accumulation_equals_the_large_batch(tiny: Backbone, tmp_path: Path) -> None:
    whole, pieces = (
        train(plan(tmp_path, epochs=1, accumulation=n), tiny, progress=False) for n in (1, 5)
    )
    for (_, one), (_, other) in zip(
        whole.training["losses"], pieces.training["losses"], strict=True
    ):
        assert one == pytest.approx(other, rel=1e-4)


def test_no_more_than_the_hidden_tokens_are_scored(
    tiny: Backbone, make_adapter: MakeAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lm_head, "CHUNK", 4)
    sizes: list[int] = []
    linear = F.linear

    def seen(x: torch.Tensor, weight: torch.Tensor, *rest: Any) -> torch.Tensor:
        if len(weight) == tiny.reader.n_tokens:
            sizes.append(len(x))
        return linear(x, weight, *rest)

    monkeypatch.setattr(F, "linear", seen)
    adapter = plain(tiny, make_adapter)
    examples = examples_of(adapter.task, tiny, TEXTS)
    lengths = [len(i) for e in examples for i in e.inputs]
    micro_batch = MicroBatch(
        examples, [None] * 5, [0.2] * 5, list(range(len(lengths))), lengths, seed=1
    )
    TrainableAdapters(tiny, [TrainableAdapter(adapter)])(
        {0: micro_batch.masked_for(adapter.task)}
    ).sum().backward()
    posed = [n for length in lengths for n in [max(1, round(0.15 * (length - 2)))]]
    assert sum(sizes) == sum(posed)
    assert max(sizes) == 4


def test_perplexity_and_accuracy_of_a_known_case(tiny: Backbone) -> None:
    task = MaskedLanguageModelling()
    examples = judged(task, examples_of(task, tiny, ["i lost my card", "rain " * 20]))
    target = [t for e in examples for i in e.inputs for _, t in i.masked]
    lines = torch.zeros(len(target), 1 + 2 * TOP)
    lines[:, 0] = -math.log(4.0)
    lines[:, 1 + TOP] = torch.tensor(target)
    lines[0, 1 + TOP] += 1
    outputs = Outputs(lines, ((1,), (len(target) - 1,)))
    right = (len(target) - 1) / len(target)
    expected = {"accuracy": right, "perplexity": 4.0}
    result = task.predictions(outputs, examples, [None] * 2)
    assert task.metrics(result) == pytest.approx(expected)
    low, high = task.intervals(result)["accuracy"]
    assert low <= right <= high
    assert task.loss(outputs, [None] * 2).tolist() == pytest.approx([math.log(4.0)] * 2)


def test_what_does_not_fit_is_told(tiny: Backbone, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="share: expected more than 0"):
        MaskedLanguageModelling(share=0.0)
    content = plan(tmp_path).plain()
    content["task"]["transform"] = "checkpoint"
    with pytest.raises(AdapterkitError, match="the backbone's checkpoint has no head for masked"):
        train(Recipe.of(content, tmp_path), tiny, progress=False)
    assert "masked_language_modelling" in tasks()
    with pytest.raises(AdapterkitError, match="has no single score for an answer"):
        MaskedLanguageModelling().scores(Outputs(torch.zeros(1, 11), ((1,),)), Example(()))
    with pytest.raises(AdapterkitError, match="word embeddings as wide as the hidden states"):
        MaskedLanguageModelling().bind_backbone(None)
