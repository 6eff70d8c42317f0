"""Sixteen float32 numbers at a time, for compiled kernels: numba's way to LLVM's vectors.

LLVM makes of a vector whatever the processor has: one register of AVX-512, two of AVX2, four of
NEON. Kernels ask for vectors where the compiler does not find them by itself, which is in loops of
a few rounds. All of this is called from compiled code; an address is that of a float32 number,
where nothing else is said, and need not be a multiple of anything.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, register_model

from ..bucketing import WIDTH

LOG2_E = 1.4426950408889634
POWERS = (0.9999998958, 0.69315462, 0.2401407701, 0.05586328266, 0.008946214667, 0.001895107291)
"""2^f for f from 0 to 1 as a polynomial, within 1.1e-7 of it (a Chebyshev fit of degree 5)."""

_FLOAT, _INT, _SHORT = ir.FloatType(), ir.IntType(32), ir.IntType(16)
_FLOATS, _INTS, _SHORTS = (ir.VectorType(kind, WIDTH) for kind in (_FLOAT, _INT, _SHORT))
_NOTHING = ir.Constant(_FLOATS, ir.Undefined)
_LOOSE = ("nnan", "nsz", "reassoc")  # a reduction in any order, of numbers


class Vector(types.Type):  # type: ignore[misc]  # numba has no types
    """numba's name for sixteen numbers."""

    def __init__(self) -> None:
        super().__init__(name=f"float32x{WIDTH}")


@register_model(Vector)
class _Model(models.PrimitiveModel):  # type: ignore[misc]  # numba has no types
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _FLOATS)


vector = Vector()


def _instruction(returns: Any, *takes: Any) -> Callable[[Callable[..., Any]], Any]:
    """Makes compiled code's function of one that writes LLVM's instructions.

    Args:
        returns: numba's type of what it gives.
        takes: numba's types of what it is given; 4 at most.
    """

    def made(write: Callable[..., Any]) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            given = write(builder, *arguments)
            return context.get_dummy_value() if returns is types.none else given

        signature = returns(*takes)
        # numba reads the number of arguments off the function.
        typings = {
            1: lambda context, a: (signature, generate),
            2: lambda context, a, b: (signature, generate),
            3: lambda context, a, b, c: (signature, generate),
            5: lambda context, a, b, c, d, e: (signature, generate),
        }
        return intrinsic(typings[len(takes)])

    return made


@_instruction(types.CPointer(types.float32), types.int64)
def floats(builder: Any, address: Any) -> Any:
    """The numbers at an address, to be read and written one by one."""
    return builder.inttoptr(address, ir.PointerType(_FLOAT))


@_instruction(vector, types.int64)
def load(builder: Any, address: Any) -> Any:
    """The sixteen numbers at an address."""
    return _load(builder, address)


@_instruction(types.none, types.int64, vector)
def store(builder: Any, address: Any, x: Any) -> Any:
    """Writes sixteen numbers to an address."""
    _store(builder, address, x)


# A bfloat16 number is the upper half of a float32 one.


@_instruction(vector, types.int64)
def load_half(builder: Any, address: Any) -> Any:
    """The sixteen numbers at the address of a bfloat16 one."""
    loaded = builder.load(builder.inttoptr(address, ir.PointerType(_SHORTS)))
    loaded.align = 2
    bits = builder.shl(builder.zext(loaded, _INTS), _bits(16))
    return builder.bitcast(bits, _FLOATS)


@_instruction(types.none, types.int64, vector)
def store_half(builder: Any, address: Any, x: Any) -> Any:
    """Writes sixteen numbers as bfloat16, each rounded to the nearest, or of two to the even one;
    what is no number stays none."""
    bits = builder.bitcast(x, _INTS)
    odd = builder.and_(builder.lshr(bits, _bits(16)), _bits(1))
    rounded = builder.add(bits, builder.add(odd, _bits(0x7FFF)))
    none = builder.fcmp_unordered("uno", x, x)
    chosen = builder.lshr(builder.select(none, bits, rounded), _bits(16))
    written = builder.store(
        builder.trunc(chosen, _SHORTS), builder.inttoptr(address, ir.PointerType(_SHORTS))
    )
    written.align = 2


@_instruction(vector, types.float32)
def splat(builder: Any, x: Any) -> Any:
    """One number sixteen times."""
    first = builder.insert_element(_NOTHING, x, ir.Constant(_INT, 0))
    return builder.shuffle_vector(first, _NOTHING, ir.Constant(_INTS, [0] * WIDTH))


@_instruction(vector, vector, vector)
def add(builder: Any, x: Any, y: Any) -> Any:
    """x + y."""
    return builder.fadd(x, y)


@_instruction(vector, vector, vector)
def mul(builder: Any, x: Any, y: Any) -> Any:
    """x y."""
    return builder.fmul(x, y)


@_instruction(vector, vector, vector)
def over(builder: Any, x: Any, y: Any) -> Any:
    """x / y."""
    return builder.fdiv(x, y)


@_instruction(vector, vector)
def size(builder: Any, x: Any) -> Any:
    """|x|."""
    return _call(builder, "fabs", _FLOATS, x)


@_instruction(vector, vector, vector)
def signed(builder: Any, x: Any, y: Any) -> Any:
    """|x| with the sign of y."""
    return _call(builder, "copysign", _FLOATS, x, y)


@_instruction(vector, vector, vector, vector)
def fma(builder: Any, x: Any, y: Any, z: Any) -> Any:
    """x y + z, in one instruction where the processor has it."""
    return _fma(builder, x, y, z)


@_instruction(vector, vector, vector)
def larger(builder: Any, x: Any, y: Any) -> Any:
    """The larger of each two numbers."""
    return _call(builder, "maxnum", _FLOATS, x, y)


@_instruction(types.float32, vector)
def largest(builder: Any, x: Any) -> Any:
    """The largest number."""
    return _call(builder, "vector.reduce.fmax", _FLOAT, x)


@_instruction(types.float32, vector)
def total(builder: Any, x: Any) -> Any:
    """The sum of all numbers."""
    return _call(builder, "vector.reduce.fadd", _FLOAT, ir.Constant(_FLOAT, -0.0), x)


@_instruction(vector, vector)
def exp(builder: Any, x: Any) -> Any:
    """e^x for x up to 88, within 2e-7 of it; what is smaller than 2^-126 becomes 2^-126."""
    power = builder.fmul(x, _all(LOG2_E))
    power = _call(builder, "maxnum", _FLOATS, power, _all(-126.0))
    whole = _call(builder, "floor", _FLOATS, power)
    rest = builder.fsub(power, whole)
    value = _all(POWERS[-1])
    for coefficient in POWERS[-2::-1]:
        value = _fma(builder, value, rest, _all(coefficient))
    # A float32's exponent stands 127 too high, above 23 bits of fraction.
    exponent = builder.add(builder.fptosi(whole, _INTS), _bits(127))
    bits = builder.shl(exponent, _bits(23))
    return builder.fmul(value, builder.bitcast(bits, _FLOATS))


@_instruction(types.none, types.int64, types.int64, types.int64, types.int64, types.int64)
def turn(builder: Any, source: Any, step: Any, lines: Any, into: Any, into_step: Any) -> Any:
    """Writes sixteen lines of sixteen numbers as columns.

    Args:
        source: Address of the first line.
        step: Bytes from a line to the next.
        lines: How many there are, 1 or more; the last takes the place of those that are not.
        into: Address of the first line of what is written.
        into_step: Bytes from one of its lines to the next.
    """

    def at(address: Any, step: Any, line: Any) -> Any:
        return builder.add(address, builder.mul(step, line))

    def number(n: int) -> Any:
        return ir.Constant(ir.IntType(64), n)

    last = builder.sub(lines, number(1))
    rows = []
    for n in range(WIDTH):
        there = builder.icmp_signed("<", number(n), lines)
        rows.append(_load(builder, at(source, step, builder.select(there, number(n), last))))
    # Squares of 1, 2, 4 and 8 numbers change places across the diagonal.
    for side in (1, 2, 4, 8):
        swapped = list(rows)
        for n in range(WIDTH):
            if not n & side:
                low, high = rows[n], rows[n + side]
                lows = [k if not k & side else k - side + WIDTH for k in range(WIDTH)]
                highs = [k + side if not k & side else k + WIDTH for k in range(WIDTH)]
                swapped[n] = builder.shuffle_vector(low, high, ir.Constant(_INTS, lows))
                swapped[n + side] = builder.shuffle_vector(low, high, ir.Constant(_INTS, highs))
        rows = swapped
    for n, row in enumerate(rows):
        _store(builder, at(into, into_step, number(n)), row)


def _load(builder: Any, address: Any) -> Any:
    loaded = builder.load(builder.inttoptr(address, ir.PointerType(_FLOATS)))
    loaded.align = 4
    return loaded


def _store(builder: Any, address: Any, x: Any) -> None:
    builder.store(x, builder.inttoptr(address, ir.PointerType(_FLOATS))).align = 4


def _all(number: float) -> Any:
    return ir.Constant(_FLOATS, [ir.Constant(_FLOAT, number)] * WIDTH)


def _bits(number: int) -> Any:
    return ir.Constant(_INTS, [number] * WIDTH)


def _fma(builder: Any, x: Any, y: Any, z: Any) -> Any:
    return _call(builder, "fmuladd", _FLOATS, x, y, z)


def _call(builder: Any, name: str, returns: Any, *arguments: Any) -> Any:
    """Calls one of LLVM's own functions on vectors."""
    full = f"llvm.{name}.v{WIDTH}f32"
    known = builder.module.globals
    if full not in known:
        kind = ir.FunctionType(returns, [argument.type for argument in arguments])
        ir.Function(builder.module, kind, full)
    loose = _LOOSE if "max" in name or "reduce" in name else ()
    return builder.call(known[full], arguments, fastmath=loose)
