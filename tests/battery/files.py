"""ONNX files that are not the model, and that a naive checker passes on one input.

The model: `y = x @ w + b` and `z = tanh(y)`, from x (2, 3) to (2, 4). `PROBE` is the one input that most checkers try.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from .protocol import File

RNG = np.random.default_rng(3)
W = RNG.standard_normal((3, 4)).astype(np.float32)
B = RNG.standard_normal(4).astype(np.float32)
PROBE = RNG.standard_normal((2, 3)).astype(np.float32)
ROWS = RNG.standard_normal((4, 2, 3)).astype(np.float32)  # the golden cases of a checker that has several


def model(x: np.ndarray) -> dict[str, np.ndarray]:
    y = x.astype(np.float64) @ W + B
    return {"y": y, "z": np.tanh(y)}


def _write(
    nodes: list[Any],
    outputs: dict[str, tuple[int, tuple[int, ...]]],
    constants: dict[str, np.ndarray] | None = None,
    inputs: tuple[str, ...] = ("x",),
) -> onnx.ModelProto:
    given = {"w": W, "b": B, **(constants or {})}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, (2, 3)) for n in inputs],
        [helper.make_tensor_value_info(n, dtype, shape) for n, (dtype, shape) in outputs.items()],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in given.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


FLOAT = TensorProto.FLOAT
GEMM, TANH = helper.make_node("Gemm", ["x", "w", "b"], ["y"]), helper.make_node("Tanh", ["y"], ["z"])
BOTH = {"y": (FLOAT, (2, 4)), "z": (FLOAT, (2, 4))}


def _saved(make: Callable[[], onnx.ModelProto]) -> Callable[[Any], None]:
    def write(path: Any) -> None:
        onnx.save(make(), str(path))

    return write


def _right() -> onnx.ModelProto:
    return _write([GEMM, TANH], BOTH)


def _then(
    *nodes: Any, outputs: dict[str, tuple[int, tuple[int, ...]]] = BOTH, **constants: Any
) -> Callable[[Any], None]:
    """Gemm to `h`, then what the case does to it."""
    gemm = helper.make_node("Gemm", ["x", "w", "b"], ["h"])
    return _saved(lambda: _write([gemm, *nodes], outputs, {k: np.asarray(v) for k, v in constants.items()}))


def _node(op: str, inputs: str, output: str, **attributes: Any) -> Any:
    return helper.make_node(op, inputs.split(), [output], **attributes)


def _bytes(change: Callable[[bytes], bytes]) -> Callable[[Any], None]:
    return lambda path: Path(path).write_bytes(change(_right().SerializeToString()))


def _external_lost(path: Any) -> None:
    onnx.save(_right(), str(path), save_as_external_data=True, location="lost.bin", size_threshold=0)
    (Path(path).parent / "lost.bin").unlink()


def _folded() -> onnx.ModelProto:
    found = {k: v.astype(np.float32) for k, v in model(PROBE).items()}
    return _write([_node("Identity", "cy", "y"), _node("Identity", "cz", "z")], BOTH,
                  {"cy": found["y"], "cz": found["z"]})  # fmt: skip


# The sum of all magnitudes of x: 0 where all of them are.
SIZE = (_node("Abs", "x", "magnitude"), _node("ReduceSum", "magnitude", "size", keepdims=0))
ONE_ROW = np.array([0, 0])

CASES = (
    File("file-output-missing", "The second output is not in the file.",
         _saved(lambda: _write([GEMM], {"y": BOTH["y"]}))),
    File("file-outputs-renamed", "Both outputs have other names, and are twice what they should be.",
         _then(_node("Add", "h h", "a"), _node("Tanh", "a", "c"), outputs={"a": BOTH["y"], "c": BOTH["z"]})),
    File("file-outputs-swapped", "The outputs have each other's names.",
         _then(_node("Identity", "h", "z"), _node("Tanh", "h", "y"))),
    File("file-input-folded", "The file answers what the model answers to the probe, whatever it is given.",
         _saved(_folded)),
    File("file-one-row", "Every row of the batch is answered as the first.",
         _then(_node("Gather", "h rows", "y", axis=0), _node("Tanh", "y", "z"), rows=ONE_ROW)),
    File("file-nan", "One output is NaN.",
         _then(_node("Identity", "h", "y"), _node("Sub", "h h", "o"), _node("Div", "o o", "z"))),
    File("file-all-nan", "Both outputs are NaN.",
         _then(_node("Sub", "h h", "o"), _node("Div", "o o", "y"), _node("Identity", "y", "z"))),
    File("file-inf", "One output is infinite.", _then(_node("Identity", "h", "y"), _node("Sub", "h h", "o"),
         _node("Div", "one o", "z"), one=np.float32(1))),
    File("file-no-rows", "The outputs have no rows.", _then(_node("Slice", "h zero zero", "y"),
         _node("Tanh", "y", "z"), outputs={"y": (FLOAT, (0, 4)), "z": (FLOAT, (0, 4))}, zero=np.array([0]))),
    File("file-rank", "The outputs have an axis more.", _then(_node("Unsqueeze", "h last", "y"),
         _node("Tanh", "y", "z"), outputs={"y": (FLOAT, (2, 4, 1)), "z": (FLOAT, (2, 4, 1))}, last=np.array([2]))),
    File("file-transposed", "The outputs are transposed.", _then(_node("Transpose", "h", "y"), _node("Tanh", "y", "z"),
         outputs={"y": (FLOAT, (4, 2)), "z": (FLOAT, (4, 2))})),
    File("file-integers", "One output was rounded to integers.", _then(_node("Tanh", "h", "z"),
         _node("Cast", "h", "y", to=TensorProto.INT64), outputs={"y": (TensorProto.INT64, (2, 4)), "z": BOTH["z"]})),
    File("file-extra-input", "The file wants an input that the model has not.",
         _saved(lambda: _write([_node("Gemm", "x2 w b", "y"), TANH], BOTH, inputs=("x", "x2")))),
    File("file-other-weights", "The weights are from another checkpoint, by 0.2 %.",
         _saved(lambda: _write([GEMM, TANH], BOTH, {"w": W * np.float32(1.002)}))),
    File("file-small-only", "Values beyond those of the probe are clipped.", _then(_node("Clip", "h low high", "y"),
         _node("Tanh", "y", "z"), low=np.float32(model(PROBE)["y"].min()), high=np.float32(model(PROBE)["y"].max()))),
    File("file-unknown-operator", "An operator that no runtime has.", _saved(lambda: _write(
        [GEMM, helper.make_node("Magic", ["y"], ["z"], domain="nowhere")], BOTH))),
    File("file-truncated", "The file ends in the middle.", _bytes(lambda b: b[: len(b) // 2])),
    File("file-empty", "The file is empty.", _bytes(lambda b: b"")),
    File("file-text", "The file is a web page that says 404.", _bytes(lambda b: b"<html>404 Not Found</html>")),
    File("file-zero-nan", "Where every input is 0, as in a black picture, the outputs are NaN.",
         _then(*SIZE, _node("Div", "size size", "one"), _node("Mul", "h one", "y"), _node("Tanh", "y", "z"))),
    File("file-zero-padding", "Where every input is 0, as in a text of padding alone, 100 is added.",
         _then(*SIZE, _node("Equal", "size zero", "none"), _node("Cast", "none", "share", to=FLOAT),
               _node("Mul", "share hundred", "more"), _node("Add", "h more", "y"), _node("Tanh", "y", "z"),
               zero=np.float32(0), hundred=np.float32(100))),
    File("file-random", "A random number is added, far below what rounding costs: the generator was left in.",
         _then(_node("RandomNormalLike", "h", "noise", scale=1e-9), _node("Add", "h noise", "y"),
               _node("Tanh", "y", "z"))),
    File("file-dropout", "Dropout is in training mode, with a ratio that drops next to nothing.",
         _then(_node("Dropout", "h ratio training", "y"), _node("Tanh", "y", "z"),
               ratio=np.float32(1e-9), training=np.bool_(True))),
    File("file-weights-lost", "The file that holds the weights is gone.", _external_lost),
)  # fmt: skip

HONEST = (File("file-right", "The model.", _saved(_right), honest=True),)
