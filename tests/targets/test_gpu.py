"""Files on a GPU, for real: LiteRT's accelerator and ncnn's Vulkan kernels on the driver that is here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parity.core.executors import REFUSES
from parity.formats.serve import Opened, OpenRequest, Outputs, RunRequest
from parity.process.executors import gpu
from parity.process.isolate import Child, ChildFailure
from parity.session.engines import SESSION, Engine, engine

WHY = {name: engine("gpu", name).unavailable for name in ("tflite", "ncnn")}
on_litert = pytest.mark.skipif(bool(WHY["tflite"]), reason=f"needs LiteRT on a GPU: {WHY['tflite']}")
on_ncnn = pytest.mark.skipif(bool(WHY["ncnn"]), reason=f"needs ncnn on a GPU: {WHY['ncnn']}")

IMAGE = np.random.default_rng(3).standard_normal((1, 8, 8, 4)).astype(np.float32)
Run = Callable[[Engine, Path, Mapping[str, Any], Mapping[str, Any]], tuple[dict[str, Any], dict[str, Any]]]


@pytest.fixture
def run() -> Any:
    """Outputs of one case, and the session's description after it, in a child as the suite starts it."""
    children: list[Child] = []

    def execute(by: Engine, file: Path, notes: Mapping[str, Any], case: Mapping[str, Any]) -> Any:
        child = Child("gpu", by.python, confined_to=[file.parent / "scratch"])
        children.append(child)
        request = OpenRequest(SESSION, str(file.parent), {"entry": file.name, **notes, **by.notes})
        opened = child.call("parity.formats.serve:open_session", request, Opened)
        asked = RunRequest(opened.handle, [case])
        result = child.call("parity.formats.serve:run", asked, Outputs)
        said = child.call("parity.formats.serve:described", opened.handle, dict[str, Any])
        return result.outputs[0], said

    yield execute
    for child in children:
        child.close()


def names(inputs: Mapping[str, str], outputs: Mapping[str, str]) -> dict[str, Any]:
    return {
        "inputs": {mine: {"name": theirs} for mine, theirs in inputs.items()},
        "outputs": {mine: {"name": theirs} for mine, theirs in outputs.items()},
    }


@pytest.fixture(scope="module")
def tflite(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A convolution in float32 and in int8 with integer inputs and outputs, and a loop."""
    tf = pytest.importorskip("tensorflow")
    weight = tf.constant(np.random.default_rng(4).standard_normal((3, 3, 4, 5)).astype(np.float32) / 6)

    @tf.function(input_signature=[tf.TensorSpec([1, 8, 8, 4], name="x")])
    def convolved(x: Any) -> Any:
        return {"y": tf.nn.relu(tf.nn.conv2d(x, weight, 1, "SAME"))}

    @tf.function(input_signature=[tf.TensorSpec([1, 4], name="x")])
    def looped(x: Any) -> Any:
        # As many turns as the input says, so that no converter unrolls it.
        turns = tf.cast(tf.reduce_sum(tf.abs(x)), tf.int32) + 2
        return {"y": tf.while_loop(lambda i, v: i < turns, lambda i, v: (i + 1, tf.tanh(v) * 2), [0, x])[1]}

    folder, files = tmp_path_factory.mktemp("tflite"), {}
    for name, function in (("float", convolved), ("int8", convolved), ("loop", looped)):
        module = tf.Module()
        module.f = function
        converter = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()], module)
        if name == "int8":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.representative_dataset = lambda: ([IMAGE * scale] for scale in (0.5, 1.0))
            converter.inference_input_type = converter.inference_output_type = tf.int8
        files[name] = folder / f"{name}.tflite"
        files[name].write_bytes(converter.convert())
    return files


def signature_of(file: Path) -> dict[str, Any]:
    from parity.formats.tflite.runtime import signature

    stated = signature(file)
    return names({"x": stated["inputs"][0]["name"]}, {"y": stated["outputs"][0]["name"]})


def on_cpu(file: Path) -> Any:
    from parity.formats.tflite.runtime import LiteRtSession

    notes = signature_of(file)
    session = LiteRtSession(str(file.parent), {"entry": file.name})
    return session.run({notes["inputs"]["x"]["name"]: IMAGE})[notes["outputs"]["y"]["name"]]


@on_litert
@pytest.mark.parametrize(("name", "allowed"), [("float", 1e-2), ("int8", 0.05)])
@pytest.mark.parametrize("executor", ["gpu", "gpu:fp32"])
def test_a_tflite_file_computes_the_same_on_a_gpu(
    run: Run, tflite: dict[str, Path], name: str, allowed: float, executor: str
) -> None:
    file = tflite[name]
    outputs, said = run(engine(executor, "tflite"), file, signature_of(file), {"x": IMAGE})
    want = on_cpu(file)
    assert outputs["y"].dtype == np.float32 and outputs["y"].shape == want.shape
    assert np.sqrt(np.mean((outputs["y"] - want) ** 2) / np.mean(want**2)) < allowed
    assert said["wholly_on_gpu"] is True and said["runtime_version"] >= "2.3"
    assert said["computes"] in (("fp32",) if executor == "gpu:fp32" else ("fp16", "fp32"))


@on_litert
def test_a_loop_is_refused_as_an_app_would_find(run: Run, tflite: dict[str, Path]) -> None:
    with pytest.raises(ChildFailure) as caught:
        run(engine("gpu", "tflite"), tflite["loop"], signature_of(tflite["loop"]), {"x": IMAGE[0, 0, :1]})
    assert caught.value.reason.startswith(REFUSES) and caught.value.state == "error"


NET = """7767517
2 2
Input        x 0 1 x
InnerProduct y 1 1 x y 0=3 1=1 2=12
"""


@pytest.fixture
def ncnn(tmp_path: Path) -> Path:
    """A product of 4 numbers with 12 weights, and a bias."""
    file = tmp_path / "net.param"
    file.write_text(NET, encoding="utf-8")
    weights = np.linspace(-1.1, 1.3, 12, dtype=np.float32)
    file.with_suffix(".bin").write_bytes(b"\0\0\0\0" + weights.tobytes() + np.float32([0.1, 0.2, 0.3]).tobytes())
    return file


@on_ncnn
@pytest.mark.parametrize(("executor", "allowed"), [("gpu", 5e-3), ("gpu:fp32", 1e-6)])
def test_an_ncnn_network_says_what_it_really_computed_in(run: Run, ncnn: Path, executor: str, allowed: float) -> None:
    x = np.float32([[0.1, -0.7, 0.333, 1.9]])
    outputs, said = run(engine(executor, "ncnn"), ncnn, names({"x": "x"}, {"y": "y"}), {"x": x})
    want = x @ np.linspace(-1.1, 1.3, 12, dtype=np.float32).reshape(3, 4).T + np.float32([0.1, 0.2, 0.3])
    error = np.abs(outputs["y"] - want).max()
    assert error < allowed
    assert said["computes"] == ("fp16" if error > 1e-6 else "fp32")


def test_a_driver_is_named_with_its_version() -> None:
    driver = gpu.driver()
    if driver is None:
        assert "no Vulkan driver" in gpu.unavailable("ncnn")
        return
    assert any(character.isdigit() for character in driver.words)
    assert ("software" in driver.words) == driver.device.is_software


def test_a_machine_without_a_driver_says_what_would_add_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VK_DRIVER_FILES", "/nowhere/icd.json")
    monkeypatch.setenv("VK_ICD_FILENAMES", "/nowhere/icd.json")
    assert "mesa-vulkan-drivers" in gpu.unavailable("ncnn")
