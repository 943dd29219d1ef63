"""PyTorch's own files never run what somebody put into them. Each hostile file was seen to run its code with the bare
loader; each honest one loads."""

from __future__ import annotations

import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from parity.core.errors import ParityError  # noqa: E402
from parity.files.torch_archives import open_program, open_script  # noqa: E402


class Small(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 3)
        self.register_buffer("table", torch.arange(3.0))

    def forward(self, x: Any) -> Any:
        return {"y": torch.einsum("bi->b", self.layer(x)) + self.table.sum(), "z": torch.cat([x, x])}


class Opened:
    """Unpickling it makes a folder."""

    def __init__(self, mark: Path):
        self.mark = str(mark)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.mark,)


@pytest.fixture
def program(tmp_path: Path) -> Path:
    rows = torch.export.Dim("batch", min=2, max=8)
    exported = torch.export.export(Small().eval(), (torch.zeros(2, 4),), dynamic_shapes=({0: rows},))
    torch.export.save(exported, tmp_path / "honest.pt2")
    return tmp_path / "honest.pt2"


def changed(file: Path, changes: dict[str, Callable[[bytes], bytes]], also: dict[str, bytes] | None = None) -> Path:
    """A copy of an archive with records changed and added, by the end of their names."""
    new = file.with_name("hostile" + file.suffix)
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(new, "w") as made:
        names = old.namelist()
        assert all(any(n.endswith(end) for n in names) for end in changes), names
        for name in names:
            content = old.read(name)
            for end, change in changes.items():
                content = change(content) if name.endswith(end) else content
            made.writestr(name, content)
        for name, content in (also or {}).items():
            made.writestr(names[0].partition("/")[0] + "/" + name, content)
    return new


def in_json(change: Callable[[Any], None]) -> Callable[[bytes], bytes]:
    def run(content: bytes) -> bytes:
        value = json.loads(content)
        change(value)
        return json.dumps(value).encode()

    return run


def at(value: Any, name: str) -> list[dict[str, Any]]:
    """Every table below `value` that has the key `name`."""
    found = [value] if isinstance(value, dict) and name in value else []
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return found + [t for entry in inner for t in at(entry, name)]


def hostile(file: Path, how: str, mark: Path) -> Path:
    """A .pt2 file that makes the folder `mark` when it is loaded, run, or made a module, by way of `how`."""
    code = f"__import__('os').mkdir({str(mark)!r})"
    pickled = io.BytesIO()
    torch.save({"x": Opened(mark)}, pickled)

    def expression(p: Any) -> None:
        at(p, "expr_str")[0]["expr_str"] = code

    def operator(p: Any) -> None:
        node = at(p, "target")[0]
        node["target"] = "torch.os.mkdir"
        node["inputs"] = [{"name": "path", "arg": {"as_string": str(mark)}, "kind": 1}]

    def tree(p: Any) -> None:
        (mark.parent / "trap.py").write_text(f"f = dict\n{code}\n")
        context = {"default_factory_module": "trap", "default_factory_name": "f", "dict_context": []}
        spec = {"type": "collections.defaultdict", "context": context, "children_spec": []}
        for signature in at(p, "out_spec"):
            signature["out_spec"] = json.dumps([1, spec])

    def argument(p: Any) -> None:
        for signature in at(p, "forward_arg_names"):
            signature["forward_arg_names"] = [f"x, y={code}.x"]

    def guard(p: Any) -> None:
        p["guards_code"] = [code + " is None"]

    def weight(config: Any) -> None:
        next(iter(config["config"].values())).update(use_pickle=True, path_name="weight_9")

    def constant(config: Any) -> None:
        config["config"]["c"] = {
            "path_name": "opaque_obj_0",
            "is_param": False,
            "use_pickle": True,
            "tensor_meta": None,
        }

    in_program = {"expression": expression, "operator": operator, "tree": tree, "argument": argument, "guard": guard}
    if how in in_program:
        return changed(file, {"models/model.json": in_json(in_program[how])})
    if how == "weight":
        return changed(
            file, {"model_weights_config.json": in_json(weight)}, {"data/weights/weight_9": pickled.getvalue()}
        )
    if how == "constant":
        return changed(file, {"model_constants_config.json": in_json(constant)},
                       {"data/constants/opaque_obj_0": pickle.dumps(Opened(mark))})  # fmt: skip
    assert how == "inputs"
    return changed(file, {"sample_inputs/model.pt": lambda _: pickled.getvalue()})


WAYS = ("expression", "operator", "tree", "argument", "guard", "weight", "constant", "inputs")


def bare(file: Path) -> None:
    """Load and run a file as PyTorch does, in a process of its own: a hostile one may do anything."""
    script = (
        "import torch, sys; sys.path.insert(0, sys.argv[2]); program = torch.export.load(sys.argv[1]).module(); "
        "program(torch.zeros(2, 4))"
    )
    subprocess.run([sys.executable, "-c", script, str(file), str(file.parent)], capture_output=True, check=False)


@pytest.mark.nightly
@pytest.mark.parametrize("how", [w for w in WAYS if w not in ("operator", "argument")])
def test_the_bare_loader_runs_it(program: Path, tmp_path: Path, how: str) -> None:
    """PyTorch 2.13 verifies operators itself, and an argument's name must also stand in a list; those two do not."""
    bare(hostile(program, how, tmp_path / "mark"))
    assert (tmp_path / "mark").exists()


@pytest.mark.parametrize("how", [w for w in WAYS if w != "guard"])
def test_a_hostile_program_is_refused_in_one_line(program: Path, tmp_path: Path, how: str) -> None:
    file = hostile(program, how, tmp_path / "mark")
    with pytest.raises(ParityError, match=r"^hostile\.pt2: would run code when loaded \(.*\); refused") as refusal:
        open_program(file)
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "mark").exists()


def test_guards_of_a_file_are_not_compiled(program: Path, tmp_path: Path) -> None:
    module = open_program(hostile(program, "guard", tmp_path / "mark")).module(check_guards=False)
    module(torch.zeros(2, 4))
    assert not (tmp_path / "mark").exists()


def test_an_honest_program_loads_and_keeps_its_bounds(program: Path) -> None:
    module = open_program(program).module(check_guards=False)
    assert set(module(torch.zeros(3, 4))) == {"y", "z"}
    with pytest.raises(RuntimeError):
        module(torch.zeros(9, 4))


def save_script(path: Path, loads: bool) -> Path:
    class Writer(torch.nn.Module):
        def __init__(self, file: str):
            super().__init__()
            self.file = file

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            torch.save(x, self.file)
            return x

    torch.jit.save(torch.jit.script(Writer(str(path.with_name("mark")))), path)
    return path


def test_a_script_that_writes_files_is_refused(tmp_path: Path) -> None:
    file = save_script(tmp_path / "script.pt", False)
    torch.jit.load(file)(torch.zeros(1))
    assert (tmp_path / "mark").exists(), "the bare loader's module writes it"
    with pytest.raises(ParityError, match=r"script\.pt: would run code when loaded .*'save'.*refused"):
        open_script(file)


def test_an_honest_script_loads(tmp_path: Path) -> None:
    traced = torch.jit.trace(Small().eval(), torch.zeros(2, 4), strict=False)
    torch.jit.save(traced, tmp_path / "honest.pt")
    x = torch.ones(2, 4)
    assert torch.equal(open_script(tmp_path / "honest.pt")(x)["z"], traced(x)["z"])


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"not an archive", b"\x80\x02K\x01."])
def test_damaged_files_are_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "damaged.pt2").write_bytes(content)
    for opener in (open_program, open_script):
        with pytest.raises(ParityError, match=r"^damaged\.pt2: "):
            opener(tmp_path / "damaged.pt2")


def test_a_checkpoint_is_no_script(tmp_path: Path) -> None:
    torch.save(Small().state_dict(), tmp_path / "weights.pt")
    with pytest.raises(ParityError, match=r"weights\.pt: a checkpoint, not a TorchScript module"):
        open_script(tmp_path / "weights.pt")
