"""PyTorch's own files never run what somebody put into them. Each hostile file was seen to run its code with the bare
loader; each honest one loads."""

import contextlib
import inspect
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

torch = pytest.importorskip("torch")

from parity.core.errors import ParityError  # noqa: E402
from parity.files.torch_archives import module_of, open_program, open_script  # noqa: E402

FLAT = "serialized_exported_program.json"
HERE = "written here"
WRITTEN = {"2.6": Path(__file__).with_name("programs") / "torch-2.6.pt2",
           "2.8": Path(__file__).with_name("programs") / "torch-2.8.pt2"}  # fmt: skip
"""The program of `program`, by the first versions of each older layout."""


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


def release(version: str) -> tuple[int, ...]:
    return tuple(int(n) for n in version.split(".")[:2])


@pytest.fixture(params=[HERE, *WRITTEN])
def program(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A .pt2 file of each layout that this PyTorch can read."""
    if request.param != HERE:
        if release(request.param) > release(torch.__version__):
            pytest.skip(f"PyTorch {torch.__version__} cannot read a file of {request.param}")
        return Path(shutil.copy(WRITTEN[request.param], tmp_path / "honest.pt2"))
    rows = torch.export.Dim("batch", min=2, max=8)
    exported = torch.export.export(Small().eval(), (torch.zeros(2, 4),), dynamic_shapes=({0: rows},), strict=False)
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


def program_record(file: Path) -> str:
    """The record of a .pt2 file that holds the program: one without a folder up to PyTorch 2.7."""
    return FLAT if FLAT in zipfile.ZipFile(file).namelist() else "models/model.json"


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

    def reads(p: Any) -> None:
        at(p, "target")[0]["target"] = "torch.ops.aten.from_file.default"

    in_program = {
        "an operator on files": reads,
        "expression": expression,
        "operator": operator,
        "tree": tree,
        "argument": argument,
        "guard": guard,
    }
    if how in in_program:
        return changed(file, {program_record(file): in_json(in_program[how])})
    tables = any(name.endswith("_config.json") for name in zipfile.ZipFile(file).namelist())
    if how in ("weight", "absolute path", "constant") and not tables:
        pytest.skip("this layout has no tables of weights and constants")
    if how == "weight":
        return changed(
            file, {"model_weights_config.json": in_json(weight)}, {"data/weights/weight_9": pickled.getvalue()}
        )
    if how == "absolute path":  # os.path.join drops the folder before it

        def outside(config: Any) -> None:
            next(iter(config["config"].values())).update(use_pickle=True, path_name="/weight_9")

        good = io.BytesIO()
        torch.save(torch.zeros(1), good)
        records = {"/weight_9": pickled.getvalue(), "data/weights//weight_9": good.getvalue()}
        return changed(file, {"model_weights_config.json": in_json(outside)}, records)
    if how == "compiled code":
        return changed(file, {}, {"data/aotinductor/model/a.so": b""})
    if how == "constant":
        return changed(file, {"model_constants_config.json": in_json(constant)},
                       {"data/constants/opaque_obj_0": pickle.dumps(Opened(mark))})  # fmt: skip
    assert how == "inputs"
    record = "serialized_example_inputs.pt" if program_record(file) == FLAT else "sample_inputs/model.pt"
    return changed(file, {record: lambda _: pickled.getvalue()})


WAYS = (
    "expression",
    "operator",
    "tree",
    "argument",
    "guard",
    "weight",
    "constant",
    "inputs",
    "absolute path",
    "compiled code",
    "an operator on files",
)


def bare(file: Path) -> None:
    """Load and run a file as PyTorch does, in a process of its own: a hostile one may do anything."""
    script = (
        "import torch, sys; sys.path.insert(0, sys.argv[2]); program = torch.export.load(sys.argv[1]).module(); "
        "program(torch.zeros(2, 4))"
    )
    subprocess.run([sys.executable, "-c", script, str(file), str(file.parent)], capture_output=True, check=False)


NOT_SEEN = ("operator", "argument", "compiled code", "an operator on files")


@pytest.mark.nightly
@pytest.mark.parametrize("how", [w for w in WAYS if w not in NOT_SEEN])
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
    if "check_guards" not in inspect.signature(torch.export.ExportedProgram.module).parameters:
        pytest.skip("this PyTorch knows no guards in a file")
    module = module_of(open_program(hostile(program, "guard", tmp_path / "mark")))
    module(torch.zeros(2, 4))
    assert not (tmp_path / "mark").exists()


def test_an_honest_program_loads_and_keeps_its_bounds(program: Path) -> None:
    module = module_of(open_program(program))
    assert set(module(torch.zeros(3, 4))) == {"y", "z"}
    with pytest.raises(RuntimeError):
        module(torch.zeros(9, 4))


def test_two_records_of_one_name_are_refused(tmp_path: Path) -> None:
    """Loaders take the first or the last of them, so that what was checked need not be what is loaded."""
    file = Path(shutil.copy(WRITTEN["2.6"], tmp_path / "twice.pt2"))
    with zipfile.ZipFile(file, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("serialized_state_dict.pt", b"")
    with pytest.raises(ParityError, match=r"twice\.pt2: holds two members of one name"):
        open_program(file)


def test_a_file_that_lacks_a_record_is_damaged(tmp_path: Path) -> None:
    with zipfile.ZipFile(WRITTEN["2.6"]) as old, zipfile.ZipFile(tmp_path / "short.pt2", "w") as made:
        for name in old.namelist()[:-1]:
            made.writestr(name, old.read(name))
    with pytest.raises(ParityError, match=r"short\.pt2: damaged: it has no record version"):
        open_program(tmp_path / "short.pt2")


def test_a_file_that_this_pytorch_cannot_read_names_the_one_that_wrote_it(program: Path) -> None:
    def newer(p: Any) -> None:
        p["torch_version"] = "9.1.0"
        at(p, "target")[0]["inputs"] = [{"arg": {"as_future": 1}, "name": "x", "kind": 1}]

    record = program_record(program)
    with pytest.raises(ParityError, match=r"hostile\.pt2: written by PyTorch 9\.1\.0; torch.export.load of"):
        open_program(changed(program, {record: in_json(newer)}))


class Counter(torch.nn.Module):
    """A module that the hostile scripts are made of: it has a default value, a constant and a method."""

    scale: Final[int]

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.scale = torch.nn.Linear(2, 2), 2

    def forward(self, x: torch.Tensor, times: int = 3) -> torch.Tensor:
        return self.layer(x) * self.scale * times


FORWARD, DEFAULT, CONSTANT = b"    layer = self.layer", b"times: int=3", b"scale : Final[int] = 2"
STATE = b"""  def __getstate__(self: __torch__.%s.Counter) -> Any:
    return 0
  def __setstate__(self: __torch__.%s.Counter, state: Any) -> NoneType:
    SAVE
  def forward"""
SAVE = b'torch.save("text", "%s")'
SCRIPTS = {
    "named": (FORWARD, b"    SAVE\n" + FORWARD),
    "by getattr": (FORWARD, b'    getattr(torch, "sa" "ve")("text", "%s")\n' + FORWARD),
    "behind a comment": (FORWARD, b'    n = len([torch. # here\n      save("text", "%s")])\n' + FORWARD),
    "by another name": (FORWARD, b'    t = torch\n    t.save("text", "%s")\n' + FORWARD),
    "mapped": (FORWARD, b'    x = torch.add(x, torch.from_file("%s", True, 2))\n' + FORWARD),
    "default": (DEFAULT, DEFAULT + b", more: List[int]=[len([SAVE])]"),
    "constant": (CONSTANT, b"scale : Final[int] = len([SAVE])"),
    "state": (b"  def forward", STATE),
    "type comment": (FORWARD, b"    # type: (int, int=len([SAVE])) -> int\n" + FORWARD),
}


def script(path: Path, how: str, mark: Path) -> Path:
    """A TorchScript file that writes `mark` when it is loaded or run, by way of `how`."""
    torch.jit.save(torch.jit.script(Counter()), path)
    old, new = SCRIPTS[how]
    package = __name__.encode()
    new = new.replace(b"SAVE", SAVE).replace(b"__torch__.%s", b"__torch__." + package)
    made = changed(path, {"test_torch_archives.py": lambda text: text.replace(old, new.replace(b"%s", bytes(mark)))})
    assert made.read_bytes() != path.read_bytes()
    return made


@pytest.mark.parametrize("how", SCRIPTS)
def test_a_script_that_does_more_than_compute_is_refused_before_it_does(tmp_path: Path, how: str) -> None:
    mark = tmp_path / "mark"
    file = script(tmp_path / "script.pt", how, mark)
    with pytest.raises(ParityError, match=r"^hostile\.pt: would run code when loaded .*; refused") as refusal:
        open_script(file)
    assert "\n" not in str(refusal.value)
    assert not mark.exists()


@pytest.mark.parametrize("how", [h for h in SCRIPTS if h not in ("constant", "type comment")])
def test_the_bare_loader_writes_the_file(tmp_path: Path, how: str) -> None:
    """When it loads the script, or when it runs it. The refusals above are of what was seen to happen."""
    mark = tmp_path / "mark"
    file = script(tmp_path / "script.pt", how, mark)
    with contextlib.suppress(RuntimeError):
        torch.jit.load(file)(torch.zeros(1, 2))
    assert mark.exists()


def test_constants_that_are_objects_are_refused(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(Counter()), tmp_path / "script.pt")
    file = changed(tmp_path / "script.pt", {"constants.pkl": lambda _: b"\x80\x02(c__torch__\nX\n)\x81}bt."})
    with pytest.raises(ParityError, match="its constants are objects"):
        open_script(file)


def test_objects_of_foreign_cpp_classes_are_refused(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(Counter()), tmp_path / "script.pt")
    pickled = b"\x80\x02c__torch__.torch.classes.c10d\nFileStore\n)\x81}b."
    with pytest.raises(ParityError, match=r"object of the C\+\+ class c10d\.FileStore"):
        open_script(changed(tmp_path / "script.pt", {"data.pkl": lambda _: pickled}))


class Pair(NamedTuple):
    left: torch.Tensor
    right: torch.Tensor


class Kind(Enum):
    ADD = 1
    SUBTRACT = 2


class Everything(torch.nn.Module):
    """What scripted modules are made of, besides tensors."""

    bound: Final[float]

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.gru = torch.nn.LSTM(4, 4, batch_first=True), torch.nn.GRU(4, 4, bidirectional=True)
        self.blocks = torch.nn.ModuleList([torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)])
        self.by_name = torch.nn.ModuleDict({"a": torch.nn.PReLU()})
        self.encoder = torch.nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
        self.kind, self.bound, self.sizes = Kind.ADD, float("inf"), {"a": 1}

    def forward(self, x: torch.Tensor, mode: str = "nearest", scale: float | None = None) -> dict[str, torch.Tensor]:
        if x.dim() != 3:
            raise ValueError(f"expected 3 axes, got {x.dim()}: {list(x.shape)}")
        state: tuple[torch.Tensor, torch.Tensor] | None = None
        for _ in range(2):
            x, state = self.lstm(x, state)
        y = self.gru(x)[0]
        for block in self.blocks:
            x = block(x).clamp(max=self.bound)
        pair = self.split(torch.einsum("bij->bi", x).div(3, rounding_mode="floor"))
        later = torch.jit.fork(torch.relu, x)
        if self.kind == Kind.SUBTRACT:
            y = -y
        with torch.no_grad():
            x = self.encoder(torch.nn.functional.gelu(x, approximate="tanh"))
        names = [name.upper() for name in ["a", "b"]]
        assert "A" in names, "names"
        up = torch.nn.functional.interpolate(x, scale_factor=2.0, mode=mode)
        return {names[0]: pair.left, "b": self.by_name["a"](up), "c": torch.jit.wait(later), "d": y + self.sizes["a"]}

    def split(self, x: torch.Tensor) -> Pair:
        return Pair(x, torch.full_like(x, 0.5))


def quantised() -> Any:
    torch.backends.quantized.engine = "fbgemm"
    net = torch.ao.quantization.QuantWrapper(torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), torch.nn.ReLU())).eval()
    net.qconfig = torch.ao.quantization.get_default_qconfig("fbgemm")
    torch.ao.quantization.prepare(net, inplace=True)(torch.rand(1, 1, 4, 4))
    return torch.ao.quantization.convert(net)


def dynamic() -> Any:
    net = torch.nn.ModuleList([torch.nn.LSTM(4, 4), torch.nn.Linear(4, 4)])

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.head = net

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.lstm(x)[0])

    return torch.ao.quantization.quantize_dynamic(Net().eval(), {torch.nn.LSTM, torch.nn.Linear})


def test_an_honest_script_loads(tmp_path: Path) -> None:
    traced = torch.jit.trace(Small().eval(), torch.zeros(2, 4), strict=False)
    torch.jit.save(traced, tmp_path / "honest.pt")
    x = torch.ones(2, 4)
    assert torch.equal(open_script(tmp_path / "honest.pt")(x)["z"], traced(x)["z"])


HONEST = {
    "scripted": (lambda: torch.jit.script(Everything().eval()), (1, 5, 4)),
    "frozen": (lambda: torch.jit.freeze(torch.jit.script(Everything().eval())), (1, 5, 4)),
    "quantised": (lambda: torch.jit.script(quantised()), (1, 1, 4, 4)),
    "quantised, frozen": (lambda: torch.jit.freeze(torch.jit.script(quantised())), (1, 1, 4, 4)),
    "quantised, traced": (lambda: torch.jit.trace(quantised(), torch.rand(1, 1, 4, 4)), (1, 1, 4, 4)),
    "dynamic": (lambda: torch.jit.script(dynamic()), (1, 5, 4)),
    "transformer": (lambda: torch.jit.script(torch.nn.TransformerEncoder(torch.nn.TransformerEncoderLayer(8, 2, 16), 2)
                                             .eval()), (5, 1, 8)),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", HONEST)
def test_honest_scripts_of_every_kind_load_and_compute_the_same(tmp_path: Path, name: str) -> None:
    make, shape = HONEST[name]
    torch.manual_seed(0)
    made = make()
    torch.jit.save(made, tmp_path / "honest.pt")
    opened, x = open_script(tmp_path / "honest.pt"), torch.rand(shape)
    got, want = opened(x), made(x)
    for one, other in zip(*(list(y.values()) if isinstance(y, dict) else [y] for y in (got, want)), strict=True):
        assert torch.equal(one, other)


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
