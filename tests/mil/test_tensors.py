"""Operators that move, make, sort, reduce, gather and scatter, against numpy and torch."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from parity.mil import OperatorFailed
from tests.mil.build import Builder, evaluate

RNG = np.random.default_rng(1)
X = RNG.normal(size=(2, 3, 4)).astype(np.float32)
T = torch.from_numpy(X)

REDUCTIONS = {
    "reduce_sum": lambda x, a: x.sum(a),
    "reduce_mean": lambda x, a: x.mean(a),
    "reduce_max": lambda x, a: x.amax(a),
    "reduce_min": lambda x, a: x.amin(a),
    "reduce_l1_norm": lambda x, a: x.abs().sum(a),
    "reduce_l2_norm": lambda x, a: x.square().sum(a).sqrt(),
    "reduce_sum_square": lambda x, a: x.square().sum(a),
    "reduce_log_sum_exp": lambda x, a: torch.logsumexp(x, a),
}


@pytest.mark.parametrize("run_mode", ["fp32", "stress"])
@pytest.mark.parametrize("axes", [[0], [-1], [0, 2], None])
@pytest.mark.parametrize("name", REDUCTIONS)
def test_reduction(name, axes, run_mode):
    got = evaluate(name, "fp16", x=X, axes=axes, run_mode=run_mode)
    want = REDUCTIONS[name](T, axes or [0, 1, 2])
    np.testing.assert_allclose(got, want, rtol=1e-5 if run_mode == "fp32" else 1e-2, atol=2e-2 * (run_mode != "fp32"))
    kept = evaluate(name, x=X, axes=axes, keep_dims=True)
    assert kept.shape == tuple(1 if i in [a % 3 for a in axes or range(3)] else n for i, n in enumerate(X.shape))


def test_products_logarithms_and_positions():
    np.testing.assert_allclose(evaluate("reduce_prod", x=X, axes=[0, 2]), X.prod((0, 2)), rtol=1e-5)
    np.testing.assert_allclose(evaluate("reduce_log_sum", x=X**2, axes=[1]), np.log((X**2).sum(1)), rtol=1e-5)
    tied = np.float32([[1, 3, 3], [0, 0, 2]])
    np.testing.assert_array_equal(evaluate("reduce_argmax", "int32", x=tied, axis=1), [1, 2])
    np.testing.assert_array_equal(evaluate("reduce_argmin", "int32", x=tied, axis=1), [0, 0])


MOVES = {
    "reshape": ({"shape": [4, -1]}, lambda x: x.reshape(4, -1)),
    "transpose": ({"perm": [2, 0, 1]}, lambda x: x.transpose(2, 0, 1)),
    "expand_dims": ({"axes": [0, -1]}, lambda x: x[None, ..., None]),
    "reverse": ({"axes": [1]}, lambda x: x[:, ::-1]),
    "tile": ({"reps": [1, 2, 3]}, lambda x: np.tile(x, (1, 2, 3))),
    "flatten2d": ({"axis": 2}, lambda x: x.reshape(6, 4)),
    "flatten2d all": ({"axis": 3}, lambda x: x.reshape(24, 1)),
    "flatten2d from the end": ({"axis": -1}, lambda x: x.reshape(6, 4)),
    "cumsum": ({"axis": 1}, lambda x: x.cumsum(1)),
    "slice_by_size": ({"begin": [0, 1, -2], "size": [-1, 2, 1]}, lambda x: x[:, 1:3, 2:3]),
    "band_part": ({"lower": 0, "upper": 1}, lambda x: np.triu(np.tril(x, 1), 0)),
    "identity": ({}, lambda x: x),
}


@pytest.mark.parametrize("name", MOVES)
def test_movement(name):
    constants, want = MOVES[name]
    got, expected = evaluate(name.split()[0], x=X, **constants), want(X)
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_cumulative_sum_variants():
    np.testing.assert_allclose(evaluate("cumsum", x=X, axis=2, exclusive=True), X.cumsum(2) - X, rtol=1e-4, atol=1e-6)
    want = X[..., ::-1].cumsum(2)[..., ::-1]
    np.testing.assert_allclose(evaluate("cumsum", x=X, axis=2, reverse=True), want, rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "index"),
    [
        ({"begin": [0, 1, 0], "end": [2, 3, 4], "stride": [1, 1, 2]}, np.s_[:, 1:3, ::2]),
        ({"begin": [0, 2, 3], "end": [2, 0, -5], "stride": [1, -1, -1]}, np.s_[:, 2:0:-1, ::-1]),
        (
            {"begin": [0, -1, 0], "end": [0, 0, -1], "begin_mask": [True, False, True],
             "end_mask": [True, True, False], "squeeze_mask": [False, True, False]},
            np.s_[:, -1, :-1],
        ),
    ],
)  # fmt: skip
def test_slices(arguments, index):
    np.testing.assert_array_equal(evaluate("slice_by_index", x=X, **arguments), X[index])
    update = np.zeros_like(X[index])
    want = X.copy()
    want[index] = 0
    np.testing.assert_array_equal(evaluate("slice_update", x=X, update=update, **arguments), want)


def test_update_of_another_shape_is_refused():
    with pytest.raises(OperatorFailed, match=r"slice_update.*shape \[1\]"):
        evaluate("slice_update", x=X, update=np.zeros(1, np.float32), begin=[0, 0, 0], end=[1, 1, 4])


def test_squeeze_joins_and_splits():
    np.testing.assert_array_equal(evaluate("squeeze", x=X[:, None]), X)
    with pytest.raises(OperatorFailed, match="not all of size 1"):
        evaluate("squeeze", x=X, axes=[0])
    np.testing.assert_array_equal(evaluate("concat", values=(X, X[:, :1]), axis=1), np.concatenate([X, X[:, :1]], 1))
    woven = evaluate("concat", values=(X, -X), axis=1, interleave=True)
    np.testing.assert_array_equal(woven[:, 0::2], X)
    np.testing.assert_array_equal(woven[:, 1::2], -X)
    np.testing.assert_array_equal(evaluate("stack", values=(X, -X), axis=1), np.stack([X, -X], 1))
    parts = evaluate("split", "fp32", "fp32", x=X, axis=2, split_sizes=[1, 3])
    np.testing.assert_array_equal(parts[1], X[..., 1:])
    halves = evaluate("split", "fp32", "fp32", x=X, axis=2, num_splits=2)
    np.testing.assert_array_equal(halves[0], X[..., :2])


def test_padding():
    pads = [1, 2, 2, 1]
    want = np.pad(X, ((0, 0), (1, 2), (2, 1)), constant_values=7)
    np.testing.assert_array_equal(evaluate("pad", x=X, pad=pads, constant_val=7.0), want)
    for mode, numpy_mode in (("reflect", "reflect"), ("replicate", "edge")):
        want = np.pad(X, ((0, 0), (1, 2), (2, 1)), mode=numpy_mode)
        np.testing.assert_array_equal(evaluate("pad", x=X, pad=pads, mode=mode), want)


def test_blocks_of_pixels():
    x = RNG.normal(size=(2, 8, 4, 6)).astype(np.float32)
    t = torch.from_numpy(x)
    shuffled = evaluate("pixel_shuffle", x=x, upscale_factor=2)
    np.testing.assert_array_equal(shuffled, F.pixel_shuffle(t, 2))
    np.testing.assert_array_equal(evaluate("pixel_unshuffle", x=shuffled, downscale_factor=2), x)
    deep = evaluate("space_to_depth", x=x, block_size=2)
    assert deep[0, 8, 0, 0] == x[0, 0, 0, 1]  # the second block position follows all channels of the first
    np.testing.assert_array_equal(evaluate("depth_to_space", x=deep, block_size=2), x)
    pads = np.array([[1, 1], [0, 2]]).tolist()
    batched = evaluate("space_to_batch", x=x, block_shape=[2, 2], paddings=pads)
    assert batched.shape == (8, 8, 3, 4)
    np.testing.assert_array_equal(batched[2, :, 0, 0], x[0, :, 0, 1] * 0)  # the padded first row
    np.testing.assert_array_equal(batched[4, :, 0, 0], x[0, :, 0, 0])
    np.testing.assert_array_equal(evaluate("batch_to_space", x=batched, block_shape=[2, 2], crops=pads), x)
    windows = evaluate("sliding_windows", x=X, axis=2, size=3)
    np.testing.assert_array_equal(windows[:, :, 1], X[:, :, 1:4])


def test_reversed_sequences():
    got = evaluate("reverse_sequence", x=X, lengths=[2, 3], seq_axis=1, batch_axis=0)
    np.testing.assert_array_equal(got[0], X[0, [1, 0, 2]])
    np.testing.assert_array_equal(got[1], X[1, ::-1])


def test_shapes_and_constants():
    np.testing.assert_array_equal(evaluate("shape", "int32", x=X), X.shape)
    np.testing.assert_array_equal(evaluate("fill", shape=[2, 2], value=3.0), np.full((2, 2), 3.0))
    np.testing.assert_array_equal(evaluate("fill_like", ref_tensor=X, value=2.0), np.full(X.shape, 2.0))
    got = evaluate("range_1d", "int32", start=np.int32(1), end=np.int32(8), step=np.int32(3))
    np.testing.assert_array_equal(got, [1, 4, 7])
    like = evaluate("reshape_like", x=X, ref_tensors=(np.zeros((6, 5), np.float32), np.zeros((9, 4),
    np.float32)),
                    begins=(0, 1), ends=(1, 2), end_masks=(False, False))  # fmt: skip
    np.testing.assert_array_equal(like, X.reshape(6, 4))
    hot = evaluate("one_hot", "int32", indices=np.int32([1, 0, -1]), one_hot_vector_size=3)
    np.testing.assert_array_equal(hot, np.eye(3, dtype=np.int32)[[1, 0, 2]])
    np.testing.assert_array_equal(evaluate("non_zero", "int32", x=np.float32([[0, 2], [3, 0]])), [[0, 1], [1, 0]])


def test_sorting_keeps_the_order_of_equals():
    x = np.float32([2, 1, 2, 3])
    np.testing.assert_array_equal(evaluate("argsort", "int32", x=x, axis=0), [3, 0, 2, 1])
    values, positions = evaluate("topk", "fp32", "int32", x=x, k=2, axis=0)
    np.testing.assert_array_equal(values, [3, 2])
    np.testing.assert_array_equal(positions, [3, 0])
    np.testing.assert_array_equal(evaluate("topk", "fp32", "int32", x=x, k=2, axis=0, ascending=True)[0], [1, 2])


def test_gathers():
    i = np.int32([2, 0, -1])
    np.testing.assert_array_equal(evaluate("gather", x=X, indices=i, axis=1), X[:, i])
    pairwise = evaluate("gather", x=X, indices=np.int32([[1], [2]]), axis=1, batch_dims=1)
    np.testing.assert_array_equal(pairwise, np.stack([X[0, [1]], X[1, [2]]]))
    along = RNG.integers(0, 3, (2, 5, 4)).astype(np.int32)
    np.testing.assert_array_equal(
        evaluate("gather_along_axis", x=X, indices=along, axis=1), np.take_along_axis(X, along, 1)
    )
    at = np.int32([[0, 2], [1, 0]])
    np.testing.assert_array_equal(evaluate("gather_nd", x=X, indices=at), X[[0, 1], [2, 0]])
    np.testing.assert_array_equal(
        evaluate("gather_nd", x=X, indices=np.int32([[[0]], [[2]]]), batch_dims=1), np.stack([X[0, :1], X[1, 2:]])
    )


@pytest.mark.parametrize("mode", ["update", "add", "sub", "mul", "div", "max", "min"])
def test_scatters(mode):
    data, updates = np.float32([1, 2, 3, 4]), np.float32([5, 6, 0.5])
    apply = {
        "update": lambda d, u: u, "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide,
        "max": np.maximum, "min": np.minimum,
    }[mode]  # fmt: skip
    want = data.copy()
    for i, u in zip([3, 0, 3], updates, strict=True):
        want[i] = apply(want[i], u)
    indices = np.int32([3, 0, 3])
    np.testing.assert_allclose(evaluate("scatter", data=data, indices=indices, updates=updates, mode=mode), want)
    got = evaluate("scatter_along_axis", data=data, indices=indices, updates=updates, mode=mode)
    np.testing.assert_allclose(got, want)
    got = evaluate("scatter_nd", data=data, indices=indices[:, None], updates=updates, mode=mode)
    np.testing.assert_allclose(got, want)


def test_an_index_beyond_the_axis_is_an_event_or_an_error():
    i = np.int32([5])
    builder = Builder(x=X, i=i)
    builder.op("gather", ("y", "fp32", None), x="x", indices="i", axis=1)
    program = builder.load("y")
    program.run({"x": X, "i": i})
    assert [e.kind for e in program.events] == ["index-out-of-range"]
    assert program.events[0].detail == {"lowest": 5, "highest": 5, "size": 3}
    with pytest.raises(OperatorFailed, match="indices from 5 to 5"):
        evaluate("gather", x=X, indices=i, axis=1, validate_indices=True)


def test_non_maximum_suppression():
    boxes = np.float32([[[0, 0, 2, 2], [0.1, 0, 2, 2], [5, 5, 2, 2], [9, 9, 1, 1]]])
    scores = np.float32([[[0.9, 0], [0, 0.8], [0.7, 0], [0.1, 0]]])
    both = evaluate(
        "non_maximum_suppression", "fp32", "fp32", "int32", "int32", boxes=boxes, scores=scores,
        iou_threshold=0.5, score_threshold=0.2, max_boxes=4,
    )  # fmt: skip
    np.testing.assert_array_equal(both[2], [[0, 2, -1, -1]])
    np.testing.assert_array_equal(both[3], [2])
    by_class = evaluate(
        "non_maximum_suppression", "fp32", "fp32", "int32", boxes=boxes.transpose(0, 2, 1),
        scores=scores.transpose(0, 2, 1), iou_threshold=0.5, max_boxes=3, per_class_suppression=True,
    )  # fmt: skip
    np.testing.assert_array_equal(by_class[2], [[0, 1, 2]])
    assert by_class[0].shape == (1, 4, 3)
    none = evaluate(
        "non_maximum_suppression", "fp32", "fp32", "int32", "int32", boxes=boxes, scores=scores,
        iou_threshold=0.5, score_threshold=5.0, max_boxes=2,
    )  # fmt: skip
    np.testing.assert_array_equal(none[2], [[0, -1]])


@pytest.mark.parametrize("run_mode", ["fp32", "stress"])
def test_products(run_mode):
    x, w, b = (RNG.normal(size=s).astype(np.float32) for s in ((2, 3, 70), (5, 70), (5,)))
    t = torch.from_numpy(x)
    tolerance = {"rtol": 1e-4, "atol": 1e-4} if run_mode == "fp32" else {"rtol": 2e-2, "atol": 0.1}
    got = evaluate("linear", "fp16", x=x, weight=w, bias=b, run_mode=run_mode)
    np.testing.assert_allclose(got, F.linear(t, *map(torch.from_numpy, (w, b))), **tolerance)
    got = evaluate("matmul", "fp16", x=x, y=w, transpose_y=True, run_mode=run_mode)
    np.testing.assert_allclose(got, x @ w.T, **tolerance)
    got = evaluate("einsum", values=(x, x), equation="bij,bkj->bik")
    np.testing.assert_allclose(got, np.einsum("bij,bkj->bik", x, x), rtol=1e-4)


def test_attention():
    q, k, v = (RNG.normal(size=(2, 5, 8)).astype(np.float32) for _ in range(3))
    mask = np.tril(np.ones((5, 5), bool))
    for given in (None, mask, np.where(mask, 0, -1e4).astype(np.float32)):
        got = evaluate("scaled_dot_product_attention", query=q, key=k, value=v, attn_mask=given)
        want = F.scaled_dot_product_attention(
            *map(torch.from_numpy, (q, k, v)), None if given is None else torch.from_numpy(given)
        )
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
