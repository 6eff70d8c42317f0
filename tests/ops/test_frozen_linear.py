"""Prepared linears equal plain linears, forward and backward, and leave the module unchanged."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from adapterkit.backbone.model import Backbone
from adapterkit.errors import BackboneError
from adapterkit.inference.forward import forward
from adapterkit.inference.predictor import Predictor
from adapterkit.ops.bucketing import bucket_for_onednn
from adapterkit.ops.frozen_linear import (
    Int8Linear,
    PrepackedLinear,
    PrepackedLinearGelu,
    prepack,
    use_int8,
)
from adapterkit.ops.gelu import gelu
from adapterkit.ops.processor import (
    INT8_MAX_WITHOUT_VNNI,
    Processor,
    int8_max,
    pack_int8,
    processor,
    warn_of_plain_bfloat16,
)
from helpers.adapters import MakeAdapter
from helpers.sequences import tokenise

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}

AVX2 = Processor("AVX2", frozenset({torch.float32}))
"""A processor without AVX-512 and VNNI."""


@pytest.fixture(params=["this processor", "AVX2"])
def capability(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Processor:
    """This processor, and one without AVX-512, whose instructions it also has."""
    if request.param == "AVX2":
        monkeypatch.setattr("adapterkit.ops.frozen_linear.processor", lambda: AVX2)
        monkeypatch.setattr("adapterkit.ops.frozen_linear.int8_max", lambda: INT8_MAX_WITHOUT_VNNI)
        return AVX2
    return processor()


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", [(1,), (7,), (300,), (1, 40)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_prepacked_linear_equals_the_linear(
    capability: Processor, dtype: torch.dtype, shape: tuple[int, ...], bias: bool
) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(48, 80, bias=bias, dtype=dtype).requires_grad_(False)
    prepared, target = PrepackedLinear(linear), torch.randn(*shape, 80, dtype=dtype)
    results = []
    for run in (prepared, linear):
        x = torch.linspace(-1, 1, 48).expand(*shape, 48).to(dtype).contiguous().requires_grad_()
        y = run(x)
        (y * target).sum().backward()
        assert x.grad is not None
        results.append((y.detach(), x.grad))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    with torch.inference_mode():
        assert torch.equal(prepared(x), prepared.forward(x))


@pytest.mark.parametrize("bias", [True, False])
def test_a_prepared_linear_equals_the_linear_under_autocast(
    capability: Processor, bias: bool
) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(48, 80, bias=bias).requires_grad_(False)
    prepared, target, results = PrepackedLinear(linear), torch.randn(7, 80), []
    for run in (prepared, linear):
        x = torch.linspace(-1, 1, 48).expand(7, 48).contiguous().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            y = run(x)
        assert y.dtype == torch.bfloat16
        (y.float() * target).sum().backward()
        assert x.grad is not None
        assert x.grad.dtype == torch.float32
        results.append((y.detach(), x.grad))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=2e-2, atol=2e-2)
    assert linear.weight.dtype == torch.float32


def test_other_dtypes_use_plain_products() -> None:
    prepared = PrepackedLinear(nn.Linear(8, 8).requires_grad_(False))
    with pytest.raises(RuntimeError, match="dtype"):
        prepared(torch.randn(3, 8).to(torch.bfloat16))
    with torch.autocast("cpu", torch.float16):
        assert prepared(torch.randn(3, 8)).dtype == torch.float16


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("is_edited", [True, False])
@pytest.mark.parametrize("needs_gradient", [True, False])
def test_a_fused_linear_equals_linear_and_gelu(
    capability: Processor, dtype: torch.dtype, is_edited: bool, needs_gradient: bool
) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(48, 80, dtype=dtype).requires_grad_(False)
    fused = PrepackedLinearGelu(linear, lambda: is_edited)
    x = torch.randn(7, 48, dtype=dtype).requires_grad_(needs_gradient)
    y = fused(x)
    is_fused = not is_edited and not needs_gradient and dtype in capability.prepacked
    assert torch.equal(y, fused.activation(y)) == is_fused
    outputs, target = fused.activation(fused(x)), F.gelu(linear(x))
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(outputs, target, rtol=tolerance, atol=tolerance)
    assert torch.equal(fused.activation(target), gelu(target)), (
        "it activates every tensor that is not its own output"
    )
    if needs_gradient:
        results = [torch.autograd.grad(one.sum(), x)[0] for one in (outputs, target)]
        torch.testing.assert_close(*results, rtol=tolerance, atol=tolerance)


def test_a_backbone_with_fused_gelus_equals_a_plain_one(
    tiny_folder: Path, make_adapter: MakeAdapter
) -> None:
    """One batch mixes adapters that act between linear and GELU with others that do not."""
    plain, fused = (Backbone.load(str(tiny_folder), device="cpu", prepared=False) for _ in range(2))
    for linear in fused.linears:
        setattr(linear, "forward", PrepackedLinear(linear))  # type: ignore[arg-type]  # noqa: B010
    fused.fuse_activations()
    kinds = [type(linear.forward) for linear in fused.linears]
    assert kinds.count(PrepackedLinearGelu) == fused.geometry.layers
    texts = ["my card", "close the account please", "tea", "it rains"]
    adapters = [
        None,
        make_adapter(plain, "lora", targets=("query",)),
        make_adapter(plain, "lora", targets=("ffn_up", "ffn_down"), layers=(1,)),
        make_adapter(plain, "bottleneck"),
    ]
    for some in ([0, 1], [2], [0, 1, 2, 3]):
        outputs = []
        for backbone in (plain, fused):
            rows = [(adapters[n], tokenise(backbone, [texts[n]], None, 40)[0]) for n in some]
            with torch.inference_mode():
                outputs.append([piece.values for piece in forward(backbone, rows)])
        for one, other in zip(*outputs, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_only_plain_linears_are_prepacked_and_the_state_dict_is_unchanged() -> None:
    class Other(nn.Linear):
        pass

    torch.manual_seed(0)
    linears = [nn.Linear(512, 512).requires_grad_(False), Other(512, 512), nn.LayerNorm(512)]
    before = [{k: v.clone() for k, v in module.state_dict().items()} for module in linears]
    assert prepack(linears) <= 1
    assert not isinstance(linears[1].forward, PrepackedLinear)
    for module, state in zip(linears, before, strict=True):
        assert state.keys() == module.state_dict().keys()
        assert all(torch.equal(state[name], module.state_dict()[name]) for name in state)


@pytest.mark.parametrize(("seconds", "prepacked"), [(0.7, True), (1.3, True), (2.0, False)])
def test_timing_does_not_choose_between_products_that_are_about_as_fast(
    monkeypatch: pytest.MonkeyPatch, seconds: float, prepacked: bool
) -> None:
    """They differ in the last bit, so two runs of one training must not choose differently."""
    times = iter([1.0, seconds])  # of the plain product, then of the prepacked one
    monkeypatch.setattr("adapterkit.ops.frozen_linear._seconds", lambda run, x: next(times))
    linear = nn.Linear(8, 8).requires_grad_(False)
    assert prepack([linear]) == prepacked


@pytest.mark.parametrize("kind", ["lora", "prefix", "bottleneck"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_prepacked_backbone_equals_a_plain_one(
    tiny_folder: Path, make_adapter: MakeAdapter, kind: str, dtype: str
) -> None:
    results = []
    for prepared in (True, False):
        backbone = Backbone.load(str(tiny_folder), dtype=dtype, device="cpu", prepared=False)  # type: ignore[arg-type]
        if prepared:  # all of them, faster or not
            for linear in backbone.linears:
                setattr(linear, "forward", PrepackedLinear(linear))  # type: ignore[arg-type]  # noqa: B010
        adapter = make_adapter(backbone, kind)
        tensors = list(adapter.tensors.values())
        for tensor in tensors:
            tensor.requires_grad_()
        rows = tokenise(backbone, ["my card", "close the account please", "tea"], None, 40)
        (piece,) = forward(backbone, [(adapter, row) for row in rows])
        (piece.values * torch.tensor([1.0, -2.0])).sum().backward()
        grads = torch.cat([t.grad.flatten() for t in tensors if t.grad is not None])
        results.append((piece.values.detach(), grads / grads.abs().max()))
    tolerance = TOLERANCE[getattr(torch, dtype)] * 2
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", [(7,), (1, 300)])
def test_int8_is_close_forward_and_exact_backward(
    capability: Processor, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(96, 160, dtype=dtype).requires_grad_(False)
    x, target = torch.randn(*shape, 96, dtype=dtype), torch.randn(*shape, 160, dtype=dtype)
    results = []
    for run in (Int8Linear(linear), linear):
        leaf = x.clone().requires_grad_()
        y = run(leaf)
        (y * target).sum().backward()
        assert leaf.grad is not None
        results.append((y.detach().float(), leaf.grad))
    assert (results[0][0] - results[1][0]).norm() / results[1][0].norm() < 0.03
    torch.testing.assert_close(
        *(pair[1] for pair in results), rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype]
    )


def test_int8_sums_do_not_overflow_on_any_processor() -> None:
    """Without VNNI two products are added in 16 bits, which do not hold the largest ones."""
    largest = int8_max()
    assert largest > 0
    x, weight = torch.ones(32, 128), torch.ones(48, 128)
    x[0, 0] = 0.0
    y = torch.ops.quantized.linear_dynamic(x, pack_int8(weight, None, largest), False)
    torch.testing.assert_close(y[1:], torch.full((31, 48), 128.0), rtol=1e-3, atol=0)


def test_int8_is_refused_without_an_exact_product(monkeypatch: pytest.MonkeyPatch) -> None:
    none = Processor("DEFAULT", frozenset({torch.float32}))
    monkeypatch.setattr("adapterkit.ops.frozen_linear.processor", lambda: none)
    monkeypatch.setattr("adapterkit.ops.frozen_linear.int8_max", lambda: 0)
    with pytest.raises(
        BackboneError, match=r"'int8': this processor \(DEFAULT\).*use none, or 8bit"
    ):
        use_int8([nn.Linear(8, 8)])


def test_bfloat16_that_cannot_be_prepacked_is_plain_and_logged_once(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("adapterkit.ops.frozen_linear.processor", lambda: AVX2)
    warn_of_plain_bfloat16.cache_clear()
    for _ in range(2):
        backbone = Backbone.load(str(tiny_folder), dtype="bfloat16", device="cpu")
    assert [record.message for record in caplog.records] == [
        f"this processor ({processor().instruction_set}) has no fast bfloat16 products: plain ones"
        " are used, several times slower than float32"
    ]
    assert not any(getattr(linear.forward, "prepacks", True) for linear in backbone.linears)


def test_int8_scores_are_close_to_float32(minilm: Backbone, make_adapter: MakeAdapter) -> None:
    before = {name: t.clone() for name, t in minilm.model.state_dict().items()}
    fast = Backbone.load("minilm", quantization="int8", device="cpu")
    assert fast.fingerprint == minilm.fingerprint
    after = fast.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    texts = ["where is my card", "the network is slow today", "please close my account"]
    for kind in ("lora", "prefix", "bottleneck"):
        requests = [("acme/intent", text) for text in texts]
        answers = [Predictor(b, [make_adapter(minilm, kind)])(requests) for b in (minilm, fast)]
        for exact, near in zip(*answers, strict=True):
            assert exact["score"] == pytest.approx(near["score"], abs=0.05)


def test_int8_is_for_the_cpu(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    with pytest.raises(BackboneError, match="'int8' is for the CPU; use 8bit on a GPU"):
        Backbone.load(str(tiny_folder), quantization="int8")


def test_batch_sizes_are_rounded_to_few_kernel_sizes() -> None:
    sizes = range(1, 8193)
    filled = {bucket_for_onednn(n) for n in sizes}
    assert all(n <= bucket_for_onednn(n) <= max(16, n * 17 / 16 + 16) for n in sizes)
    assert len(filled) < 200
    assert len({bucket_for_onednn(n) for n in range(1, 513)}) == 32
