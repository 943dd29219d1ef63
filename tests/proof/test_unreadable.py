"""Files that the chain of proof cannot follow: each says so by name, with what is in the way, and is never proved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parity.formats.coreml.graph import CoreMLArtefact
from parity.formats.graph import NotPossible
from parity.formats.onnx.graph import OnnxArtefact
from parity.formats.tflite.graph import TFLiteArtefact


def onnx_file(folder: Path, node: Any, **more: Any) -> OnnxArtefact:
    from onnx import TensorProto, helper, save

    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("x", "y")]
    graph = helper.make_graph([node], "g", ports[:1], ports[1:], **more)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), folder / "m.onnx")
    return OnnxArtefact(
        str(folder), {"entry": "m.onnx", "inputs": {"x": {"name": "x"}}, "outputs": {"y": {"name": "y"}}}
    )


def test_an_onnx_file_with_a_branch(tmp_path: Path) -> None:
    from onnx import TensorProto, helper

    def branch(operator: str) -> Any:
        out = helper.make_tensor_value_info("b", TensorProto.FLOAT, None)
        return helper.make_graph([helper.make_node(operator, ["x"], ["b"])], operator, [], [out])

    yes = helper.make_tensor("yes", TensorProto.BOOL, [], [True])
    choice = helper.make_node("If", ["yes"], ["y"], then_branch=branch("Relu"), else_branch=branch("Neg"))
    with pytest.raises(NotPossible, match=r"sub-graphs \(If\)"):
        onnx_file(tmp_path, choice, initializer=[yes])
    assert onnx_file(tmp_path, helper.make_node("Relu", ["x"], ["y"])).graph.operators[0].kind == "Relu"


def test_an_onnx_file_whose_recurrent_layer_holds_quantised_weights(tmp_path: Path) -> None:
    from onnx import helper

    layer = helper.make_node("DynamicQuantizeLSTM", ["x"], ["y"], domain="com.microsoft", hidden_size=2)
    with pytest.raises(NotPossible, match="DynamicQuantizeLSTM holds quantised weights"):
        onnx_file(tmp_path, layer)


def tflite_file(folder: Path, function: Callable[[Any], Any], flex: bool = False) -> TFLiteArtefact:
    import tensorflow as tf

    traced = tf.function(function, input_signature=[tf.TensorSpec([1, 4])]).get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([traced])
    if flex:
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS, tf.lite.OpsSet.SELECT_TF_OPS]
    (folder / "m.tflite").write_bytes(converter.convert())
    return TFLiteArtefact(str(folder), {"entry": "m.tflite", "inputs": {}, "outputs": {}})


def test_tflite_files_with_a_loop_or_flex_operators(tmp_path: Path) -> None:
    import tensorflow as tf

    def loop(x: Any) -> Any:
        return tf.while_loop(lambda v: tf.reduce_sum(v) < 9.0, lambda v: (v * 2.0,), (x,))[0]

    with pytest.raises(NotPossible, match=r"3 sub-graphs \(control flow"):
        tflite_file(tmp_path, loop)
    with pytest.raises(NotPossible, match="cannot run FlexErf"):
        tflite_file(tmp_path, tf.math.erf, flex=True)
    assert [o.kind for o in tflite_file(tmp_path, tf.abs).graph.operators] == ["ABS"]


def coreml_file(folder: Path, body: Callable[[Any], Any], version: str = "iOS18") -> CoreMLArtefact:
    import coremltools as ct
    from coremltools.converters.mil import Builder as mb

    target = getattr(ct.target, version)
    program = mb.program(input_specs=[mb.TensorSpec(shape=(1, 8))], opset_version=target)(lambda x: body(x))
    made = ct.convert(program, minimum_deployment_target=target, compute_precision=ct.precision.FLOAT32,
                      pass_pipeline=ct.PassPipeline.EMPTY, skip_model_load=True)  # fmt: skip
    made.save(str(folder / "m.mlpackage"))
    return CoreMLArtefact(str(folder), {"entry": "m.mlpackage", "inputs": {}, "outputs": {}})


def test_a_core_ml_program_with_a_branch(tmp_path: Path) -> None:
    from coremltools.converters.mil import Builder as mb

    def branch(x: Any) -> Any:
        positive = mb.greater(x=mb.reduce_sum(x=x, axes=[0, 1], keep_dims=False), y=0.0)
        return mb.cond(pred=positive, _true_fn=lambda: mb.relu(x=x), _false_fn=lambda: mb.abs(x=x))

    with pytest.raises(NotPossible, match="the program has a cond, whose blocks"):
        coreml_file(tmp_path, branch)


@pytest.mark.parametrize("blocks", [1, 2])
def test_core_ml_weights_that_are_quantised_in_blocks(tmp_path: Path, blocks: int) -> None:
    """One scale a row is a grid like any other; a scale a block is none that the audit knows."""
    from coremltools.converters.mil import Builder as mb

    def layer(x: Any) -> Any:
        data = np.arange(-16, 16, dtype=np.int8).reshape(4, 8)
        scale = np.linspace(0.1, 0.2, 4 * blocks, dtype=np.float32).reshape(4, blocks)
        return mb.linear(x=x, weight=mb.constexpr_blockwise_shift_scale(data=data, scale=scale))

    if blocks == 1:
        (weight,) = (c for c in coreml_file(tmp_path, layer).graph.constants.values() if c.grid)
        assert weight.grid is not None and weight.grid.scale.shape == (4,)
    else:
        with pytest.raises(NotPossible, match="quantised in blocks have more than one scale a channel"):
            coreml_file(tmp_path, layer)


def test_a_neural_network_specification_is_no_program(tmp_path: Path) -> None:
    import coremltools as ct
    from coremltools.converters.mil import Builder as mb

    program = mb.program(input_specs=[mb.TensorSpec(shape=(1, 8))])(lambda x: mb.relu(x=x))
    ct.convert(program, convert_to="neuralnetwork", skip_model_load=True).save(str(tmp_path / "m.mlmodel"))
    with pytest.raises(NotPossible, match="neural network specification"):
        CoreMLArtefact(str(tmp_path), {"entry": "m.mlmodel", "inputs": {}, "outputs": {}})
