"""`parity verify FILE --reference FILE`: a file computes what it computes, whatever kind of file it is."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parity.commands.verify import _precision

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

MAIN = "import sys; from parity.cli import main; sys.exit(main(sys.argv[1:]))"
RNG = np.random.default_rng(1)
WEIGHT = RNG.standard_normal((6, 6)).astype(np.float32)


def save(path: Path, nodes: list[Any], inputs: dict[str, list[Any]], kind: int = TensorProto.FLOAT) -> Path:
    """An ONNX file with the output y of [batch, 6], and the weight w."""
    given = [helper.make_tensor_value_info(name, kind, shape) for name, shape in inputs.items()]
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    held = [numpy_helper.from_array(v, n) for n, v in (
        ("w", WEIGHT.astype(dtype)), ("zero", np.zeros((), dtype)), ("pads", np.array([0, 2, 0, 1])),
        ("scale", np.array(0.05, np.float32)), ("point", np.array(3, np.int8)), ("picked", np.arange(6)),
    )]  # fmt: skip
    graph = helper.make_graph(nodes, "g", given, [helper.make_tensor_value_info("y", kind, ["batch", 6])], held)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), str(path))
    return path


def plain(path: Path) -> Path:
    nodes = [helper.make_node("Gemm", ["x", "w"], ["h"], transB=1), helper.make_node("Tanh", ["h"], ["y"])]
    return save(path / "net.onnx", nodes, {"x": ["batch", 6]})


def weights_beside(path: Path) -> Path:
    model = onnx.load(str(plain(path)))
    onnx.save(model, str(path / "net.onnx"), save_as_external_data=True, location="w.bin", size_threshold=0)
    return path / "net.onnx"


def branches(path: Path) -> Path:
    y = [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["batch", 6])]
    then, other = (
        helper.make_graph([helper.make_node(kind, ["h"], ["out"])], kind, [], y) for kind in ("Tanh", "Softsign")
    )
    nodes = [
        helper.make_node("Gemm", ["x", "w"], ["h"], transB=1), helper.make_node("Greater", ["gain", "zero"], ["flag"]),
        helper.make_node("If", ["flag"], ["out"], then_branch=then, else_branch=other),
        helper.make_node("Mul", ["out", "gain"], ["y"]),
    ]  # fmt: skip
    return save(path / "net.onnx", nodes, {"x": ["batch", 6], "gain": []})


def reflected(path: Path) -> Path:
    nodes = [
        helper.make_node("Pad", ["x", "pads"], ["p"], mode="reflect"),
        helper.make_node("Gather", ["p", "picked"], ["q"], axis=1),
        helper.make_node("Gemm", ["q", "w"], ["y"], transB=1),
    ]  # fmt: skip
    return save(path / "net.onnx", nodes, {"x": ["batch", 6]})


def evaluated(path: Path) -> Path:
    nodes = [helper.make_node("Gemm", ["x", "w"], ["h"], transB=1), helper.make_node("Selu", ["h"], ["y"])]
    return save(path / "net.onnx", nodes, {"x": ["batch", 6]})


def of_one_runtime(path: Path) -> Path:
    nodes = [helper.make_node("FusedMatMul", ["x", "w"], ["y"], domain="com.microsoft")]
    return save(path / "net.onnx", nodes, {"x": ["batch", 6]})


def half(path: Path) -> Path:
    nodes = [helper.make_node("Gemm", ["x", "w"], ["h"], transB=1), helper.make_node("Relu", ["h"], ["y"])]
    return save(path / "net_half.onnx", nodes, {"x": ["batch", 6]}, TensorProto.FLOAT16)


def quantised(path: Path) -> Path:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "point"], ["i"]),
        helper.make_node("DequantizeLinear", ["i", "scale", "point"], ["d"]),
        helper.make_node("Gemm", ["d", "w"], ["y"], transB=1),
    ]
    return save(path / "net.onnx", nodes, {"x": ["batch", 6]})


def strides(path: Path) -> Path:
    """Sizes that 32 does not divide do not fit together again."""
    nodes = [
        helper.make_node("MaxPool", ["x"], ["small"], kernel_shape=[32, 32], strides=[32, 32]),
        helper.make_node("Resize", ["small", "", "sizes"], ["again"], mode="nearest"),
        helper.make_node("Add", ["x", "again"], ["y"]),
    ]
    return pictures(path, nodes, {"sizes": np.array([1, 1, 32, 32], np.float32)})


def longest_side(path: Path) -> Path:
    """A window that reaches over 40 rows gives nothing of fewer."""
    kernel = RNG.standard_normal((1, 1, 40, 3)).astype(np.float32)
    return pictures(path, [helper.make_node("Conv", ["x", "kernel"], ["y"])], {"kernel": kernel})


def pictures(path: Path, nodes: list[Any], held: dict[str, Any]) -> Path:
    """An ONNX file of one picture whose height and width are open."""
    given, made = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 1, f"h{name}", f"w{name}"]) for name in "xy"
    )
    initializers = [numpy_helper.from_array(value, name) for name, value in held.items()]
    graph = helper.make_graph(nodes, "g", [given], [made], initializers)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path / "net.onnx")
    return path / "net.onnx"


def one_rate(path: Path) -> Path:
    """A number that the file takes one value of, and picks a row by."""
    nodes = [
        helper.make_node("Gemm", ["x", "w"], ["h"], transB=1), helper.make_node("Sub", ["rate", "low"], ["at"]),
        helper.make_node("Gather", ["w", "at"], ["row"]), helper.make_node("Add", ["h", "row"], ["y"]),
    ]  # fmt: skip
    model = onnx.load(str(save(path / "net.onnx", nodes, {"x": ["batch", 6]})))
    model.graph.input.append(helper.make_tensor_value_info("rate", TensorProto.INT64, []))
    model.graph.initializer.append(numpy_helper.from_array(np.array(15998), "low"))
    onnx.save(model, str(path / "net.onnx"))
    return path / "net.onnx"


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(6, 6)

    def forward(self, x: torch.Tensor, times: int) -> torch.Tensor:
        return torch.tanh(self.layer(x)) * times


def script(path: Path) -> Path:
    torch.jit.save(torch.jit.script(Net().eval()), path / "net.jit")
    return path / "net.jit"


def program(path: Path) -> Path:
    net = torch.nn.Sequential(torch.nn.Linear(6, 6), torch.nn.Tanh()).eval()
    batch = torch.export.Dim("batch")
    torch.export.save(
        torch.export.export(net, (torch.ones(2, 6),), dynamic_shapes=({0: batch},), strict=False), path / "net.pt2"
    )
    return path / "net.pt2"


KINDS: dict[str, tuple[Callable[[Path], Path], list[str], str]] = {
    "plain": (plain, [], ""),
    "weights beside": (weights_beside, [], ""),
    "If and a number": (branches, [], "If chooses by the data"),
    "reflected": (reflected, [], ""),
    "evaluated": (evaluated, [], "Selu has no execution in PyTorch here"),
    "of one runtime": (of_one_runtime, [], "com.microsoft.FusedMatMul has no execution here"),
    "half": (half, [], ""),
    "quantised": (quantised, [], ""),
    "declared at one size": (plain, ["--input", "x=1,6"], ""),
    "strides of 32": (strides, [], ""),
    "a window of 40": (longest_side, [], ""),
    "a number of one value": (one_rate, ["--input", "rate=:int64:16000"], ""),
    "TorchScript": (script, ["--input", "x=batch,6"], ""),
    "ExportedProgram": (program, [], ""),
}  # what is to be said beside the verdict


def verify(folder: Path, *arguments: str) -> tuple[int, str]:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", MAIN, "verify", *arguments], cwd=folder,
                          capture_output=True, text=True)  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_against_itself_passes(kind: str, tmp_path: Path) -> None:
    make, arguments, said = KINDS[kind]
    file = make(tmp_path)
    code, text = verify(tmp_path, str(file), "--reference", str(file), *arguments)
    assert code == 0, text
    assert said in text and "pyproject.toml" not in text


def test_what_the_file_does_not_state_is_asked_for_by_its_option(tmp_path: Path) -> None:
    file = script(tmp_path)
    for arguments, message in (
        ([], "net.jit does not say the shape of its input 'x': say --input NAME=SHAPE:DTYPE"),
        (["--input", "y=1,6"], "net.jit has no input 'y': it has x, times"),
        (["--input", "x=1.5"], "--input 'x=1.5': write NAME=SHAPE:DTYPE, as in image=batch,3,224,224:float32"),
        (["--input", "x=1,6:float33"], "unknown dtype 'float33'"),
        (["--input", "x=0,6"], "--input 'x=0,6': write NAME=SHAPE:DTYPE"),
    ):
        code, text = verify(tmp_path, str(file), "--reference", str(file), *arguments)
        assert code in (1, 2) and message in text and "pyproject.toml" not in text, text


def test_the_precision_is_what_converters_write_into_names() -> None:
    names = {
        "net.onnx": "fp32", "net_float32.tflite": "fp32", "net_float16.tflite": "fp16", "net.fp16.onnx": "fp16",
        "net_half.onnx": "fp16", "net_dynamic_range_quant.tflite": "dynamic", "net_integer_quant.tflite": "int8",
        "net_full_integer_quant.tflite": "int8", "net-int8.onnx": "int8", "dynamite.onnx": "fp32",
    }  # fmt: skip
    assert {name: _precision(name) for name in names} == names


class Counting(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x * self.calls


def test_a_file_that_keeps_state_is_told_as_such(tmp_path: Path) -> None:
    file = tmp_path / "net.jit"
    torch.jit.save(torch.jit.script(Counting().eval()), file)
    code, text = verify(tmp_path, str(file), "--reference", str(file), "--input", "x=1,6")
    last = text.strip().splitlines()[-1]
    assert code == 1 and "keeps state from call to call" in last and "net.jit gives another" in last, text


def test_values_that_the_reference_itself_refuses_are_told_in_its_words(tmp_path: Path) -> None:
    file = one_rate(tmp_path)
    code, text = verify(tmp_path, str(file), "--reference", str(file))
    (line,) = [line for line in text.splitlines() if "refuses drawn inputs" in line]
    assert code != 0 and "net.onnx itself refuses drawn inputs" in line and "indices" in line, text
    assert "--input NAME=SHAPE:DTYPE:LOW..HIGH" in line
    code, text = verify(tmp_path, str(file), "--reference", str(file), "--input", "rate=:int64:many")
    assert code == 2 and "its values are a number, or LOW..HIGH" in text


def test_a_name_that_the_file_lacks_is_one_line(tmp_path: Path) -> None:
    nodes = [helper.make_node("Gemm", ["z", "w"], ["h"], transB=1), helper.make_node("Tanh", ["h"], ["y"])]
    other = save(tmp_path / "other.onnx", nodes, {"z": ["batch", 6]})
    reference = plain(tmp_path)
    code, text = verify(tmp_path, str(other), "--reference", str(reference))
    assert (
        code == 1 and "the file has no input 'x', it has 'z': say which is the model's 'x': --tensor x=THEIRS" in text
    )
    code, text = verify(tmp_path, str(other), "--reference", str(reference), "--tensor", "x=z")
    assert code == 0, text
