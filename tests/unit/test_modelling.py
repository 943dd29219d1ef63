"""The PyTorch side: checkpoints of every kind, none of which runs code, and a fingerprint that misses no change."""

from __future__ import annotations

import importlib
import os
import pickle
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from parity.core.errors import ParityError  # noqa: E402
from parity.core.settings import ModelSpec  # noqa: E402
from parity.reference import modelling  # noqa: E402


def net() -> Any:
    torch.manual_seed(3)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))


STATE = net().state_dict()


def save(path: Path, state: Any = None) -> Path:
    state = STATE if state is None else state
    if path.suffix == ".safetensors":
        from safetensors.torch import save_file

        save_file(state, path)
    elif path.suffix == ".npz":
        np.savez(path, **{k: v.numpy() for k, v in state.items()})
    else:
        torch.save(state, path)
    return path


def loaded(path: Path) -> Any:
    torch.manual_seed(99)
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    modelling.load_checkpoint(module, path)
    return module


def refused(path: Path) -> str:
    with pytest.raises(ParityError) as caught:
        loaded(path)
    message = str(caught.value)
    assert path.name in message and len(message.splitlines()) == 1 and len(message) < 400
    return message


# Checkpoints.


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pt", ".pth", ".ckpt"])
def test_every_format_gives_the_same_tensors(suffix: str, tmp_path: Path) -> None:
    module = loaded(save(tmp_path / f"w{suffix}"))
    for name, value in module.state_dict().items():
        assert torch.equal(value, STATE[name]), name


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model", "ema"])
def test_a_state_dict_inside_a_training_checkpoint_is_found(key: str, tmp_path: Path) -> None:
    module = loaded(save(tmp_path / "w.pt", {key: dict(STATE), "epoch": 3, "loss": 0.5}))
    assert torch.equal(module.state_dict()["0.weight"], STATE["0.weight"])


def test_the_prefix_of_data_parallel_is_taken_off(tmp_path: Path) -> None:
    loaded(save(tmp_path / "w.pt", {f"module.{k}": v for k, v in STATE.items()}))


def test_the_batch_counter_may_be_absent(tmp_path: Path) -> None:
    loaded(save(tmp_path / "w.npz", {k: v for k, v in STATE.items() if "num_batches" not in k}))


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pt"])
def test_a_missing_and_an_unknown_tensor_are_named(suffix: str, tmp_path: Path) -> None:
    less = {k: v for k, v in STATE.items() if k != "0.bias"}
    assert "lacks 1, first '0.bias'" in refused(save(tmp_path / f"a{suffix}", less))
    more = {**STATE, "9.weight": torch.zeros(2)}
    assert "has 1 that the model does not know, first '9.weight'" in refused(save(tmp_path / f"b{suffix}", more))
    both = refused(save(tmp_path / f"c{suffix}", {**less, "9.weight": torch.zeros(2)}))
    assert "lacks 1" in both and "has 1" in both


@pytest.mark.parametrize("shape", [(4, 4), (3, 4), (4,), (1, 4, 3)])
def test_a_tensor_of_another_shape_is_named(shape: tuple[int, ...], tmp_path: Path) -> None:
    path = save(tmp_path / "w.pt", {**STATE, "0.weight": torch.zeros(shape)})
    assert f"'0.weight' is {list(shape)} there, [4, 3] in the model" in refused(path)


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pt"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.95])
def test_a_truncated_file_is_one_line(suffix: str, share: float, tmp_path: Path) -> None:
    path = save(tmp_path / f"w{suffix}")
    os.truncate(path, int(path.stat().st_size * share))
    assert "damaged, or not a" in refused(path)


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pt"])
def test_a_file_of_another_kind_is_one_line(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"w{suffix}"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(5000))
    assert "damaged, or not a" in refused(path)


@pytest.mark.parametrize("suffix", [".bin", ".onnx", ""])
def test_an_unknown_format_says_which_are_known(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"w{suffix}"
    path.write_bytes(b"x")
    assert "use .safetensors, .npz, .pt or .pth" in refused(path)


def test_a_file_that_is_gone_is_one_line(tmp_path: Path) -> None:
    for suffix in (".safetensors", ".npz", ".pt"):
        refused(tmp_path / f"none{suffix}")


@pytest.mark.parametrize("value", [{}, [], 3, {"state_dict": {}}, {"a": 1}, {"state_dict": {"a": [1]}}])
def test_a_file_without_tensors_is_one_line(value: Any, tmp_path: Path) -> None:
    torch.save(value, tmp_path / "w.pt")
    assert "holds no state dict of tensors" in refused(tmp_path / "w.pt")


class Bomb:
    def __init__(self, file: str):
        self.file = file

    def __reduce__(self) -> Any:
        return (os.mkdir, (self.file,))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("how", ["torch", "pickle", "nested", "npz"])
def test_a_file_that_would_run_code_is_refused_and_runs_nothing(how: str, tmp_path: Path) -> None:
    mark, path = tmp_path / "ran", tmp_path / ("w.npz" if how == "npz" else "w.pt")
    bomb = Bomb(str(mark))
    if how == "torch":
        torch.save(bomb, path)
    elif how == "nested":
        torch.save({"state_dict": {**STATE, "extra": bomb}}, path)
    elif how == "npz":
        np.savez(path, **{"0.weight": np.array([bomb], dtype=object)})
    else:
        path.write_bytes(pickle.dumps(bomb))
    message = refused(path)
    assert not mark.exists()
    assert "would run code" in message if how != "npz" else "allow_pickle" in message or "damaged" in message


def test_a_whole_pickled_module_is_refused(tmp_path: Path) -> None:
    torch.save(net(), tmp_path / "w.pt")
    assert "Save model.state_dict() instead" in refused(tmp_path / "w.pt")


# Making the module.

SOURCE = """
import torch
from helper import WIDTH

class Net(torch.nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, channels, 3, stride=1)
        self.slope = 0.1
    def forward(self, x):
        return torch.nn.functional.leaky_relu(self.conv(x), self.slope)

def make(channels=WIDTH):
    return Net(channels)

def no_module():
    return 3

def fails():
    raise ValueError("no data")
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "subject.py").write_text(SOURCE)
    (tmp_path / "helper.py").write_text("import deeper\nWIDTH = deeper.W\n")
    (tmp_path / "deeper.py").write_text("W = 4\n")
    (tmp_path / "bystander.py").write_text("X = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(modelling, "_loaded", {})
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield tmp_path
    for name in ("subject", "helper", "deeper", "bystander"):
        sys.modules.pop(name, None)


def spec(root: Path, **changes: Any) -> ModelSpec:
    return replace(ModelSpec(str(root), "subject:make"), **changes)


def fingerprint(root: Path, **changes: Any) -> dict[str, str]:
    """As a fresh child would compute it."""
    for name in ("subject", "helper", "deeper", "bystander"):
        sys.modules.pop(name, None)
    importlib.invalidate_caches()
    modelling._loaded.clear()
    return modelling.fingerprint(spec(root, **changes))


def test_the_module_is_made_once_and_ready_to_be_exported(root: Path) -> None:
    module = modelling.load(spec(root))
    assert module is modelling.load(spec(root)) is not modelling.load(spec(root, options={"channels": 5}))
    assert not module.training and not any(p.requires_grad for p in module.parameters())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"factory": "no_such:make"}, "cannot import 'no_such'"),
        ({"factory": "subject:mak"}, "module 'subject' has no 'mak'"),
        ({"factory": "subject:no_module"}, "returned int, not a torch.nn.Module"),
        ({"options": {"chanels": 3}}, "chanels"),
    ],
)
def test_a_factory_that_is_no_good_is_one_line(root: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ParityError) as caught:
        modelling.load(spec(root, **changes))
    assert words in str(caught.value) and "\n" not in str(caught.value) and "factory" in str(caught.value)


# The fingerprint.


def test_the_fingerprint_of_the_same_model_is_the_same(root: Path) -> None:
    assert fingerprint(root) == fingerprint(root)


def test_another_factory_or_option_changes_the_fingerprint(root: Path) -> None:
    """A function that a module keeps in an attribute is in neither its tensors nor its classes."""
    (root / "subject.py").write_text(
        "import torch\nclass Net(torch.nn.Module):\n    def __init__(self, act):\n        super().__init__()\n"
        "        self.act = act\n    def forward(self, x): return self.act(x)\n"
        "def make(act='relu'): return Net(getattr(torch, act))\ndef other(): return Net(torch.tanh)\n"
    )
    found = [fingerprint(root), fingerprint(root, factory="subject:other"), fingerprint(root, options={"act": "tanh"})]
    assert len({tuple(sorted(f.items())) for f in found}) == 3


def test_one_bit_of_one_weight_changes_the_fingerprint(root: Path) -> None:
    state = modelling.load(spec(root)).state_dict()
    first = fingerprint(root, checkpoint=str(save(root / "a.pt", state)))
    bits = state["conv.weight"].clone().view(torch.int32)
    bits[1, 2, 0, 1] ^= 1
    changed = {**state, "conv.weight": bits.view(torch.float32)}
    second = fingerprint(root, checkpoint=str(save(root / "b.pt", changed)))
    assert first["weights"] != second["weights"] and first["structure"] == second["structure"]


@pytest.mark.parametrize(
    ("file", "old", "new", "part"),
    [
        ("subject.py", "stride=1", "stride=2", "structure"),
        ("subject.py", "slope = 0.1", "slope = 0.2", "structure"),
        ("subject.py", "leaky_relu(self.conv(x), self.slope)", "elu(self.conv(x))", "source"),
        ("helper.py", "WIDTH", "_X = 1\nWIDTH", "source"),
        ("deeper.py", "W = 4", "W = 4  # the same", "source"),
        ("deeper.py", "W = 4", "W = 5", "weights"),
    ],
)
def test_a_change_changes_its_part_of_the_fingerprint(root: Path, file: str, old: str, new: str, part: str) -> None:
    before = fingerprint(root)
    text = (root / file).read_text()
    assert old in text
    (root / file).write_text(text.replace(old, new, 1))
    assert fingerprint(root)[part] != before[part]


def test_what_the_model_does_not_use_changes_nothing(root: Path) -> None:
    before = fingerprint(root)
    (root / "bystander.py").write_text("X = 2\n")
    (root / "README.md").write_text("new")
    assert fingerprint(root) == before


def test_moving_the_project_changes_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = fingerprint(root)
    other = root / "elsewhere"
    other.mkdir()
    for name in ("subject", "helper", "deeper"):
        (root / f"{name}.py").rename(other / f"{name}.py")
    monkeypatch.syspath_prepend(str(other))
    assert fingerprint(other) == before


# Outputs by name.


class Gives(torch.nn.Module):
    def __init__(self, value: Any):
        super().__init__()
        self.value = value

    def forward(self, x: Any) -> Any:
        return self.value


ONE, TWO = torch.zeros(2), torch.ones(3)


@pytest.mark.parametrize(
    ("value", "names"),
    [(ONE, ["a"]), ((ONE, TWO), ["a", "b"]), ([ONE, TWO], ["a", "b"]), ({"b": TWO, "a": ONE}, ["a", "b"])],
)
def test_outputs_by_name(value: Any, names: list[str]) -> None:
    got = modelling.forward(Gives(value), {"x": ONE}, names)
    assert list(got) == names and got["a"] is ONE


@pytest.mark.parametrize(
    ("value", "names", "words"),
    [
        (ONE, ["a", "b"], "returns 1 outputs, declared are 2"),
        ((ONE, TWO), ["a"], "returns 2 outputs, declared are 1"),
        ({"a": ONE}, ["b"], "returns outputs ['a'], declared are ['b']"),
        ((ONE, None), ["a", "b"], "not a tensor"),
        ((ONE, 3), ["a", "b"], "not a tensor"),
        ({"a": 3}, ["a"], "not a tensor"),
        ((), ["a"], "returns 0 outputs"),
        (None, ["a"], "not a tensor"),
        (3, ["a"], "not a tensor"),
    ],
)
def test_outputs_that_are_not_what_was_declared(value: Any, names: list[str], words: str) -> None:
    with pytest.raises(ParityError) as caught:
        modelling.forward(Gives(value), {"x": ONE}, names)
    assert words in str(caught.value)
