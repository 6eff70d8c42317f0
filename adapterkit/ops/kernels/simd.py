"""Vectors of sixteen float32 numbers for compiled kernels: LLVM's vectors as numba's functions.

LLVM maps a vector to the registers of the processor: one of AVX-512, two of AVX2, four of NEON.
Kernels use vectors where the compiler does not vectorise by itself, which is in short loops. These
functions can be called in compiled code alone. Addresses are those of float32 numbers unless a
function says otherwise, and need no alignment.
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
"""Coefficients of a polynomial for 2^f, f from 0 to 1, within 1.1e-7: a Chebyshev fit of degree
5."""

_FLOAT, _INT, _SHORT = ir.FloatType(), ir.IntType(32), ir.IntType(16)
_FLOATS, _INTS, _SHORTS = (ir.VectorType(kind, WIDTH) for kind in (_FLOAT, _INT, _SHORT))
_NOTHING = ir.Constant(_FLOATS, ir.Undefined)
_ANY_ORDER = ("nnan", "nsz", "reassoc")  # for reductions, which may then run in any order


class Vector(types.Type):  # type: ignore[misc]  # numba has no types
    """numba's type of a vector."""

    def __init__(self) -> None:
        super().__init__(name=f"float32x{WIDTH}")


@register_model(Vector)
class _Model(models.PrimitiveModel):  # type: ignore[misc]  # numba has no types
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _FLOATS)


vector = Vector()


def _instruction(returns: Any, *takes: Any) -> Callable[[Callable[..., Any]], Any]:
    """Decorator that turns a function which emits LLVM instructions into one for compiled code.

    Args:
        returns: numba's type of the result.
        takes: numba's types of the arguments; 1, 2, 3 or 5 of them.
    """

    def decorate(emit: Callable[..., Any]) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            result = emit(builder, *arguments)
            return context.get_dummy_value() if returns is types.none else result

        signature = returns(*takes)
        # numba takes the number of arguments from the signature of the function.
        typings = {
            1: lambda context, a: (signature, generate),
            2: lambda context, a, b: (signature, generate),
            3: lambda context, a, b, c: (signature, generate),
            5: lambda context, a, b, c, d, e: (signature, generate),
        }
        return intrinsic(typings[len(takes)])

    return decorate


@_instruction(types.CPointer(types.float32), types.int64)
def floats(builder: Any, address: Any) -> Any:
    """A pointer to the numbers at an address, to read and write them one by one."""
    return builder.inttoptr(address, ir.PointerType(_FLOAT))


@_instruction(vector, types.int64)
def load(builder: Any, address: Any) -> Any:
    """The sixteen numbers at an address."""
    return _load(builder, address)


@_instruction(types.none, types.int64, vector)
def store(builder: Any, address: Any, x: Any) -> Any:
    """Writes sixteen numbers to an address."""
    _store(builder, address, x)


# A bfloat16 number has the upper 16 bits of a float32 number.


@_instruction(vector, types.int64)
def load_bfloat16(builder: Any, address: Any) -> Any:
    """The sixteen bfloat16 numbers at an address, as float32."""
    loaded = builder.load(builder.inttoptr(address, ir.PointerType(_SHORTS)))
    loaded.align = 2
    bits = builder.shl(builder.zext(loaded, _INTS), _bits(16))
    return builder.bitcast(bits, _FLOATS)


@_instruction(types.none, types.int64, vector)
def store_bfloat16(builder: Any, address: Any, x: Any) -> Any:
    """Writes sixteen numbers as bfloat16, rounded to the nearest, ties to even; NaN stays NaN."""
    bits = builder.bitcast(x, _INTS)
    odd = builder.and_(builder.lshr(bits, _bits(16)), _bits(1))
    rounded = builder.add(bits, builder.add(odd, _bits(0x7FFF)))
    is_nan = builder.fcmp_unordered("uno", x, x)
    upper = builder.lshr(builder.select(is_nan, bits, rounded), _bits(16))
    written = builder.store(
        builder.trunc(upper, _SHORTS), builder.inttoptr(address, ir.PointerType(_SHORTS))
    )
    written.align = 2


@_instruction(vector, types.float32)
def splat(builder: Any, x: Any) -> Any:
    """A vector of one number sixteen times."""
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
def div(builder: Any, x: Any, y: Any) -> Any:
    """x / y."""
    return builder.fdiv(x, y)


@_instruction(vector, vector)
def absolute(builder: Any, x: Any) -> Any:
    """|x|."""
    return _call(builder, "fabs", _FLOATS, x)


@_instruction(vector, vector, vector)
def copysign(builder: Any, x: Any, y: Any) -> Any:
    """|x| with the sign of y."""
    return _call(builder, "copysign", _FLOATS, x, y)


@_instruction(vector, vector, vector, vector)
def fma(builder: Any, x: Any, y: Any, z: Any) -> Any:
    """x y + z, in one instruction if the processor has it."""
    return _fma(builder, x, y, z)


@_instruction(vector, vector, vector)
def maximum(builder: Any, x: Any, y: Any) -> Any:
    """The larger number of each pair."""
    return _call(builder, "maxnum", _FLOATS, x, y)


@_instruction(types.float32, vector)
def reduce_max(builder: Any, x: Any) -> Any:
    """The largest of the sixteen numbers."""
    return _call(builder, "vector.reduce.fmax", _FLOAT, x)


@_instruction(types.float32, vector)
def reduce_sum(builder: Any, x: Any) -> Any:
    """The sum of the sixteen numbers."""
    return _call(builder, "vector.reduce.fadd", _FLOAT, ir.Constant(_FLOAT, -0.0), x)


@_instruction(vector, vector)
def exp(builder: Any, x: Any) -> Any:
    """e^x for x up to 88, within 2e-7; results below 2^-126 become 2^-126."""
    power = builder.fmul(x, _all(LOG2_E))
    power = _call(builder, "maxnum", _FLOATS, power, _all(-126.0))
    whole = _call(builder, "floor", _FLOATS, power)
    rest = builder.fsub(power, whole)
    value = _all(POWERS[-1])
    for coefficient in POWERS[-2::-1]:
        value = _fma(builder, value, rest, _all(coefficient))
    # float32 stores the exponent plus 127 above 23 bits of fraction.
    exponent = builder.add(builder.fptosi(whole, _INTS), _bits(127))
    bits = builder.shl(exponent, _bits(23))
    return builder.fmul(value, builder.bitcast(bits, _FLOATS))


@_instruction(types.none, types.int64, types.int64, types.int64, types.int64, types.int64)
def transpose(builder: Any, source: Any, step: Any, n: Any, target: Any, target_step: Any) -> Any:
    """Transposes sixteen rows of sixteen numbers.

    Args:
        source: Address of the first row.
        step: Bytes from a row to the next.
        n: Number of rows, 1 or more; the last one is repeated up to sixteen.
        target: Address of the first row that is written.
        target_step: Bytes from a written row to the next.
    """

    def address_of(address: Any, step: Any, row: Any) -> Any:
        return builder.add(address, builder.mul(step, row))

    def constant(i: int) -> Any:
        return ir.Constant(ir.IntType(64), i)

    last = builder.sub(n, constant(1))
    rows = []
    for i in range(WIDTH):
        exists = builder.icmp_signed("<", constant(i), n)
        row = builder.select(exists, constant(i), last)
        rows.append(_load(builder, address_of(source, step, row)))
    # Squares of 1, 2, 4 and 8 numbers are swapped across the diagonal.
    for side in (1, 2, 4, 8):
        swapped = list(rows)
        for i in range(WIDTH):
            if not i & side:
                low, high = rows[i], rows[i + side]
                lows = [k if not k & side else k - side + WIDTH for k in range(WIDTH)]
                highs = [k + side if not k & side else k + WIDTH for k in range(WIDTH)]
                swapped[i] = builder.shuffle_vector(low, high, ir.Constant(_INTS, lows))
                swapped[i + side] = builder.shuffle_vector(low, high, ir.Constant(_INTS, highs))
        rows = swapped
    for i, row in enumerate(rows):
        _store(builder, address_of(target, target_step, constant(i)), row)


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
    """Calls one of LLVM's intrinsic functions on vectors."""
    full = f"llvm.{name}.v{WIDTH}f32"
    declared = builder.module.globals
    if full not in declared:
        kind = ir.FunctionType(returns, [argument.type for argument in arguments])
        ir.Function(builder.module, kind, full)
    flags = _ANY_ORDER if "max" in name or "reduce" in name else ()
    return builder.call(declared[full], arguments, fastmath=flags)
