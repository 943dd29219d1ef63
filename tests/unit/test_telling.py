"""The line that a converter's error is told by: the operator, the module and the line of the model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from parity.formats.ncnn.convert import _why
from parity.formats.tflite.convert import _lacking, _speaking, _unbounded
from parity.process.telling import told


class Inner(nn.Module):
    def __init__(self, function: Callable[[Any], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(x)


class Net(nn.Module):
    def __init__(self, function: Callable[[Any], Any]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Inner(torch.relu), Inner(function)])

    def forward(self, x: torch.Tensor) -> Any:
        for block in self.blocks:
            x = block(x)
        return x


def error_of(call: Callable[[], Any]) -> BaseException:
    with pytest.raises(BaseException) as caught:  # noqa: PT011  (whatever it is, its frames are read)
        call()
    return caught.value


def test_a_branch_on_data_is_told_with_its_module_and_line() -> None:
    net = Net(lambda x: x * 2 if x.sum() > 3 else x)
    text, at_operator = told(error_of(lambda: torch.export.export(net, (torch.ones(1, 4),), strict=False)))
    assert text.startswith("the module decides by its data (GuardOnDataDependentSymNode: ")
    assert "in blocks.1 at test_telling.py:" in text and "if x.sum() > 3 else x" in text
    assert not at_operator


def test_an_operator_without_an_onnx_form_is_told_with_its_module(tmp_path: Path) -> None:
    file, net = str(tmp_path / "x.onnx"), Net(torch.special.i0)
    for dynamo, operator in ((False, "aten::i0"), (True, "bessel_i0")):

        def export() -> None:
            torch.onnx.export(net, (torch.ones(1, 4),), file, dynamo=dynamo, verbose=False)  # noqa: B023

        error = error_of(export)
        while error.__cause__ is not None:
            error = error.__cause__
        text, at_operator = told(error)
        assert operator in text and text.endswith(", in blocks.1") and at_operator


def test_the_innermost_module_of_a_wrong_shape_is_told() -> None:
    net = Net(lambda x: x @ torch.ones(3, 3))
    text, _ = told(error_of(lambda: net(torch.ones(2, 4))))
    assert text.startswith("RuntimeError: ") and ", in blocks.1 at test_telling.py:" in text


def test_an_error_without_a_model_is_its_first_line() -> None:
    def fail() -> None:
        raise KeyError("odd\nmore")

    assert told(error_of(fail)) == ("KeyError: 'odd\\nmore'", False)


def test_what_onnx2tf_prints_before_it_exits_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    graph_node = pytest.importorskip("onnx_graphsurgeon").Node("DFT", "/blocks.1/DFT")

    def convert() -> None:
        assert graph_node.op
        print("\x1b[31mERROR:\x1b[0m", "DFT input last dimension must be 1 or 2.")
        print("\x1b[31mERROR:\x1b[0m", "Also, for models that include NonMaxSuppression, try the -onwdt option.")
        raise SystemExit(1)

    text, at_operator = told(error_of(lambda: _speaking(convert)))
    assert text == "onnx2tf: DFT input last dimension must be 1 or 2, in /blocks.1/DFT" and at_operator
    assert "-onwdt" in capsys.readouterr().out  # and still in the log


def test_an_operator_that_onnx2tf_lacks_is_told() -> None:
    def convert() -> None:
        raise ModuleNotFoundError("No module named 'onnx2tf.ops.Det'", name="onnx2tf.ops.Det")

    assert told(error_of(lambda: _speaking(convert)))[0] == "onnx2tf does not know the operator Det"


MLIR = """Could not translate MLIR to FlatBuffer.<unknown>:0: error: loc(callsite(callsite(fused["ResizeBicubic:", \
"model/tf.image.resize/resize/ResizeBicubic@__inference_serve_53"] at fused["PartitionedCall:", "x"]))): \
'tf.ResizeBicubic' op is neither a custom op nor a flex op
<unknown>:0: note: Error code: ERROR_NEEDS_FLEX_OPS""".replace("\\\n", "")


def test_what_tflite_lacks_is_told_by_the_node_of_the_onnx_graph() -> None:
    want = "TFLite itself lacks ResizeBicubic in {}: only TensorFlow's Flex delegate runs that"
    assert _lacking(MLIR, {"tf.image.resize": "/up/Resize"}) == want.format("/up/Resize")
    assert _lacking(MLIR, {}) == want.format("tf.image.resize")
    assert _lacking("requires all operands to be 4D", {}) == ""


def test_the_error_of_the_model_inside_pnnx_is_told() -> None:
    printed = "    return torch.linalg_inv(_4)\n           ~~~~ <--- HERE\nRuntimeError: no LAPACK.\n"
    assert _why(-6, printed) == "pnnx was ended by SIGABRT: RuntimeError: no LAPACK, at return torch.linalg_inv(_4)"
    assert _why(255, "nothing") == "pnnx ended with code 255"


@pytest.mark.parametrize(("scale", "told"), [(0.02, ""), (1.33e36, "one step of int8 is 1.3e+36 in mask/Add: ")])
def test_a_mask_of_the_least_float_is_named(scale: float, told: str) -> None:
    flatbuffers = pytest.importorskip("flatbuffers")
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
    tensor = schema.TensorT()
    tensor.name, tensor.quantization = b"mask/Add", schema.QuantizationParametersT()
    tensor.quantization.scale, tensor.quantization.zeroPoint = [scale], [127]
    plain = schema.TensorT()
    plain.name = b"ids"
    graph, model = schema.SubGraphT(), schema.ModelT()
    graph.tensors, model.subgraphs = [plain, tensor], [graph]
    builder = flatbuffers.Builder(0)
    builder.Finish(model.Pack(builder), b"TFL3")
    said = _unbounded(bytes(builder.Output()))
    assert said.startswith(told) and bool(said) == bool(told)
