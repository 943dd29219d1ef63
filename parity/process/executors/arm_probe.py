"""The child's side of the probe: whether an Arm core, emulated or not, multiplies matrices rightly.

Runtimes choose kernels by the instructions that a core claims to have, and an emulator can claim one and compute it
wrong. So each instruction that their products of matrices are made of is run here as machine code, on small integers,
of which every type has an exact product. NumPy's own products are tried too. Standard library and NumPy only.
"""

from __future__ import annotations

import ctypes
import mmap
import platform
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

# Machine code. Each program is f(x0: sum, x1: left, x2: right), all of 16 bytes, and adds to the sum in place:
# ldr q0, [x0]; ldr q1, [x1]; ldr q2, [x2]; OP v0, v1, v2; str q0, [x0]; ret
_LOADS = (0x3DC00000, 0x3DC00021, 0x3DC00042)
_STORE, _RETURN = 0x3D800000, 0xD65F03C0
_OPERANDS = 2 << 16 | 1 << 5 | 0  # Rm = v2, Rn = v1, Rd = v0

_AT_HWCAP, _AT_HWCAP2 = 16, 26


@dataclass(frozen=True)
class Instruction:
    """A vector instruction that products are made of, and how a core claims it: bit `claim` of a hardware word."""

    name: str
    opcode: int
    word: int
    claim: int
    expected: Callable[[Array, Array, Array], Array]  # (sum, left, right) -> sum, of the types below
    operand: str  # dtype of left and right
    result: str  # dtype of the sum


def _dot4(total: Array, left: Array, right: Array) -> Array:
    """Each of four sums takes the products of its four neighbours: SDOT, UDOT."""
    products: Array = left.astype(np.int64) * right.astype(np.int64)
    return np.asarray(total + products.reshape(4, 4).sum(1))


def _matrix2x8(total: Array, left: Array, right: Array) -> Array:
    """A 2x8 matrix times an 8x2 one, the latter stored by columns: SMMLA, UMMLA."""
    product = left.reshape(2, 8).astype(np.int64) @ right.reshape(2, 8).astype(np.int64).T
    return np.asarray(total + product.reshape(4))


def _elementwise(total: Array, left: Array, right: Array) -> Array:
    return total + left * right


INSTRUCTIONS = (
    Instruction("fmla float32", 0x4E20CC00, _AT_HWCAP, 1, _elementwise, "<f4", "<f4"),
    Instruction("fmla float64", 0x4E60CC00, _AT_HWCAP, 1, _elementwise, "<f8", "<f8"),
    Instruction("fmla float16", 0x4E400C00, _AT_HWCAP, 10, _elementwise, "<f2", "<f2"),
    Instruction("sdot int8", 0x4E809400, _AT_HWCAP, 20, _dot4, "<i1", "<i4"),
    Instruction("udot uint8", 0x6E809400, _AT_HWCAP, 20, _dot4, "<u1", "<u4"),
    Instruction("smmla int8", 0x4E80A400, _AT_HWCAP2, 13, _matrix2x8, "<i1", "<i4"),
    Instruction("ummla uint8", 0x6E80A400, _AT_HWCAP2, 13, _matrix2x8, "<u1", "<u4"),
)
NUMPY_TYPES = ("int8", "uint8", "int16", "int32", "int64", "float16", "float32", "float64")
TRIES = 32


@dataclass(frozen=True)
class Probed:
    """What a core claims and what it computes: `wrong` names each product that is not exact, with an example."""

    machine: str
    claims: tuple[str, ...]
    tried: tuple[str, ...]
    wrong: tuple[str, ...]


def probe() -> Probed:
    """Try every product that this core claims to compute."""
    claimed = tuple(i for i in INSTRUCTIONS if platform.machine() == "aarch64" and _claims(i))
    wrong = [failure for instruction in claimed if (failure := instruction_fails(instruction, _assembled))]
    wrong += [failure for name in NUMPY_TYPES if (failure := _numpy_fails(name))]
    names = tuple(instruction.name for instruction in claimed)
    return Probed(platform.machine(), names, (*names, *(f"matmul {n}" for n in NUMPY_TYPES)), tuple(wrong))


Program = Callable[[Instruction, Array, Array, Array], Array]


def instruction_fails(instruction: Instruction, program: Program) -> str:
    """How `program` computes the instruction wrong, with one example; "" where it does not."""
    rng = np.random.default_rng(1)
    for _ in range(TRIES):
        left, right = (_small(rng, instruction.operand) for _ in range(2))
        total = _small(rng, instruction.result)
        want = instruction.expected(total, left, right).astype(instruction.result)
        got = program(instruction, total, left, right)
        if not np.array_equal(got, want):
            return f"{instruction.name}: {got.tolist()} instead of {want.tolist()}"
    return ""


def _claims(instruction: Instruction) -> bool:
    getauxval = ctypes.CDLL(None).getauxval
    getauxval.restype, getauxval.argtypes = ctypes.c_ulong, [ctypes.c_ulong]
    return bool(getauxval(instruction.word) >> instruction.claim & 1)


def _small(rng: np.random.Generator, dtype: str) -> Array:
    """Sixteen bytes of small integers: their products and sums are exact in every type."""
    low = 0 if np.dtype(dtype).kind == "u" else -11
    return rng.integers(low, 12, 16 // np.dtype(dtype).itemsize).astype(dtype)


def _assembled(instruction: Instruction, total: Array, left: Array, right: Array) -> Array:
    words = (*_LOADS, instruction.opcode | _OPERANDS, _STORE, _RETURN)
    with mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC) as page:
        page.write(struct.pack(f"<{len(words)}I", *words))
        address = ctypes.addressof(ctypes.c_char.from_buffer(page))
        result = total.copy()
        function = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)(address)
        function(result.ctypes.data, left.ctypes.data, right.ctypes.data)
        del function
        return result


def _numpy_fails(name: str) -> str:
    """How NumPy multiplies matrices of a type wrong here; "" where it does not."""
    rng = np.random.default_rng(2)
    left, right = rng.integers(0, 3, (17, 19)), rng.integers(0, 3, (19, 33))
    want = _by_hand(left, right)
    got = left.astype(name) @ right.astype(name)
    return "" if np.array_equal(got.astype(np.int64), want) else f"matmul {name}: NumPy's product is not exact"


def _by_hand(left: Array, right: Array) -> Array:
    """The product of integer matrices in Python's own arithmetic."""
    columns = list(zip(*right.tolist(), strict=True))
    rows = [[sum(a * b for a, b in zip(row, column, strict=True)) for column in columns] for row in left.tolist()]
    return np.array(rows, np.int64)
