"""Frozen linears whose weights are prepacked once: they never change, so oneDNN may reorder them.

The operators are private to torch, so they are used only here and in `processor`. A linear stays
plain if the operators are missing, if it is of another class, or if they are clearly slower.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import BackboneError
from .gelu import gelu
from .processor import int8_max, pack_int8, processor, warn_of_plain_bfloat16

TRIAL_TOKENS = 128
TRIALS = 7
CLEARLY_SLOWER = 1.5
"""A prepacked product is used unless it takes this many times the plain one's time. The two differ
in the last bit, so if they are about as fast, timing must not choose between them: two runs of one
training would give two adapters."""


class PrepackedLinear:
    """One frozen linear whose weight is prepacked for the product `x W^T + b`.

    Each prepacked weight is made when it is first needed: serving never needs the transpose, which
    is for the gradient towards the input.

    Args:
        linear: The linear.
        dtype: Of the product; the weight's if omitted.
        faster: Whether the prepacked product replaces the plain one in its own dtype. Under
            autocast to bfloat16 it always does.
    """

    def __init__(
        self, linear: nn.Linear, dtype: torch.dtype | None = None, faster: bool = True
    ) -> None:
        self.linear = linear
        self.dtype = dtype or linear.weight.dtype
        self.faster = faster
        self.prepacks = self.dtype in processor().prepacked
        if self.dtype == torch.bfloat16 and not self.prepacks:
            warn_of_plain_bfloat16()
        self.bias = None if linear.bias is None else linear.bias.detach().to(self.dtype)
        self._packed_weight: Tensor | None = None
        self._packed_transpose: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """`[..., in]` to `[..., out]`."""
        if self._is_prepacked(x):
            return self.product(x)
        if _autocasts_to_bfloat16() and self.dtype == torch.float32:
            return self._in_bfloat16.product(x.bfloat16())
        return F.linear(x, self.linear.weight, self.linear.bias)

    def product(self, x: Tensor) -> Tensor:
        """The prepacked product of an x of its dtype, differentiable."""
        if x.requires_grad and torch.is_grad_enabled():
            apply: Any = _Product.apply
            output: Tensor = apply(x, self)
            return output
        return self.forward(x)

    def forward(self, x: Tensor) -> Tensor:
        """The product, without gradients; a plain one if oneDNN cannot prepack the dtype."""
        if not self.prepacks:
            return F.linear(x, self._plain_weight, self.bias)
        return _product(x, self._prepacked_weight(), self.bias)

    def _is_prepacked(self, x: Tensor) -> bool:
        """Whether the prepacked product of its own dtype computes x."""
        return self.faster and x.dtype == self.dtype and not torch.is_autocast_enabled("cpu")

    @cached_property
    def _in_bfloat16(self) -> PrepackedLinear:
        """The same linear in bfloat16: autocast would cast the weight at every product."""
        return PrepackedLinear(self.linear, torch.bfloat16)

    @cached_property
    def _plain_weight(self) -> Tensor:
        """The weight in the product's dtype."""
        return self._weight()

    def _weight(self) -> Tensor:
        return self.linear.weight.detach().to(self.dtype)

    def _prepacked_weight(self) -> Tensor:
        if self._packed_weight is None:
            self._packed_weight = torch.ops.mkldnn._reorder_linear_weight(self._weight(), None)
        return self._packed_weight

    def input_gradient(self, gradient: Tensor) -> Tensor:
        """The gradient towards the input, from the one towards the output."""
        if not self.prepacks:
            return gradient @ self._plain_weight
        if self._packed_transpose is None:
            weight = self._weight().t().contiguous()
            self._packed_transpose = torch.ops.mkldnn._reorder_linear_weight(weight, None)
        return _product(gradient.contiguous(), self._packed_transpose, None)


def _autocasts_to_bfloat16() -> bool:
    is_enabled = torch.is_autocast_enabled("cpu")
    return is_enabled and torch.get_autocast_dtype("cpu") == torch.bfloat16


class PrepackedLinearGelu(PrepackedLinear):
    """One frozen linear and the GELU after it in one product.

    It replaces the forward of both modules: the linear returns the output of the GELU, and the GELU
    returns that tensor unchanged. If an edit acts between them, or gradients are needed, each
    computes its own part.

    Args:
        linear: The linear.
        is_edited: Whether an edit acts between the two in the forward that is running.
    """

    def __init__(self, linear: nn.Linear, is_edited: Callable[[], bool]) -> None:
        super().__init__(linear)
        self._is_edited = is_edited
        self._last = threading.local()

    def __call__(self, x: Tensor) -> Tensor:
        """`[..., in]` to `[..., out]`, with or without the GELU."""
        needs_gradient = x.requires_grad and torch.is_grad_enabled()
        fuses = not needs_gradient and self.prepacks and self._is_prepacked(x)
        if not fuses or self._is_edited():
            return super().__call__(x)
        output = _product(x, self._prepacked_weight(), self.bias, "gelu")
        self._last.output = output
        return output

    def activation(self, x: Tensor) -> Tensor:
        """GELU; x itself if x is the last fused output."""
        last, self._last.output = getattr(self._last, "output", None), None
        return x if x is last else gelu(x)


class Int8Linear(PrepackedLinear):
    """One frozen linear with 8-bit products forward and full precision backward.

    The weight is rounded once, with a scale for each output. The input is rounded at every product,
    with one scale for the whole batch, so answers differ by some thousandths between batches. The
    gradient is that of the full-precision linear.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear)
        bias = None if linear.bias is None else linear.bias.detach().float()
        weight = linear.weight.detach().float()
        self._packed: Any = pack_int8(weight, bias, int8_max())

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = torch.ops.quantized.linear_dynamic(x.float(), self._packed, False)
        return y.to(x.dtype)


class _Product(torch.autograd.Function):
    """The product with a gradient towards the input alone, since the weight is frozen."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, linear: PrepackedLinear) -> Tensor:
        ctx.linear = linear
        return linear.forward(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.linear.input_gradient(gradients[0]), None


def _product(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str = "none") -> Tensor:
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation, [], "none")
    return y


def use_int8(linears: Iterable[nn.Module]) -> None:
    """Gives the linears of a frozen model on a CPU 8-bit products.

    Raises:
        BackboneError: This build of torch, or this processor, has no exact 8-bit products.
    """
    if not int8_max():
        raise BackboneError(
            f"quantization: 'int8': this processor ({processor().instruction_set}) or this build of"
            " torch has no exact products of 8 bits; use none, or 8bit for memory"
        )
    for linear in linears:
        if isinstance(linear, nn.Linear):
            setattr(linear, "forward", Int8Linear(linear))  # noqa: B010


def prepack(linears: Iterable[nn.Module]) -> int:
    """Prepacks the plain CPU linears among some frozen modules, unless that is clearly slower.

    In float32 one linear of each shape is timed both ways, which takes some milliseconds. In
    bfloat16 prepacked products are used if the processor has them: their results are the same to
    the last bit, and plain ones are never faster. State dict and hooks stay as they are.

    Returns:
        Number of linears that use prepacked products in their own dtype.
    """
    faster: dict[tuple[Any, ...], bool] = {}
    count = 0
    for linear in linears:
        if type(linear) is not nn.Linear or linear.weight.device.type != "cpu":
            continue
        key = (linear.weight.shape, linear.weight.dtype)
        if key not in faster:
            faster[key] = _is_faster(linear)
        setattr(linear, "forward", PrepackedLinear(linear, faster=faster[key]))  # noqa: B010
        count += faster[key]
    return count


def fuse_gelu(linear: nn.Module, gelu: nn.Module, is_edited: Callable[[], bool]) -> None:
    """Fuses a prepacked linear with the GELU after it; other linears stay as they are.

    Args:
        linear: The linear.
        gelu: The GELU, exact and not its tanh approximation.
        is_edited: Whether an edit acts between the two in the forward that is running.
    """
    plain = linear.forward
    if isinstance(linear, nn.Linear) and type(plain) is PrepackedLinear and plain.faster:
        fused = PrepackedLinearGelu(linear, is_edited)
        setattr(linear, "forward", fused)  # noqa: B010
        setattr(gelu, "forward", fused.activation)  # noqa: B010


def _is_faster(linear: nn.Linear) -> bool:
    """Whether a prepacked product is not clearly slower than a plain one.

    It is timed as worker lanes compute it: on one thread, by the CPU time of that thread, which
    other processes do not change much.
    """
    if linear.weight.dtype not in processor().prepacked:
        return False
    if linear.weight.dtype == torch.bfloat16:
        return True
    x = torch.randn(TRIAL_TOKENS, linear.in_features, dtype=linear.weight.dtype)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        prepacked = PrepackedLinear(linear)
        with torch.inference_mode():
            plain, packed = (_seconds(run, x) for run in (linear.forward, prepacked.forward))
    except (RuntimeError, AttributeError):  # this torch, or this processor, cannot prepack
        return False
    finally:
        torch.set_num_threads(threads)
    return packed < CLEARLY_SLOWER * plain


def _seconds(run: Any, x: Tensor) -> float:
    """CPU time of the fastest of a few runs."""
    run(x)
    best = float("inf")
    for _ in range(TRIALS):
        start = time.thread_time()
        run(x)
        best = min(best, time.thread_time() - start)
    return best
