"""What is known of the processor, and that a runtime's wrong choice of kernels on it is kept out of children."""

from __future__ import annotations

import subprocess
import sys

import pytest

from parity.process import processor

FLAGS = "model name\t: Some  Xeon\nflags\t\t: fpu sse2 {}\nbugs\t\t:\n"
PRODUCT = """
import sys
from parity.process import processor

if "without" in sys.argv:
    assert processor.without_amx()
import numpy as np, onnxruntime
from onnx import TensorProto, helper

wrong = 0
for columns in range(1, 65):
    rng = np.random.default_rng(columns)
    a, b = rng.integers(0, 256, (32, 16)).astype(np.uint8), rng.integers(0, 256, (16, columns)).astype(np.uint8)
    held = helper.make_tensor("b", TensorProto.UINT8, b.shape, b.tobytes(), raw=True)
    given = helper.make_tensor_value_info("a", TensorProto.UINT8, a.shape)
    wanted = helper.make_tensor_value_info("y", TensorProto.INT32, (32, columns))
    graph = helper.make_graph([helper.make_node("MatMulInteger", ["a", "b"], ["y"])], "g", [given], [wanted], [held])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    wrong += int((session.run(None, {"a": a})[0] != a.astype(np.int64) @ b.astype(np.int64)).sum())
print(wrong)
"""


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """A machine of which we say what it is."""

    def be(flags: str, version: str, system: str = "linux", architecture: str = "x86_64") -> None:
        monkeypatch.setattr(processor, "_cpuinfo", lambda: FLAGS.format(flags))
        monkeypatch.setattr(processor.sys, "platform", system)
        monkeypatch.setattr(processor.platform, "machine", lambda: architecture)
        monkeypatch.setattr(processor.importlib.metadata, "version", lambda name: version)
        processor.name.cache_clear()
        processor.multiplies_wrongly.cache_clear()

    yield be
    processor.name.cache_clear()
    processor.multiplies_wrongly.cache_clear()


def test_the_name_is_what_the_system_says(machine) -> None:  # type: ignore[no-untyped-def]
    machine("", "1.23.0")
    assert processor.name() == "Some Xeon"


@pytest.mark.parametrize(
    ("flags", "version", "system", "architecture", "wrong"),
    [
        ("amx_tile amx_int8", "1.23.0", "linux", "x86_64", "1.23.0"),
        ("amx_tile amx_int8", "1.24.4", "linux", "x86_64", "1.24.4"),
        ("amx_tile amx_int8", "1.25.0", "linux", "x86_64", ""),
        ("amx_tile amx_int8", "1.32.0", "linux", "x86_64", ""),
        ("avx512_vnni", "1.23.0", "linux", "x86_64", ""),
        ("amx_tile amx_int8", "1.23.0", "linux", "aarch64", ""),
        ("amx_tile amx_int8", "1.23.0", "darwin", "x86_64", ""),
    ],
)
def test_which_machines_multiply_wrongly(machine, flags, version, system, architecture, wrong) -> None:  # type: ignore[no-untyped-def]
    machine(flags, version, system, architecture)
    assert processor.multiplies_wrongly() == wrong


@pytest.mark.skipif(" amx_int8" not in processor._cpuinfo(), reason="this processor has no AMX")
def test_a_process_that_looked_at_the_processor_before_keeps_amx() -> None:
    late = "import onnxruntime\nfrom parity.process import processor\nprint(processor.without_amx())"
    done = subprocess.run([sys.executable, "-c", late], stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout == "False\n"


def _wrong(*arguments: str) -> int:
    return int(subprocess.run([sys.executable, "-c", PRODUCT, *arguments], stdout=subprocess.PIPE, check=True).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="processes can be refused AMX on Linux")
def test_products_are_right_without_amx_and_known_to_be_wrong_with_it() -> None:
    assert _wrong("without") == 0
    assert (_wrong() > 0) == bool(processor.multiplies_wrongly())
