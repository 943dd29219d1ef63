"""What an app may take of a TorchScript file or an ExportedProgram otherwise than it is measured: its other methods,
what it does to the memory of its inputs, and the class names in its extra files."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import nn

from parity import config as configuration
from parity import formats as targets
from parity import suite
from parity.core.plan import Cell
from parity.core.record import Check
from parity.formats.labels import of_metadata
from parity.session.session import Session
from parity.store.cache import Store
from parity.suite.check_kind import CheckContext
from parity.suite.recorder import Recorder

CONFIG = """
[tool.parity]
targets = ["{target}"]
precisions = ["fp32"]
[tool.parity.models.net]
factory = "{factory}"
inputs = [{{ name = "x", shape = [1, 4] }}]
outputs = [{{ name = "y", kind = "logits", labels = "labels.txt" }}]
artifacts = {{ "{target}-fp32" = "net.pt" }}
"""


class Plain(nn.Module):
    """x [1, 4] -> [1, 3]."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.out = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(x)


class Overwriting(Plain):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.out(x)
        x.mul_(0)
        return y


class InPlaceFirst(Plain):
    """Begins with an activation in place, as many modules do."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.relu_(x))


class Methods(Plain):
    """`forward` calls a helper; `predict` is another way into the file."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.features(x)

    @torch.jit.export
    def features(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(x)

    @torch.jit.export
    def _inner(self, x: torch.Tensor) -> torch.Tensor:
        return x

    @torch.jit.export
    def predict(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(x) * 2


def halved(module: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
    return output / 2


def passing(module: nn.Module, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
    return inputs


class Hooked(Plain):
    """An inner module has a hook, which TorchScript compiles into `forward`; the outermost one too where `outer`."""

    def __init__(self, outer: str = "") -> None:
        super().__init__()
        self.inner = nn.Identity()
        self.inner.register_forward_hook(halved)
        if outer == "hook":
            self.register_forward_hook(halved)
        if outer == "pre-hook":
            self.register_forward_pre_hook(passing)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(self.out(x))


class Moded(Plain):
    """Computes something else after `eval()`, in an inner module."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Mode()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(self.out(x))


class Mode(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if self.training else x * 2


class Classes(Plain):
    """Holds its class names as an attribute."""

    def __init__(self, names: list[str]) -> None:
        super().__init__()
        self.classes = names


class Fields(NamedTuple):
    z: torch.Tensor
    y: torch.Tensor


class Sides(nn.Module):
    """p, q [1, 4] -> y, z [1, 4]."""

    def forward(self, p: torch.Tensor, q: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return p * 2, q * 3


class ExchangedArguments(nn.Module):
    def forward(self, q: torch.Tensor, p: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return q * 2, p * 3


class ExchangedFields(nn.Module):
    def forward(self, p: torch.Tensor, q: torch.Tensor) -> Fields:
        return Fields(p * 2, q * 3)


def sides() -> nn.Module:
    return Sides().eval()


def plain() -> nn.Module:
    return Plain().eval()


def in_place_first() -> nn.Module:
    return InPlaceFirst().eval()


def checks(root: Path, module: nn.Module, target: str, *, factory: str = "plain", more: str = "", names: str = "",
           file: str = "config.txt") -> dict[str, Check]:  # fmt: skip
    """The checks of a file's contract, by metric."""
    return contract(root, module, target, factory=factory, more=more, names=names, file=file)[0]


def contract(root: Path, module: nn.Module, target: str, *, factory: str = "plain", more: str = "", names: str = "",
             file: str = "config.txt") -> tuple[dict[str, Check], list[str]]:  # fmt: skip
    """The checks of a file's contract, by metric, and its warnings."""
    extra = {file: names} if names else {}
    text = CONFIG.format(target=target, factory=f"tests.targets.test_torch_interface:{factory}")
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        if target == "torchscript":
            torch.jit.save(torch.jit.script(module.eval()), str(root / "net.pt"), _extra_files=extra)
        else:
            program = torch.export.export(module.eval(), (torch.zeros(1, 4),), strict=False)
            torch.export.save(program, str(root / "net.pt"), extra_files=extra)
    return judged(root, text + more)


def measured(root: Path, text: str) -> dict[str, Check]:
    """The checks of the contract of the file net.pt in a project of the configuration `text`, by metric."""
    return judged(root, text)[0]


def judged(root: Path, text: str) -> tuple[dict[str, Check], list[str]]:
    """The same, and the warnings."""
    target = "exported" if 'targets = ["exported"]' in text else "torchscript"
    (root / "labels.txt").write_text("cat\ndog\nbird\n")
    (root / "pyproject.toml").write_text(text)
    session = Session(configuration.load(root / "pyproject.toml", targets.facts()), "test", store=Store(root / "cache"))
    try:
        cell = Cell("net", target, "fp32")
        recorder = Recorder(cell, "contract")
        suite.contract.run(CheckContext(session.runtime(cell), recorder))
        warned = [finding.text for finding in recorder.findings if finding.level == "warning"]
        return {check.metric: check for check in recorder.checks}, warned
    finally:
        session.close()


@pytest.mark.parametrize("target", ["torchscript", "exported"])
def test_a_file_that_writes_into_its_input_fails_unless_the_module_does(tmp_path: Path, target: str) -> None:
    check = checks(tmp_path, Overwriting(), target)["overwrites"]
    assert not check.passed and "the file writes into this input; the module does not" in check.detail
    assert checks(tmp_path, InPlaceFirst(), target, factory="in_place_first")["overwrites"].passed
    assert "overwrites" not in checks(tmp_path, Plain(), target)


def test_a_second_method_of_a_script_is_measured_or_accepted(tmp_path: Path) -> None:
    check = checks(tmp_path, Methods(), "torchscript")["unmeasured_signatures"]
    assert (check.passed, check.value) == (False, 1) and check.detail.endswith("not measured: signature predict")
    accept = """
    [[tool.parity.accept]]
    cell = "net-torchscript-fp32"
    operator = "signature predict"
    reason = "for another app"
    expires = 2999-01-31
    """
    assert checks(tmp_path, Methods(), "torchscript", more=accept)["unmeasured_signatures"].passed
    assert "unmeasured_signatures" not in checks(tmp_path, Plain(), "torchscript")


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("target", ["torchscript", "exported"])
def test_the_class_names_in_extra_files(tmp_path: Path, target: str, turned: bool) -> None:
    names = ["dog", "cat", "bird"] if turned else ["cat", "dog", "bird"]
    text = json.dumps({"names": dict(enumerate(names)), "task": "classify"})
    assert checks(tmp_path, Plain(), target, names=text)["labels"].passed is not turned
    assert checks(tmp_path, Plain(), target, names="\n".join(names), file="labels.txt")["labels"].passed is not turned


@pytest.mark.parametrize(
    "metadata",
    [
        {"names": "{0: 'a', 1: 'b'}"},
        {"id2label": '{"0": "a", "1": "b"}'},
        {"labels": "a,b"},
        {"Labels": '["a", "b"]'},
        {"class_names": "a, b"},
        {"categories": "['a', 'b']"},
        {"label2id": '{"b": 1, "a": 0}'},
        {"label_map": "{'a': 0, 'b': 1}"},
        {"config": '{"id2label": {"0": "a", "1": "b"}}'},
        {"metadata": '{"names": ["a", "b"]}'},
        {"com.apple.coreml.model.preview.params": '{"labels": ["a", "b"]}'},
    ],
    ids=lambda metadata: next(iter(metadata)),
)
def test_the_keys_by_which_metadata_lists_classes(metadata: dict[str, str]) -> None:
    assert of_metadata(metadata) == ["a", "b"]


@pytest.mark.parametrize(
    "metadata", [{"names": "a model, of two"}, {"categories": "[{'id': 1}]"}, {"config": "5"}, {"label2id": "{'a': 7}"}]
)
def test_what_lists_no_classes_is_left(metadata: dict[str, str]) -> None:
    assert of_metadata(metadata) == []


PLAIN = CONFIG.format(target="torchscript", factory="tests.targets.test_torch_interface:plain")
SIDES = """
[tool.parity]
targets = ["torchscript"]
precisions = ["fp32"]
[tool.parity.models.net]
factory = "tests.targets.test_torch_interface:sides"
inputs = [{ name = "p", shape = [1, 4] }, { name = "q", shape = [1, 4] }]
outputs = [{ name = "y" }, { name = "z" }]
artifacts = { "torchscript-fp32" = "net.pt" }
"""


@pytest.mark.parametrize("outer", ["", "hook", "pre-hook"])
def test_hooks_of_the_outermost_module_are_named(tmp_path: Path, outer: str) -> None:
    """`module(x)` runs them, `module.forward(x)` of a C++ app does not."""
    check = checks(tmp_path, Hooked(outer), "torchscript").get("unmeasured_signatures")
    if not outer:
        assert check is None
    else:
        assert check is not None and not check.passed
        assert check.detail == "measured by signature forward; not measured: signature forward without hooks"


@pytest.mark.parametrize(("module", "training", "named"), [
    (Moded(), True, True), (Moded(), False, False), (Plain(), True, False),
])  # fmt: skip
def test_a_script_in_training_mode_that_reads_it_is_named(
    tmp_path: Path, module: nn.Module, training: bool, named: bool
) -> None:
    torch.jit.script(module.train(training)).save(str(tmp_path / "net.pt"))
    check = measured(tmp_path, PLAIN).get("unmeasured_signatures")
    assert (check is not None) is named
    assert check is None or check.detail.endswith("not measured: signature forward after eval()")


def test_the_program_of_the_mobile_interpreter_is_named(tmp_path: Path) -> None:
    torch.jit.script(plain())._save_for_lite_interpreter(str(tmp_path / "net.pt"))
    check = measured(tmp_path, PLAIN)["unmeasured_signatures"]
    assert (check.passed, check.detail.endswith("not measured: signature bytecode.pkl")) == (False, True)


def test_a_second_program_of_a_pt2_file_is_named(tmp_path: Path) -> None:
    package = pytest.importorskip("torch.export.pt2_archive._package")
    program = torch.export.export(plain(), (torch.zeros(1, 4),))
    package.package_pt2(str(tmp_path / "net.pt2"), exported_programs={"model": program, "other": program})
    (tmp_path / "net.pt2").rename(tmp_path / "net.pt")
    check = measured(tmp_path, PLAIN.replace("torchscript", "exported"))["unmeasured_signatures"]
    assert (check.passed, check.detail) == (False, "measured by signature model; not measured: signature other")


@pytest.mark.parametrize(("module", "detail"), [
    (ExchangedArguments(), "input q is 'p', which is p of the model"),
    (ExchangedFields(), "output z is 'y', which is y of the model"),
])  # fmt: skip
def test_names_of_arguments_and_fields_may_not_be_those_of_others(
    tmp_path: Path, module: nn.Module, detail: str
) -> None:
    torch.jit.script(module).save(str(tmp_path / "net.pt"))
    check = measured(tmp_path, SIDES)["tensor_name"]
    assert not check.passed and check.detail.endswith(detail)
    torch.jit.script(Sides()).save(str(tmp_path / "net.pt"))
    assert "tensor_name" not in measured(tmp_path, SIDES)


class Prefixed(nn.Module):
    def forward(self, in_q: torch.Tensor, in_p: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return in_q * 2, in_p * 3


def test_names_of_others_with_a_prefix_are_a_warning(tmp_path: Path) -> None:
    torch.jit.script(Prefixed()).save(str(tmp_path / "net.pt"))
    found, warned = judged(tmp_path, SIDES)
    assert "tensor_name" not in found
    assert [w for w in warned if "own name of input q is 'in_p', which is made from p of the model" in w]


@pytest.mark.parametrize("module", [ExchangedArguments(), Sides()])
def test_names_of_arguments_of_a_pt2_file_may_not_be_those_of_others(tmp_path: Path, module: nn.Module) -> None:
    program = torch.export.export(module, (torch.zeros(1, 4), torch.zeros(1, 4)))
    torch.export.save(program, str(tmp_path / "net.pt2"))
    (tmp_path / "net.pt2").rename(tmp_path / "net.pt")
    found = measured(tmp_path, SIDES.replace("torchscript", "exported"))
    assert ("tensor_name" in found) is isinstance(module, ExchangedArguments)


@pytest.mark.parametrize("turned", [False, True])
def test_the_class_names_in_an_attribute_of_a_script(tmp_path: Path, turned: bool) -> None:
    """Right names in an extra file do not hide them."""
    module = Classes(["dog", "cat", "bird"] if turned else ["cat", "dog", "bird"])
    text = "cat\ndog\nbird"
    assert checks(tmp_path, module, "torchscript")["labels"].passed is not turned
    assert checks(tmp_path, module, "torchscript", names=text, file="labels.txt")["labels"].passed is not turned


class Elsewhere(Plain):
    """Holds its class names where nobody asks for them by name: in an inner module, or as a constant."""

    __constants__ = ("answers",)

    def __init__(self, names: list[str], inner: bool) -> None:
        super().__init__()
        self.inner = Elsewhere(names, inner=False) if inner else nn.Identity()
        self.words = ["cat", "dog", "bird"] if inner else names
        self.answers = tuple(self.words)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("inner", [False, True])
def test_the_class_names_in_any_attribute_of_a_script(tmp_path: Path, inner: bool, turned: bool) -> None:
    module = Elsewhere(["dog", "cat", "bird"] if turned else ["cat", "dog", "bird"], inner)
    failed = [c for c in checks(tmp_path, module, "torchscript").values() if c.metric == "labels" and not c.passed]
    assert bool(failed) is turned and all("a list in the file has 'dog' at place 0" in check.detail for check in failed)


@pytest.mark.parametrize("turned", [False, True])
def test_a_second_list_of_class_names_beside_the_right_one(tmp_path: Path, turned: bool) -> None:
    names = ["dog", "cat", "bird"] if turned else ["cat", "dog", "bird"]
    text = json.dumps({"names": ["cat", "dog", "bird"], "head": {"vocabulary": [["x"], names]}})
    failed = [c for c in checks(tmp_path, Plain(), "exported", names=text).values() if not c.passed]
    assert [check.metric for check in failed] == ["labels"] * turned


def exchanged_arguments() -> nn.Module:
    return ExchangedArguments().eval()


def test_a_file_made_here_may_have_the_names_of_the_modules_own_arguments(tmp_path: Path) -> None:
    """The contract names them in another order than the module does."""
    config = SIDES.replace('artifacts = { "torchscript-fp32" = "net.pt" }', "").replace(
        ":sides", ":exchanged_arguments"
    )
    result = measured(tmp_path, config)
    assert "tensor_name" not in result and result["repeats"].passed


class Copying(Plain):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.clone()


class Returning(Plain):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :3]


class Unwritten(Plain):
    """Adds a part of a large block that nothing wrote: zeros in a new process."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(x) + torch.nan_to_num(torch.empty([1000003], dtype=torch.float32)[1000:1003])


class Written(Plain):
    """Writes an empty tensor part by part before anything reads it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.out(x)
        whole = torch.empty_like(y)
        whole[:, :2] = y[:, :2]
        whole[:, 2:] = y[:, 2:]
        return whole + x.new_empty([3]).fill_(0.0)


class Racing(Plain):
    """Writes to one place often; one thread keeps the order, in which the right values come last."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.out(x)
        rows = torch.cat([-3.0 * y.expand(1200000, 3), y.expand(400000, 3)])
        places = torch.zeros([1600000], dtype=torch.long)
        return torch.index_put(torch.zeros_like(y), [places], rows)


class Placing(Plain):
    """Writes to many places, to each once."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.out(x)
        return torch.index_put(torch.zeros([400000, 3]), [torch.arange(400000)], y.expand(400000, 3))[:1]


def returning() -> nn.Module:
    return Returning().eval()


def unwritten() -> nn.Module:
    return Unwritten().eval()


@pytest.mark.parametrize("target", ["torchscript", "exported"])
def test_a_file_that_returns_memory_of_its_input_is_warned_of_unless_the_module_does(
    tmp_path: Path, target: str
) -> None:
    _, warned = contract(tmp_path, Returning(), target)
    assert any("lies in the memory of its input x, the module's does not" in text for text in warned), warned
    assert contract(tmp_path, Returning(), target, factory="returning")[1] == []
    assert contract(tmp_path, Copying(), target)[1] == []


@pytest.mark.parametrize("target", ["torchscript", "exported"])
def test_a_file_whose_output_follows_unwritten_memory_fails_unless_the_module_does(tmp_path: Path, target: str) -> None:
    check = checks(tmp_path, Unwritten(), target)["uninitialised"]
    assert not check.passed and "follows memory that nothing wrote; the module's does not" in check.detail
    assert checks(tmp_path, Unwritten(), target, factory="unwritten")["uninitialised"].passed
    assert "uninitialised" not in checks(tmp_path, Written(), target)


@pytest.mark.parametrize("target", ["torchscript", "exported"])
def test_a_file_that_writes_to_one_place_in_no_fixed_order_is_warned_of(tmp_path: Path, target: str) -> None:
    _, warned = contract(tmp_path, Racing(), target)
    assert any("with 4 threads y are not what one thread gives" in text for text in warned), warned
    assert contract(tmp_path, Placing(), target)[1] == []
