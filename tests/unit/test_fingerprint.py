"""The fingerprint of a model moves with all that the model computes with, and nothing else."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from parity.core.settings import ModelSpec  # noqa: E402
from parity.reference import modelling, provenance  # noqa: E402

REPOSITORY = Path(__file__).parents[2]
MODULES = ("subject", "values", "helper", "acts", "acts.gate", "acts.curve")

VALUES = """
import json
from pathlib import Path

V = json.loads((Path(__file__).parent / "value.json").read_text())
"""

HELPER = """
from values import V

SCALE = 1.0 * V
def scale(x): return x * SCALE
def one(x): return x
def two(x): return x + x

def chain(length):
    held = None
    for number in range(length):
        held = [held, number]
    return held
"""

NET = """
import argparse, collections, dataclasses, enum, functools, operator, os, types
import numpy as np, torch
import torch.nn.functional as F
from torch import nn
import helper
from values import V

@dataclasses.dataclass
class Settings:
    scale: float = 1.0

class Config:
    def __init__(self, **kw):
        self.__dict__.update(kw)

class Slotted:
    __slots__ = ("scale",)
    def __init__(self, scale):
        self.scale = scale

class Refuses:
    __slots__ = ("gone",)
    def __getattr__(self, name):
        raise OSError(f"{id(self)}")

class Size(enum.Enum):
    SMALL = 1
    LARGE = 2

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)
        {statement}
    def scaled(self, x):
        return x * self.by
    def forward(self, x):
        return {result}

def times(by):
    def multiply(x):
        return x * by
    return multiply

def make():
    torch.manual_seed(0)
    return Net()
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project whose source stays the same while the value that it reads changes."""
    project = tmp_path / "project"
    project.mkdir()
    (project / "values.py").write_text(VALUES)
    (project / "helper.py").write_text(HELPER)
    monkeypatch.syspath_prepend(str(project))
    monkeypatch.setattr(modelling, "_loaded", {})
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield project
    _forget()


def _forget() -> None:
    for name in MODULES:
        sys.modules.pop(name, None)
    for name in ("_distributions", "_folder_digest"):
        getattr(getattr(provenance, name, None), "cache_clear", lambda: None)()
    importlib.invalidate_caches()
    modelling._loaded.clear()


def fingerprint(root: Path, value: Any = 1) -> dict[str, str]:
    """As a fresh child would compute it, with `value` in the file that the model reads."""
    _forget()
    (root / "value.json").write_text(json.dumps(value))
    spec = ModelSpec(str(root), "subject:make")
    return modelling.fingerprint(spec)


def write(root: Path, statement: str, result: str = "self.layer(x)") -> None:
    text = NET.replace("{statement}", statement).replace("{result}", result)
    (root / "subject.py").write_text(text)


HELD = {
    "a dict": "self.cfg = {'scale': V}",
    "a dict in a list in a dict": "self.cfg = {'a': [{'b': (1, {'c': V})}]}",
    "a private number": "self._scale = V",
    "a private dict": "self._cfg = {'scale': V}",
    "an object of a class of its own": "self.cfg = Config(inner=Config(scale=V))",
    "an object with slots": "self.cfg = Slotted(V)",
    "a dataclass": "self.cfg = Settings(V)",
    "a namespace": "self.cfg = types.SimpleNamespace(scale=V)",
    "parsed arguments": "self.cfg = argparse.Namespace(scale=V)",
    "a named tuple": "self.cfg = collections.namedtuple('Pair', 'a b')(1, [V])",
    "an ordered dict": "self.cfg = collections.OrderedDict(scale=V)",
    "a set": "self.cfg = {'a', V}",
    "a member of an enumeration": "self.cfg = Size(V)",
    "a NumPy array": "self.table = np.full(5, V)",
    "a NumPy array of objects": "self.table = np.array([{'a': V}, None], dtype=object)",
    "a NumPy number": "self.table = np.float32(V)",
    "a tensor that is no parameter": "self.table = torch.full((5,), float(V))",
    "a tensor in a list": "self.table = [torch.full((5,), float(V))]",
    "a sparse tensor": "self.table = torch.full((5,), float(V)).to_sparse()",
    "a function of torch": "self.act = F.relu if V == 1 else F.gelu",
    "a builtin of torch": "self.act = torch.relu if V == 1 else torch.tanh",
    "an operator of torch": "self.act = torch.ops.aten.relu if V == 1 else torch.ops.aten.tanh",
    "a pooling function": "self.act = F.max_pool2d if V == 1 else F.max_pool1d",
    "a function's closure": "self.act = times(V)",
    "a lambda's closure": "self.act = lambda x: x * by; by = V",
    "a lambda's code": "self.act = (lambda x: x * 2) if V == 1 else (lambda x: x * 3)",
    "a function's defaults": "self.act = lambda x, by=V: x * by",
    "a function's keyword defaults": "self.act = lambda x, *, by=V: x * by",
    "a function's attribute": "self.act = times(1); self.act.by = V",
    "a partial": "self.act = functools.partial(torch.mul, other=V)",
    "a bound method": "self.act = Config(by=V).__getattribute__",
    "a getter": "self.act = operator.itemgetter(V)",
    "a memoised function": "self.act = functools.lru_cache(times(V))",
    "a hook": "self.layer.register_forward_hook(lambda *_, by=V: None)",
    "a list of modules that are not registered": "self.parts = [torch.nn.Dropout(V / 10)]",
    "an attribute of a layer inside": "self.layer._cfg = {'scale': V}",
    "a script": "self.inner = torch.jit.script(nn.Sequential(nn.ReLU() if V == 1 else nn.Tanh()))",
    "a script's constant": "self.inner = torch.jit.trace(times(torch.ones(1) * V), torch.ones(1))",
    "a scripted function": "self.inner = torch.jit.script(helper.one if V == 1 else helper.two)",
    "a class attribute": "type(self).scale = {'a': V}",
    "a generic cycle": "self.cfg = {'self': self, 'scale': V}; self.cfg['again'] = self.cfg",
}


@pytest.mark.parametrize("held", HELD)
def test_what_a_module_holds_is_part_of_its_fingerprint(root: Path, held: str) -> None:
    write(root, HELD[held])
    first = fingerprint(root, 1)
    assert fingerprint(root, 2) != first
    assert fingerprint(root, 1) == first


@pytest.mark.parametrize(
    "result",
    [
        "self.layer(x) * V",
        "self.layer(x) * helper.SCALE",
        "helper.scale(self.layer(x))",
        "[self.layer(x) * V for _ in range(1)][0]",
    ],
)
def test_globals_that_its_functions_read_are_part_of_it(root: Path, result: str) -> None:
    write(root, "pass", result)
    assert fingerprint(root, 1) != fingerprint(root, 2)


def test_the_environment_that_it_read_is_part(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(root, "self._cfg = {'scale': float(os.environ['SCALE'])}")
    monkeypatch.setenv("SCALE", "1.5")
    first = fingerprint(root)
    monkeypatch.setenv("SCALE", "2.5")
    assert fingerprint(root) != first


def test_the_rest_of_the_environment_is_not(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(root, "pass", "self.layer(x) * float(os.environ.get('SCALE', 1))")
    first = fingerprint(root)
    monkeypatch.setenv("NOBODY_READS", "2.5")
    assert fingerprint(root) == first


# Code from elsewhere.

ACTIVATIONS = """
import torch
from acts import curve

class Act(torch.nn.Module):
    def forward(self, x):
        return curve.bend(torch.relu(x))
"""


def package(folder: Path, version: str = "") -> None:
    """The package `acts` in a folder; with a version, as an installed distribution."""
    (folder / "acts").mkdir(parents=True)
    (folder / "acts" / "__init__.py").write_text("")
    (folder / "acts" / "gate.py").write_text(ACTIVATIONS)
    (folder / "acts" / "curve.py").write_text("def bend(x): return x\n")
    (folder / "bystander.py").write_text("")
    if version:
        released(folder, version)


def released(folder: Path, version: str) -> None:
    for old in folder.glob("acts_of_others-*"):
        old.rename(folder.parent / f"{old.name}.old")
    info = folder / f"acts_of_others-{version}.dist-info"
    info.mkdir()
    about = f"Metadata-Version: 2.1\nName: acts-of-others\nVersion: {version}\n"
    (info / "METADATA").write_text(about)
    (info / "top_level.txt").write_text("acts\n")


@pytest.fixture(params=["elsewhere", "site-packages"])
def place(request: pytest.FixtureRequest, root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder outside the project that holds a package, and a project that uses it."""
    folder = root.parent / str(request.param)
    package(folder, "1.0")
    monkeypatch.syspath_prepend(str(folder))
    write(root, "from acts.gate import Act; self.act = Act()", "self.act(self.layer(x))")
    return folder


def test_a_class_from_outside_the_project_is_part_of_it(root: Path, place: Path) -> None:
    first = fingerprint(root)
    gate = place / "acts" / "gate.py"
    gate.write_text(gate.read_text().replace("relu", "nn.functional.gelu"))
    assert fingerprint(root)["source"] != first["source"]


def test_what_such_a_class_imports_is_part_of_it(root: Path, place: Path) -> None:
    first = fingerprint(root)
    (place / "acts" / "curve.py").write_text("def bend(x): return x + 1\n")
    assert fingerprint(root)["source"] != first["source"]


def test_the_version_of_its_distribution_is_part_of_it(root: Path, place: Path) -> None:
    first = fingerprint(root)
    released(place, "1.1")
    second = fingerprint(root)
    assert (first["package acts-of-others"], second["package acts-of-others"]) == ("1.0", "1.1")
    assert first["source"] == second["source"]


def test_a_file_beside_such_a_package_is_no_part_of_it(root: Path, place: Path) -> None:
    first = fingerprint(root)
    (place / "bystander.py").write_text("X = 1\n")
    assert fingerprint(root) == first


def test_torch_is_part_of_it_by_its_version(root: Path) -> None:
    write(root, "pass")
    assert fingerprint(root)["package torch"] == torch.__version__


# What must not move it.

RESTLESS = {
    "an object that refuses": "self.thing = Refuses()",
    "an object": "self.thing = object()",
    "a lock": "import threading as t; self.thing = [t.Lock(), t.RLock(), t.local()]",
    "an open file": "self.thing = open(os.devnull)",
    "a logger": "import logging; self.thing = logging.getLogger('x')",
    "a weak reference": "import weakref; self.thing = weakref.ref(self.layer)",
    "a random generator": "import random; self.thing = random.Random()",
    "a random generator of NumPy": "self.thing = np.random.default_rng()",
    "a random generator of torch": "self.thing = torch.Generator()",
    "a handle of a hook": "self.thing = self.layer.register_forward_hook(print)",
    "the environment": "self.thing = os.environ",
    "an iterator": "self.thing = iter([object()])",
    "a tuple with an object": "self.thing = (1, object())",
    "a set of objects": "self.thing = {'a', 'b', 'c', len, Config, None}",
}


@pytest.mark.parametrize("thing", RESTLESS)
def test_what_has_no_data_to_show_does_not_move_it(root: Path, thing: str) -> None:
    write(root, RESTLESS[thing])
    first = fingerprint(root)
    torch.nn.Linear(1, 1).register_forward_hook(print)  # hooks are numbered through a process
    assert fingerprint(root) == first


def test_a_module_that_ran_has_the_fingerprint_that_it_had_before(root: Path) -> None:
    write(root, "self.last = None", "setattr(self, 'last', self.layer(x)) or self.last")
    first = fingerprint(root)
    spec = ModelSpec(str(root), "subject:make")
    modelling.load(spec)(torch.ones(1, 2))
    assert modelling.load(spec).last is not None
    assert modelling.fingerprint(spec) == first


ALL_MODELS = """
import json, sys
import torch
from torch import nn
from parity.core.settings import Config
from parity.reference import description, modelling
from parity.session import project
from parity.session.session import Session

torch.manual_seed(0)
layers = nn.ModuleList([
    nn.Conv2d(2, 2, 3),
    nn.BatchNorm2d(2),
    nn.GRU(2, 2),
    nn.MultiheadAttention(4, 2),
    nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2), 1),
    nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)),
    nn.utils.spectral_norm(nn.Linear(2, 2)),
    torch.fx.symbolic_trace(nn.Sequential(nn.Linear(2, 2), nn.GELU())),
    torch.jit.script(nn.Linear(2, 2)),
])
layers[0].register_forward_hook(lambda *_: None)
layers[0].register_forward_pre_hook(print)
layers[1].words = {"c", "a", "b"}
config = project.here()
session = Session(config, "run")
specs = {name: session.model_spec(model) for name, model in config.models.items()}
found = {name: modelling.fingerprint(spec) for name, spec in specs.items()}
print(json.dumps([found, description.describe(layers, config.root).digest]))
"""


def test_every_model_has_the_same_fingerprint_in_every_process(tmp_path: Path) -> None:
    """The models of this repository, and PyTorch's own layers with hooks and parametrisations."""
    said = []
    for seed in ("1", "2"):
        env = {**os.environ, "PYTHONHASHSEED": seed, "XDG_CACHE_HOME": str(tmp_path)}
        env["PYTHONPATH"] = str(REPOSITORY)
        command = [sys.executable, "-c", ALL_MODELS]
        said.append(json.loads(subprocess.check_output(command, cwd=REPOSITORY, env=env)))
    assert said[0] == said[1]
    assert len(said[0][0]) > 5


def test_a_long_table_costs_little(root: Path) -> None:
    """A list of numbers is one object, and a chain longer than Python recurses is no trouble."""
    write(root, "self.table = list(range(200_000)); self.chain = helper.chain(5000)")
    assert fingerprint(root) == fingerprint(root)
