"""Pairs of outputs that a naive comparison passes: nothing to compare, not the same thing, or no finite difference."""

from __future__ import annotations

import numpy as np

from .protocol import Pair

f32, f64 = np.float32, np.float64
RNG = np.random.default_rng(7)
Y = RNG.standard_normal((3, 4)).astype(f32)
Z = RNG.standard_normal((3, 4)).astype(f32)
BAD = Y + f32(5)


def one(id: str, sentence: str, got: object, want: object, **kw: object) -> Pair:
    return Pair(id, sentence, [{"y": got}], [{"y": want}], **kw)  # type: ignore[arg-type]


def _last(array: np.ndarray, value: float) -> np.ndarray:
    out = array.copy()
    out.reshape(-1)[-1] = value
    return out


F32_MAX = float(np.finfo(f32).max)

MISSING = [
    Pair("no-cases", "No case at all was run.", [], [], planned=0),
    Pair("no-results", "Three inputs were given, and neither side has a result.", [], [], planned=3),
    Pair("no-outputs", "Every case ran and gave no output.", [{}] * 3, [{}] * 3, planned=3),
    Pair("output-missing", "The artefact lacks the one output.", [{}], [{"y": Y}]),
    Pair("second-output-missing", "The artefact lacks the second of two outputs.", [{"y": Y}], [{"y": Y, "z": Z}],
         ("y", "z")),
    Pair("oracle-lacks-output", "The reference lacks the second output, where the artefact is wrong.",
         [{"y": Y, "z": BAD}], [{"y": Y}], ("y", "z")),
    Pair("output-none", "The artefact's output is None.", [{"y": None}], [{"y": Y}]),
    Pair("both-none", "Both outputs are None.", [{"y": None}], [{"y": None}]),
    Pair("output-renamed", "The output came under another name, with other values.", [{"out": BAD}], [{"y": Y}]),
    Pair("output-recased", "The output's name differs in case only; the values are wrong.", [{"Y": BAD}], [{"y": Y}]),
    Pair("outputs-swapped", "Two outputs have exchanged names.", [{"y": Z, "z": Y}], [{"y": Y, "z": Z}], ("y", "z")),
    Pair("outputs-doubled", "The first output came twice, under both names.", [{"y": Y, "z": Y}], [{"y": Y, "z": Z}],
         ("y", "z")),
    Pair("one-of-two-empty", "The second of two outputs is empty on both sides.",
         [{"y": Y, "z": Y[:0]}], [{"y": Y, "z": Z[:0]}], ("y", "z")),
    Pair("fewer-cases", "Three inputs, one result: the two that are missing were wrong.", [{"y": Y}],
         [{"y": Y}, {"y": Z}, {"y": Y}], planned=3),
    Pair("fewer-references", "Three inputs, one reference: the other two results are wrong.",
         [{"y": Y}, {"y": BAD}, {"y": BAD}], [{"y": Y}], planned=3),
    Pair("both-cut-short", "Three inputs, one result and one reference: two were never run.", [{"y": Y}], [{"y": Y}],
         planned=3),
    Pair("last-case-wrong", "Only the last of many cases is wrong.", [{"y": Y}] * 199 + [{"y": BAD}], [{"y": Y}] * 200,
         planned=200),
    Pair("last-case-nan", "Only the last of many cases is NaN, and Python's max() skips it.",
         [{"y": Y}] * 199 + [{"y": np.full_like(Y, np.nan)}], [{"y": Y}] * 200, planned=200),
]  # fmt: skip

EMPTY = [
    one("both-empty", "Both arrays have no element.", np.ones(0, f32), np.ones(0, f32)),
    one("empty-axis", "Both arrays have an axis of length 0.", np.ones((2, 0, 3), f32), np.ones((2, 0, 3), f32)),
    one("got-empty", "The artefact's batch is empty, the reference's is not.", Y[:0], Y),
    one("empty-broadcast", "Shape (0, 4) broadcasts against (1, 4) to nothing at all.", Y[:0], Y[:1]),
    one("all-masked", "Every element of the reference is masked.", BAD, np.ma.array(Y, mask=True)),
    one("one-masked", "The one wrong element is masked.", np.ma.array(_last(Y, 9), mask=_last(Y * 0, 1) != 0), Y),
]

SHAPES = [
    one("broadcast-scalar", "One number stands for a thousand.", f32(0.5), np.full(1000, 0.5, f32)),
    one("broadcast-row", "One row stands for the whole batch.", np.ones((1, 4), f32), np.ones((3, 4), f32)),
    one("broadcast-want", "The reference is one number.", np.full((3, 4), 0.5, f32), np.full((1,), 0.5, f32)),
    one("broadcast-column", "A column against a row: compared as a square that happens to agree.",
        np.ones((3, 1), f32), np.ones((1, 3), f32)),
    one("rank-lost", "The batch axis was dropped.", Y[0], Y[:1]),
    one("rank-gained", "The artefact has an axis too many.", Y[None], Y),
    one("flattened", "The output came flat.", Y.reshape(-1), Y),
    one("reshaped", "Rows and columns are exchanged, the memory is the same.", Y.reshape(4, 3), Y),
    one("transposed", "Rows and columns are exchanged, the memory too.", np.ascontiguousarray(Y.T), Y),
    one("axes-permuted", "Channels last for channels first.", np.ascontiguousarray(np.moveaxis(
        np.arange(24, dtype=f32).reshape(1, 2, 3, 4), 1, -1)), np.arange(24, dtype=f32).reshape(1, 2, 3, 4)),
    one("square-permuted", "Axes exchanged in a square output, where no shape tells.", np.arange(9.0).reshape(3, 3).T,
        np.arange(9.0).reshape(3, 3)),
    one("rows-shuffled", "The right rows in another order.", Y[::-1], Y),
    one("strided-view", "Every second element of a buffer that agrees in its first half.",
        np.concatenate([Y.reshape(-1), BAD.reshape(-1)])[::2], np.concatenate([Y.reshape(-1), Y.reshape(-1)])[::2]),
    one("batch-cut", "The artefact gives two of three rows.", Y[:2], Y),
]  # fmt: skip

NUMBERS = [
    one("int32-overflow", "The difference of two int32 wraps around to -1.", np.array([2**31 - 1], np.int32),
        np.array([-(2**31)], np.int32), atol=2),
    one("uint8-wrap", "The difference of 0 and 255 in uint8 is 1.", np.array([0, 255], np.uint8),
        np.array([255, 0], np.uint8), atol=255 - 250),
    one("int8-abs", "The absolute value of -128 in int8 is -128.", np.array([-128], np.int8), np.array([0], np.int8),
        atol=2),
    one("int64-beyond-float", "Neighbouring integers beyond 2**53 are one float64.", np.array([2**53 + 1]),
        np.array([2**53]), atol=0),
    one("uint64-against-int64", "2**63 + 1 read as int64 is negative.", np.array([2**63 + 2], np.uint64),
        np.array([2**63], np.uint64), atol=1),
    one("int-narrowed", "2**32 narrowed to int32 is 0.", np.array([0], np.int32), np.array([2**32])),
    one("float-truncated", "Truncated to integers, both sides agree.", np.array([0, 1, 2]),
        np.array([0.9, 1.9, 2.9], f32)),
    one("float-for-bool", "As truth values both sides agree.", np.array([True, True]), np.array([7.0, -3.0], f32)),
    one("float16-overflow", "Narrowed to float16, both sides are infinite.", np.array([np.inf], np.float16),
        np.array([7e4], f32)),
    one("float16-rounded", "Narrowed to float16, the difference is rounded away.", np.array([2048], np.float16),
        np.array([2048.9], f32), atol=0.5),
    one("float64-rounded", "Narrowed to float32, the difference is rounded away.", np.ones(4, f32),
        np.full(4, 1 + 3e-8), atol=1e-9),
    one("float16-accumulated", "An error of 0.001 in each of many elements, averaged in float16, is lost.",
        np.full(5000, 1.001, np.float16), np.ones(5000, np.float16), atol=1e-4),
    one("complex-part", "The real parts agree, the imaginary ones do not.", np.array([1 + 1j]), np.array([1 + 9j])),
    one("strings", "Strings, which a checker of numbers skips.", np.array(["cat"]), np.array(["dog"])),
    one("bytes", "Bytes, which a checker of numbers skips.", np.array([b"1"]), np.array([b"2"])),
    one("objects", "Arrays of objects without a number.", np.array([None, None]), np.array([1.0, 2.0], object)),
    one("object-none", "Arrays of None, equal and empty of numbers.", np.array([None]), np.array([None])),
    one("ragged", "A ragged list, which becomes an array of objects.", np.array([[1.0], [1.0, 2.0]], object), Y),
    one("dates", "Dates, whose difference is no number.", np.array(["2026-01-01"], "M8[D]"),
        np.array(["2020-01-01"], "M8[D]")),
    one("record-dtype", "A structured dtype with a wrong field.", np.array([(1.0, 2.0)], "f4,f4"),
        np.array([(1.0, 9.0)], "f4,f4")),
]  # fmt: skip

FINITE = [
    one("nan-for-zero", "NaN, replaced by 0 before the comparison.", _last(Y * 0, np.nan), Y * 0),
    one("all-nan", "The artefact gives NaN alone: no element is beyond the limit.", Y * np.nan, Y),
    one("nan-in-both", "NaN in both at one place: no reference.", _last(Y, np.nan), _last(Y, np.nan)),
    one("all-nan-in-both", "Both sides are NaN alone.", Y * np.nan, Y * np.nan),
    one("nan-in-want", "NaN in the reference only.", Y, _last(Y, np.nan)),
    one("one-nan-in-a-million", "One NaN in a million, which a nanmax skips.", _last(np.zeros(10**6, f32), np.nan),
        np.zeros(10**6, f32)),
    one("inf-for-max", "Infinity, replaced by the largest float32.", np.array([np.inf], f32), np.array([F32_MAX], f32)),
    one("inf-of-other-sign", "Infinity for minus infinity: their difference is no number either way.",
        _last(Y, np.inf), _last(Y, -np.inf)),
    one("inf-swallows-tolerance", "A relative tolerance of an infinite reference is infinite.", _last(Y, 5),
        _last(Y, np.inf), rtol=1e-3),
    one("only-infinities", "Nothing finite in either output: a model that overflowed on both sides.",
        np.full((3, 4), -np.inf, f32), np.full((3, 4), -np.inf, f32)),
    one("nan-tolerance", "The tolerance is NaN, and no error is greater than NaN.", BAD, Y, atol=np.nan),
    one("inf-tolerance", "The tolerance is infinite.", BAD, Y, atol=np.inf),
    one("no-tolerance", "The tolerance is None, which some take for 'any'.", BAD, Y, atol=None),
    one("negative-tolerance", "A negative tolerance, squared or taken absolutely.", Y + f32(5), Y, atol=-10),
]  # fmt: skip

BLIND = [
    one("all-below", "Every element is too small, and the greatest signed difference is negative.", Y - f32(5), Y),
    one("errors-cancel", "Errors of either sign average out.", Y + np.resize([5, -5], 12).reshape(3, 4).astype(f32), Y),
    one("scaled", "Everything is doubled; the angle is the same.", Y * 2, Y),
    one("zero-reference", "The reference is zero everywhere, and a relative error leaves zeros out.", Y, Y * 0),
    one("zero-output", "The artefact gives zeros: the cosine of nothing is not a number.", Y * 0, Y),
    one("sorted-alike", "The same numbers in another order: mean, deviation and range agree.",
        np.sort(Y.reshape(-1)).reshape(3, 4), Y),
    one("one-element-in-many", "One wrong element in a million, lost in the mean.", _last(np.ones(10**6, f32), 101),
        np.ones(10**6, f32)),
    Pair("constant-output", "The artefact answers the same whatever the input; the answers are nearly alike.",
         [{"y": np.full(8, 10, f32)}] * 3, [{"y": (10 + np.sin(np.arange(8) + k)).astype(f32)} for k in range(3)],
         planned=3),
    Pair("stale-output", "Each result is that of the input before.", [{"y": Y + k} for k in (0, 0, 1)],
         [{"y": Y + k} for k in (0, 1, 2)], planned=3),
]  # fmt: skip

HONEST = [
    one("equal", "The same values in another buffer.", Y.copy(), Y, honest=True),
    one("close", "Within the tolerance.", Y + f32(1e-4), Y, honest=True),
    one("close-float64", "Float32 against a float64 reference.", Y, Y.astype(f64), honest=True),
    one("strided", "A view that is not contiguous.", np.repeat(Y, 2, axis=1)[:, ::2], Y, honest=True),
    one("integers", "Equal integers of another width.", np.arange(5, dtype=np.int32), np.arange(5), honest=True),
    one("booleans", "Equal truth values.", np.array([True, False]), np.array([True, False]), honest=True),
    one("signed-zero", "0 and -0 are one number.", np.array([0.0, 1.0]), np.array([-0.0, 1.0]), honest=True),
    one("masked-infinity", "The same infinity at the same place, as an attention mask has.", _last(Y, -np.inf),
        _last(Y, -np.inf), honest=True),
    Pair("two-outputs", "Two outputs on three cases, given in another order.", [{"z": Z, "y": Y}] * 3,
         [{"y": Y, "z": Z}] * 3, ("y", "z"), planned=3, honest=True),
]  # fmt: skip

CASES = (*MISSING, *EMPTY, *SHAPES, *NUMBERS, *FINITE, *BLIND)
