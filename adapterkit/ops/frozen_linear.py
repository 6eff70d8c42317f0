"""Frozen linears, prepared once: the weights never change, so oneDNN may lay them out for itself.

The operators are private to torch, so all that is known of them stands here and in `processor`, and
plain linears remain wherever they are missing, of another kind or not faster on this processor.
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
from .processor import pack_int8, processor, warn_of_plain_bfloat16

TRIAL_TOKENS = 128
TRIALS = 7
CLEARLY_SLOWER = 1.5
"""A prepared product is used unless it takes this many times the plain one's time. The two differ
in the last bit: if they are about as fast, a stopwatch must not choose between them, or two runs
of one training would give two adapters."""


class PrepackedLinear:
    """One frozen linear with its weight laid out for the product `x W^T + b`.

    Each layout is made when it is first needed: serving never pays for the transpose, which is for
    the gradient towards the input.

    Args:
        linear: The linear.
        dtype: Of the product; the weight's if omitted.
        faster: Whether the prepared product takes the plain one's place in its own dtype. Under
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
        self._ahead: Tensor | None = None
        self._back: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """`[..., in]` to `[..., out]`."""
        if self._suits(x):
            return self.product(x)
        if _is_cast() and self.dtype == torch.float32:
            return self._half.product(x.bfloat16())
        return F.linear(x, self.linear.weight, self.linear.bias)

    def product(self, x: Tensor) -> Tensor:
        """The prepared product of an x of its dtype, with a way back where gradients flow."""
        if x.requires_grad and torch.is_grad_enabled():
            apply: Any = _Product.apply
            output: Tensor = apply(x, self)
            return output
        return self.forward(x)

    def forward(self, x: Tensor) -> Tensor:
        """The product; the plain one where oneDNN cannot lay out weights of this dtype."""
        if not self.prepacks:
            return F.linear(x, self._plain, self.bias)
        return _product(x, self._laid_out(), self.bias)

    def _suits(self, x: Tensor) -> bool:
        """Whether it is the prepared product that is asked for."""
        return self.faster and x.dtype == self.dtype and not torch.is_autocast_enabled("cpu")

    @cached_property
    def _half(self) -> PrepackedLinear:
        """The same in bfloat16: autocast would cast the weight anew at every product."""
        return PrepackedLinear(self.linear, torch.bfloat16)

    @cached_property
    def _plain(self) -> Tensor:
        """The weight in the product's dtype."""
        return self._weight()

    def _weight(self) -> Tensor:
        return self.linear.weight.detach().to(self.dtype)

    def _laid_out(self) -> Tensor:
        if self._ahead is None:
            self._ahead = torch.ops.mkldnn._reorder_linear_weight(self._weight(), None)
        return self._ahead

    def input_gradient(self, gradient: Tensor) -> Tensor:
        """The gradient towards the input, from the one towards the output."""
        if not self.prepacks:
            return gradient @ self._plain
        if self._back is None:
            weight = self._weight().t().contiguous()
            self._back = torch.ops.mkldnn._reorder_linear_weight(weight, None)
        return _product(gradient.contiguous(), self._back, None)


def _is_cast() -> bool:
    """Whether products are cast to bfloat16."""
    on = torch.is_autocast_enabled("cpu")
    return on and torch.get_autocast_dtype("cpu") == torch.bfloat16


class PrepackedLinearGelu(PrepackedLinear):
    """One frozen linear and the GELU after it in one product, where nothing stands between them.

    It takes the place of both: the linear gives what the GELU would, and the GELU lets that very
    tensor through. Where something stands between them, or gradients flow, each does its own part.

    Args:
        linear: The linear.
        between: Whether something stands between them in the forward at hand.
    """

    def __init__(self, linear: nn.Linear, between: Callable[[], bool]) -> None:
        super().__init__(linear)
        self._between = between
        self._done = threading.local()

    def __call__(self, x: Tensor) -> Tensor:
        """`[..., in]` to `[..., out]`, with or without the GELU."""
        flows = x.requires_grad and torch.is_grad_enabled()
        if flows or not self.prepacks or not self._suits(x) or self._between():
            return super().__call__(x)
        self._done.output = _product(x, self._laid_out(), self.bias, "gelu")
        output: Tensor = self._done.output
        return output

    def activation(self, x: Tensor) -> Tensor:
        """GELU, unless it is part of x already."""
        done, self._done.output = getattr(self._done, "output", None), None
        return x if x is done else gelu(x)


class Int8Linear(PrepackedLinear):
    """One frozen linear computed in 8 bits ahead, and in full precision back.

    The weight is rounded once, a scale for each output; the input at every product, one scale for
    all of it, so answers differ by some thousandths between batch compositions. The gradient is
    that of the full-precision linear.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear)
        bias = None if linear.bias is None else linear.bias.detach().float()
        weight = linear.weight.detach().float()
        self._packed: Any = pack_int8(weight, bias, processor().int8_max)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = torch.ops.quantized.linear_dynamic(x.float(), self._packed, False)
        return y.to(x.dtype)


class _Product(torch.autograd.Function):
    """The product with a gradient towards the input alone: the weight is frozen."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, prepared: PrepackedLinear) -> Tensor:
        ctx.prepared = prepared
        return prepared.forward(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.prepared.input_gradient(gradients[0]), None


def _product(x: Tensor, weight: Tensor, bias: Tensor | None, after: str = "none") -> Tensor:
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, after, [], "none")
    return y


def prepare_int8(linears: Iterable[nn.Module]) -> None:
    """Prepares the linears of a frozen model on a CPU for products in 8 bits.

    Raises:
        BackboneError: This build of torch, or this processor, has no products of 8 bits that are
            right.
    """
    if not processor().int8_max:
        raise BackboneError(
            f"quantization: 'int8': this processor ({processor().instruction_set}) or this build of"
            " torch has no exact products of 8 bits; use none, or 8bit for memory"
        )
    for linear in linears:
        if isinstance(linear, nn.Linear):
            setattr(linear, "forward", Int8Linear(linear))  # noqa: B010


def prepare(linears: Iterable[nn.Module]) -> int:
    """Prepares the plain CPU linears among some frozen modules, unless that is clearly slower.

    In float32 one linear of each shape is timed both ways, some milliseconds each; in bfloat16 the
    processor decides, whose plain products are as exact to the bit and never faster. State dict and
    hooks stay as they are.

    Returns:
        How many compute prepared products in their own dtype.
    """
    faster: dict[tuple[Any, ...], bool] = {}
    count = 0
    for linear in linears:
        if type(linear) is not nn.Linear or linear.weight.device.type != "cpu":
            continue
        kind = (linear.weight.shape, linear.weight.dtype)
        if kind not in faster:
            faster[kind] = _is_faster(linear)
        setattr(linear, "forward", PrepackedLinear(linear, faster=faster[kind]))  # noqa: B010
        count += faster[kind]
    return count


def activate(linear: nn.Module, gelu: nn.Module, between: Callable[[], bool]) -> None:
    """Computes a prepared linear and the GELU after it in one product; others stay as they are.

    Args:
        linear: The linear.
        gelu: The GELU, exact and not the tanh kind.
        between: Whether something stands between them in the forward at hand.
    """
    done = linear.forward
    if isinstance(linear, nn.Linear) and type(done) is PrepackedLinear and done.faster:
        both = PrepackedLinearGelu(linear, between)
        setattr(linear, "forward", both)  # noqa: B010
        setattr(gelu, "forward", both.activation)  # noqa: B010


def _is_faster(linear: nn.Linear) -> bool:
    """Whether a prepared product is worth it.

    Timed as lanes compute it, on one thread and by the processor's time: whoever else uses the
    machine just now has no say in it.
    """
    if linear.weight.dtype not in processor().prepacked:
        return False
    if linear.weight.dtype == torch.bfloat16:
        return True
    x = torch.randn(TRIAL_TOKENS, linear.in_features, dtype=linear.weight.dtype)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        prepared = PrepackedLinear(linear)
        with torch.inference_mode():
            plain, ready = (_seconds(run, x) for run in (linear.forward, prepared.forward))
    except (RuntimeError, AttributeError):  # this torch, or this processor, has no such product
        return False
    finally:
        torch.set_num_threads(threads)
    return ready < CLEARLY_SLOWER * plain


def _seconds(run: Any, x: Tensor) -> float:
    run(x)
    best = float("inf")
    for _ in range(TRIALS):
        began = time.thread_time()
        run(x)
        best = min(best, time.thread_time() - began)
    return best
