"""What an app may take of a file otherwise than it is measured: by index, by another signature, by its class names."""

from __future__ import annotations

import copy
import json
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parity import config as configuration
from parity import formats as targets
from parity import suite
from parity.core.plan import Cell
from parity.formats.labels import appended
from parity.session.session import Session
from parity.store.cache import Store
from parity.suite.check_kind import CheckContext
from parity.suite.recorder import Recorder

MODEL = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, p, q):
        return torch.softmax(self.a(p), 1), self.b(q)

class First(nn.Module):
    def forward(self, x):
        return torch.softmax(x, 1)

def net():
    return Net().eval()

def first():
    return First()
"""

CONFIG = """
[tool.parity]
targets = ["{target}"]
precisions = ["fp32"]
[tool.parity.models.net]
factory = "models:net"
inputs = [{{ name = "p", shape = [1, 4] }}, {{ name = "q", shape = [1, 4] }}]
outputs = [{{ name = "y", kind = "probs", labels = "labels.txt" }}, {{ name = "z" }}]
artifacts = {{ "{target}-fp32" = "{file}" }}
"""

CLASSIFIER = """
[tool.parity]
targets = ["coreml"]
precisions = ["fp32"]
[tool.parity.models.net]
factory = "models:first"
inputs = [{ name = "x", shape = [1, 3] }]
outputs = [{ name = "y", kind = "probs", labels = "labels.txt" }]
artifacts = { "coreml-fp32" = { path = "net.mlpackage", outputs = { y = { name = "classLabel_probs" } } } }
"""


def contract(root: Path, config: str, target: str) -> tuple[Recorder, list[dict[str, Any]]]:
    """The recorder of the contract test of the cell `net`, and the outputs of one run."""
    (root / "models.py").write_text(MODEL)
    (root / "labels.txt").write_text("cat\ndog\nbird\n")
    (root / "pyproject.toml").write_text(config)
    session = Session(configuration.load(root / "pyproject.toml", targets.facts()), "test", store=Store(root / "cache"))
    try:
        cell = Cell("net", target, "fp32")
        runtime, recorder = session.runtime(cell), Recorder(cell, "contract")
        suite.contract.run(CheckContext(runtime, recorder))
        shape = (1, 3) if target == "coreml" else (1, 4)
        names = [spec.name for spec in session.config.models["net"].contract.inputs]
        return recorder, runtime.run([{name: np.float32([range(shape[1])]) for name in names}])
    finally:
        session.close()


def onnx_file(file: Path, *, turned: bool, names: dict[int, str], **more: str) -> None:
    onnx: Any = pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    ports = [[helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, size]) for n in pair]
             for pair, size in (("pq", 4), ("yz", 3))]  # fmt: skip
    nodes = [helper.make_node("MatMul", ["p", "w"], ["h"]), helper.make_node("Softmax", ["h"], ["y"]),
             helper.make_node("MatMul", ["q", "w"], ["z"])]  # fmt: skip
    weights = [numpy_helper.from_array(np.ones((4, 3), np.float32), "w")]
    graph = helper.make_graph(nodes, "g", *(p[::-1] if turned else p for p in ports), weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(model, {"names": str(names), **more})
    onnx.save(model, str(file))


@pytest.mark.parametrize("turned", [False, True])
def test_the_order_of_an_onnx_file_and_its_class_names(tmp_path: Path, turned: bool) -> None:
    names = {0: "dog", 1: "cat", 2: "bird"} if turned else {0: "Cat", 1: "Dog", 2: "Bird"}
    onnx_file(tmp_path / "net.onnx", turned=turned, names=names)
    recorder, _ = contract(tmp_path, CONFIG.format(target="onnx", file="net.onnx"), "onnx")
    (labels,) = [check for check in recorder.checks if check.metric == "labels"]
    assert labels.passed is not turned and (not turned or "class 0 is 'dog' in the file" in labels.detail)
    warned = [f.text for f in recorder.findings if f.level == "warning" and "stand in the order" in f.text]
    assert len(warned) == 2 * turned
    assert not turned or "inputs stand in the order q, p in the file, the model's is p, q" in warned[0]


@pytest.mark.parametrize(
    "text", ["cat;bird;dog", "{'head': {'words': ['cat', 'bird', 'dog']}}", "{'cat': 0, 'bird': 1, 'dog': 2}"]
)
def test_a_second_list_of_class_names_in_another_order_fails(tmp_path: Path, text: str) -> None:
    onnx_file(tmp_path / "net.onnx", turned=False, names={0: "Cat", 1: "Dog", 2: "Bird"}, vocabulary=text)
    recorder, _ = contract(tmp_path, CONFIG.format(target="onnx", file="net.onnx"), "onnx")
    labels = [(check.passed, check.detail) for check in recorder.checks if check.metric == "labels"]
    assert labels == [(True, "the file names the classes as declared"),
                      (False, "a list in the file has 'bird' at place 1, labels have 'dog'")]  # fmt: skip


def test_a_core_ml_classifier_is_measured_by_its_probabilities(tmp_path: Path) -> None:
    ct: Any = pytest.importorskip("coremltools")
    import torch

    traced = torch.jit.trace(torch.nn.Softmax(1), torch.zeros(1, 3))
    ct.convert(
        traced, inputs=[ct.TensorType("x", (1, 3))], outputs=[ct.TensorType("y")], skip_model_load=True,
        classifier_config=ct.ClassifierConfig(["dog", "cat", "bird"]), compute_precision=ct.precision.FLOAT32,
        minimum_deployment_target=ct.target.iOS16,
    ).save(str(tmp_path / "net.mlpackage"))  # fmt: skip
    recorder, outputs = contract(tmp_path, CLASSIFIER, "coreml")
    failed = [(check.metric, check.detail) for check in recorder.checks if not check.passed]
    assert failed == [("labels", "class 0 is 'dog' in the file, 'cat' in labels")]
    x = np.exp(np.float32([[0, 1, 2]]))
    np.testing.assert_allclose(outputs[0]["y"], x / x.sum(), rtol=1e-6)


@pytest.mark.parametrize("turned", [False, True])
def test_the_class_names_in_the_metadata_of_a_core_ml_detector(tmp_path: Path, turned: bool) -> None:
    ct: Any = pytest.importorskip("coremltools")
    import torch

    traced = torch.jit.trace(torch.nn.Softmax(1), torch.zeros(1, 3))
    made = ct.convert(
        traced, inputs=[ct.TensorType("x", (1, 3))], outputs=[ct.TensorType("y")], skip_model_load=True,
        compute_precision=ct.precision.FLOAT32, minimum_deployment_target=ct.target.iOS16,
    )  # fmt: skip
    made.user_defined_metadata["classes"] = "dog,cat,bird" if turned else "cat,dog,bird"
    made.save(str(tmp_path / "net.mlpackage"))
    config = CLASSIFIER.replace("classLabel_probs", "y")
    recorder, _ = contract(tmp_path, config, "coreml")
    assert [check.passed for check in recorder.checks if check.metric == "labels"] == [not turned]


def test_a_core_ml_file_of_several_functions_is_measured_by_its_default_one(tmp_path: Path) -> None:
    ct: Any = pytest.importorskip("coremltools")
    import torch

    description = ct.utils.MultiFunctionDescriptor()
    for name, axis in (("main", 1), ("night", 0)):
        made = ct.convert(
            torch.jit.trace(torch.nn.Softmax(axis), torch.zeros(1, 3)), inputs=[ct.TensorType("x", (1, 3))],
            outputs=[ct.TensorType("y")], skip_model_load=True, compute_precision=ct.precision.FLOAT32,
            minimum_deployment_target=ct.target.iOS18,
        )  # fmt: skip
        made.save(str(tmp_path / f"{name}.mlpackage"))
        description.add_function(str(tmp_path / f"{name}.mlpackage"), "main", name)
    description.default_function_name = "main"
    ct.utils.save_multifunction(description, str(tmp_path / "net.mlpackage"))
    recorder, outputs = contract(tmp_path, CLASSIFIER.replace("classLabel_probs", "y"), "coreml")
    failed = [(check.metric, check.detail) for check in recorder.checks if not check.passed]
    assert failed == [("unmeasured_signatures", "measured by signature main; not measured: signature night")]
    assert outputs[0]["y"].sum() == pytest.approx(1)


def test_a_core_ml_function_that_the_description_does_not_tell_is_named(tmp_path: Path) -> None:
    ct: Any = pytest.importorskip("coremltools")
    import torch

    made = ct.convert(
        torch.jit.trace(torch.nn.Softmax(1), torch.zeros(1, 3)), inputs=[ct.TensorType("x", (1, 3))],
        outputs=[ct.TensorType("y")], skip_model_load=True, compute_precision=ct.precision.FLOAT32,
        minimum_deployment_target=ct.target.iOS18,
    )  # fmt: skip
    spec = made.get_spec()
    spec.mlProgram.functions["night"].CopyFrom(spec.mlProgram.functions["main"])
    made.save(str(tmp_path / "net.mlpackage"))
    (file,) = (tmp_path / "net.mlpackage").rglob("*.mlmodel")
    file.write_bytes(spec.SerializeToString())
    recorder, _ = contract(tmp_path, CLASSIFIER.replace("classLabel_probs", "y"), "coreml")
    failed = [(check.metric, check.detail) for check in recorder.checks if not check.passed]
    assert failed == [("unmeasured_signatures", "measured by signature main; not measured: signature night")]


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("name", ["metadata.json", "labelmap.txt"])
def test_the_class_names_in_the_archive_at_the_end_of_a_tflite_file(tmp_path: Path, name: str, turned: bool) -> None:
    (tmp_path / "net.tflite").write_bytes(tflite_content(["serving_default"]))
    names = ["dog", "cat", "bird"] if turned else ["cat", "dog", "bird"]
    text = "\n".join(["???", *names]) if name.endswith(".txt") else json.dumps({"names": dict(enumerate(names))})
    with zipfile.ZipFile(tmp_path / "net.tflite", "a") as archive:
        archive.writestr(name, text)
    recorder, _ = contract(tmp_path, CONFIG.format(target="tflite", file="net.tflite"), "tflite")
    assert [check.passed for check in recorder.checks if check.metric == "labels"] == [not turned]


def test_a_broken_archive_at_the_end_of_a_file_names_no_classes(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"model")
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("labels.txt", "cat\ndog\n" * 100)
    whole = file.read_bytes()
    assert len(appended(file)) == 200
    for place in range(0, len(whole), 3):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        appended(file)


def tflite_content(signatures: list[str]) -> bytes:
    """A file as a converter makes it: y is the start of p, z the end of q; `app` takes one for the other, and `other`
    gives them other names."""
    tf: Any = pytest.importorskip("tensorflow")
    spec = tf.TensorSpec([1, 4], tf.float32)

    class Net(tf.Module):
        @tf.function(input_signature=[spec, spec])
        def main(self, p, q):
            return {"y": p[:, :3], "z": q[:, 1:]}

        @tf.function(input_signature=[spec, spec])
        def app(self, p, q):
            return {"y": q[:, :3], "z": p[:, 1:]}

        @tf.function(input_signature=[spec, spec])
        def other(self, p, q):
            return {"left": q[:, :3], "right": p[:, 1:]}

    net = Net()
    functions = {name: getattr(net, name if name in ("app", "other") else "main") for name in signatures}
    functions = {name: function.get_concrete_function() for name, function in functions.items()}
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(net, folder, signatures=functions)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=signatures)
        return bytes(converter.convert())


@pytest.mark.parametrize(
    ("names", "measured"), [(["serving_default", "app"], "serving_default"), (["other", "main"], "main")]
)
def test_a_file_is_measured_by_the_signature_of_the_models_names(
    tmp_path: Path, names: list[str], measured: str
) -> None:
    (tmp_path / "net.tflite").write_bytes(tflite_content(names))
    recorder, (outputs,) = contract(tmp_path, CONFIG.format(target="tflite", file="net.tflite"), "tflite")
    np.testing.assert_array_equal(outputs["y"], [[0, 1, 2]])
    (check,) = [check for check in recorder.checks if check.metric == "unmeasured_signatures"]
    (other,) = set(names) - {measured}
    assert (check.passed, check.value) == (False, 1), check
    assert f"measured by signature {measured}; not measured: signature {other}" in check.detail
    assert any(f"an app that calls signature {other} gets" in f.text for f in recorder.findings)


def test_a_second_signature_is_accepted_by_name(tmp_path: Path) -> None:
    (tmp_path / "net.tflite").write_bytes(tflite_content(["serving_default", "app"]))
    accept = """
    [[tool.parity.accept]]
    cell = "net-tflite-fp32"
    operator = "signature NAME"
    reason = "training on the device"
    expires = 2999-01-31
    """
    config = CONFIG.format(target="tflite", file="net.tflite")
    for name, passed in (("app", True), ("none", False)):
        recorder, _ = contract(tmp_path, config + accept.replace("NAME", name), "tflite")
        checks = [check.passed for check in recorder.checks if check.metric == "unmeasured_signatures"]
        assert checks == [passed]
        assert any("no unmeasured 'signature none'" in f.text for f in recorder.findings) is not passed


def test_the_order_of_a_tflite_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "net.tflite").write_bytes(tflite_content(["serving_default"]))
    tables = ['p = { name = "q" }, q = { name = "p" }', 'y = { name = "z" }, z = { name = "y" }']
    entry = f'{{ path = "net.tflite", inputs = {{ {tables[0]} }}, outputs = {{ {tables[1]} }} }}'
    config = CONFIG.format(target="tflite", file="net.tflite").replace('"net.tflite"', entry)
    recorder, _ = contract(tmp_path, config, "tflite")
    warned = [f.text for f in recorder.findings if f.level == "warning"]
    assert any("inputs stand in the order q, p in the file" in text for text in warned), warned


def edited(content: bytes, change: Callable[[Any], None]) -> bytes:
    """A TFLite file whose parsed model was changed."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(content, 0)
    change(model)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


@pytest.mark.parametrize(
    "names", [[b"serving_default_q:0", b"serving_default_p:0"], [b"Q", b"P"], [b"net/q", b"net/p"]]
)
def test_the_names_of_tflite_tensors_may_not_be_those_of_other_inputs(tmp_path: Path, names: list[bytes]) -> None:
    """The signature is right; an app that looks tensors up by their names gets the other."""

    def exchange(model: Any) -> None:
        places = {port.name: port.tensorIndex for port in model.signatureDefs[0].inputs}
        for port, name in zip((b"p", b"q"), names, strict=True):
            model.subgraphs[0].tensors[places[port]].name = name

    (tmp_path / "net.tflite").write_bytes(edited(tflite_content(["serving_default"]), exchange))
    recorder, _ = contract(tmp_path, CONFIG.format(target="tflite", file="net.tflite"), "tflite")
    failed = [check for check in recorder.checks if check.metric == "tensor_name"]
    assert [(check.output, check.passed) for check in failed] == [("p", False), ("q", False)]
    assert "the file's own name of input p is" in failed[0].detail and "which is q of the model" in failed[0].detail


@pytest.mark.parametrize("prefix", [b"app_", b"input/app_", b"the"])
def test_names_of_other_inputs_with_a_prefix_are_a_warning(tmp_path: Path, prefix: bytes) -> None:
    names = {"p": b"pictures", "q": b"question"}

    def exchange(model: Any) -> None:
        for port in model.signatureDefs[0].inputs:
            other = "q" if port.name == b"p" else "p"
            model.subgraphs[0].tensors[port.tensorIndex].name = prefix + names[other] + b":0"
            port.name = names[port.name.decode()]

    (tmp_path / "net.tflite").write_bytes(edited(tflite_content(["serving_default"]), exchange))
    config = CONFIG.format(target="tflite", file="net.tflite")
    recorder, _ = contract(tmp_path, config.replace('"p"', '"pictures"').replace('"q"', '"question"'), "tflite")
    warned = [f.text for f in recorder.findings if f.level == "warning" and "the file's own name" in f.text]
    assert len(warned) == 2 and "which is made from question of the model" in warned[0]


@pytest.mark.parametrize(
    ("names", "warned"),
    [([b"PartitionedCall:1", b"PartitionedCall:0"], 0), ([b"Y", b"Identity"], 0), ([b"out", b"y_z"], 0)],
)
def test_the_names_that_converters_write_are_no_fault(tmp_path: Path, names: list[bytes], warned: int) -> None:
    def rename(model: Any) -> None:
        for port, name in zip(model.signatureDefs[0].outputs, names, strict=True):
            model.subgraphs[0].tensors[port.tensorIndex].name = name

    (tmp_path / "net.tflite").write_bytes(edited(tflite_content(["serving_default"]), rename))
    recorder, _ = contract(tmp_path, CONFIG.format(target="tflite", file="net.tflite"), "tflite")
    assert not [check for check in recorder.checks if check.metric in ("tensor_name", "unmeasured_signatures")]
    assert len([finding for finding in recorder.findings if "the file's own name" in finding.text]) == warned


def test_names_that_differ_by_their_numbers_alone_are_a_warning(tmp_path: Path) -> None:
    """Converters number outputs in an order of their own."""

    def number(model: Any) -> None:
        ports = {port.name: port for port in model.signatureDefs[0].outputs}
        for name, new, own in ((b"y", b"output_0", b"output_1"), (b"z", b"output_1", b"output_0")):
            ports[name].name = new
            model.subgraphs[0].tensors[ports[name].tensorIndex].name = own

    (tmp_path / "net.tflite").write_bytes(edited(tflite_content(["serving_default"]), number))
    config = CONFIG.format(target="tflite", file="net.tflite").replace('"y"', '"output_0"').replace('"z"', '"output_1"')
    recorder, _ = contract(tmp_path, config, "tflite")
    assert "tensor_name" not in {check.metric for check in recorder.checks}
    warned = [f.text for f in recorder.findings if f.level == "warning" and "the file's own name" in f.text]
    assert len(warned) == 2 and "output_0 is 'output_1', which is output_1 of the model" in warned[0]


@pytest.mark.parametrize("kind", ["second graph", "other output"])
def test_what_an_interpreter_without_a_signature_runs_is_measured_or_named(tmp_path: Path, kind: str) -> None:
    """The signature is of the second graph, or the graph gives a tensor more than the signature."""

    def change(model: Any) -> None:
        graph = model.subgraphs[0]
        if kind == "other output":
            graph.outputs = [graph.inputs[0], *graph.outputs]
            return
        model.subgraphs.append(copy.deepcopy(graph))
        model.signatureDefs[0].subgraphIndex = 1

    (tmp_path / "net.tflite").write_bytes(edited(tflite_content(["serving_default"]), change))
    recorder, _ = contract(tmp_path, CONFIG.format(target="tflite", file="net.tflite"), "tflite")
    (check,) = [check for check in recorder.checks if check.metric == "unmeasured_signatures"]
    assert not check.passed
    assert check.detail == "measured by signature serving_default; not measured: signature of the graph itself"
