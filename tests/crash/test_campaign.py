"""Every stage of a cell, dying in every way: one named cell each, in one run with a healthy one that passes.

The fast part kills a few stages; `-m nightly` all of them in all ways, and prints how many deaths that were.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from parity.store.cache import Store
from tests.crash import sabotage
from tests.crash.sabotage import WAYS
from tests.fuzz.seeds import CORPUS, video
from tests.plugin.tiny_project import Project, Run

pytest_plugins = "pytester"


@dataclass(frozen=True)
class Stage:
    """A call in a child. `advises`: its loss is told in a finding that begins so, and changes no verdict. `without`: so
    begins the warning that the run goes on without it, where it refuses by itself and does not die."""

    call: str
    name: str  # as the record names it
    cell: str = "plain-fp32"
    options: tuple[str, ...] = ()
    advises: str = ""
    env: tuple[tuple[str, str], ...] = ()
    only: str = ""  # a model table's further line
    without: str = ""


PREBUILT = 'artifacts = {{ "onnx-fp32" = {{ path = "made/{name}/{file}", fixed = false }} }}'
STAGES = {
    "fingerprint": Stage("parity.reference.modelling:fingerprint", "export"),
    "export": Stage("plain_target:export", "export"),
    "convert": Stage("plain_target:halve", "convert", "plain-fp16"),
    "load": Stage("parity.formats.serve:open_session", "load"),
    "run": Stage("parity.formats.serve:run", "run"),
    "oracle": Stage("parity.reference.oracle:evaluate", "oracle", options=("-k", "golden")),
    "twin": Stage("parity.reference.twin:evaluate", "twin", options=("-k", "golden"), without="no noise floor"),
    "decode": Stage("parity.cases.video:decode", "decode", only='video = "clips/{name}"', options=("-k", "video")),
    "prove": Stage("parity.proof:prove", "prove", "onnx-fp32", only=PREBUILT, options=("-k", "proof or contract")),
    "faults": Stage("parity.faults.measure:measure", "faults", options=("--parity-power", "-k", "golden")),
    "diagnosis": Stage("parity.faults.diagnose:explain", "diagnosis", options=("-k", "golden"),
                       advises="no diagnosis: ", env=(("PLAIN_RUN", "wrong"),)),
    "divergence": Stage("parity.divergence:locate", "divergence", "onnx-fp32", only=PREBUILT, options=("-k", "golden"),
                        advises="no first divergence: "),
}  # fmt: skip
PICTURED = """
inputs = [{{ name = "x", shape = ["batch", 3, 4, 4], range = [0, 1] }}]
outputs = [{{ name = "logits" }}]
"""
PLAIN = """
inputs = [{{ name = "x", shape = ["batch", 3], range = [-1, 1] }}]
outputs = [{{ name = "logits", kind = "logits", labels = ["a", "b", "c", "d"] }}]
golden = "golden"
"""
HEAD = '[tool.parity]\ntargets = ["{target}"]\nprecisions = ["{precision}"]\nmemory = "600MiB"\ntimeout = 25\n'
FACTORY = """
import torch
from tinynet import tiny as plain

def tiny(tag):
    return plain()

class Flat(torch.nn.Linear):
    def forward(self, x):
        return super().forward(x.flatten(1))

def pictured(tag):
    torch.manual_seed(0)
    return Flat(48, 4)
"""
TAGGED = """
untagged = export
def export(work, model, **rest):  # so that a runtime's calls say whose file they open
    return {**untagged(work=work, model=model, **rest), "tag": model.options["tag"]}
"""
RENAMED = """
def flat(self, inputs):
    return real(self, {"x": inputs["x"].reshape(len(inputs["x"]), -1)})

real = PlainSession.run
PlainSession.run = flat
"""


def arranged(project: Project, stage: Stage, ways: Sequence[str]) -> None:
    """One model a way, and `fine`, which nobody touches."""
    target, _, precision = stage.cell.partition("-")
    film = "clips/" in stage.only
    text = HEAD.format(target=target, precision=precision)
    for name in [f"way_{way}" for way in ways] + ["fine"]:
        tables = (PICTURED if film else PLAIN) + ("\n" + stage.only if stage.only else "")
        factory = "tagged:pictured" if film else "tagged:tiny"
        file = "wrong.onnx" if stage.advises else "tiny.onnx"
        if name == "fine":
            file = "tiny.onnx"
        text += (f'\n[tool.parity.models.{name}]\nfactory = "{factory}"\noptions = {{ tag = "{name}" }}\n'
                 f"properties = {{ examples = 0 }}\n{tables.format(name=name, file=file)}\n")  # fmt: skip
        if film:
            (project.path / "clips" / name).mkdir(parents=True)
            (project.path / "clips" / name / "clip.avi").write_bytes(video(".avi", "MJPG"))
        if target == "onnx":
            _prebuilt(project.path / "made" / name / file)
    project.write("pyproject.toml", text)
    project.write("tagged.py", FACTORY)
    project.add("plain_target.py", TAGGED)
    if film:
        project.add("plain_target.py", RENAMED)
    shutil.copyfile(Path(sabotage.__file__), project.path / "sitecustomize.py")


def _prebuilt(path: Path) -> None:
    """The linear model as an ONNX file; `wrong.onnx` has another bias."""
    import numpy as np
    import onnx
    from onnx import numpy_helper

    model = onnx.load(str(CORPUS / "artefact.onnx"))
    model.graph.output[0].name = model.graph.node[0].output[0] = "logits"
    if path.name == "wrong.onnx":
        model.graph.initializer[1].CopyFrom(numpy_helper.from_array(np.ones(4, np.float32), "b"))
    path.parent.mkdir(parents=True)
    onnx.save(model, str(path))


def named_rightly(run: Run, stage: Stage, ways: Sequence[str], cache: Path) -> None:
    assert run.code == 1 and run.verdict == "fail", run.text
    assert "INTERNALERROR" not in run.text and "Traceback" not in run.result.stderr.str()
    cells = {cell.model: cell for cell in run.record.cells}
    assert len(cells) == len(ways) + 1
    for way in ways:
        cell, (state, reason) = cells[f"way_{way}"], WAYS[way]
        begins = stage.advises or (stage.without if state == "error" else "")
        if begins:
            assert cell.state == ("fail" if stage.advises else "pass"), f"{way}: {cell.state}: {cell.reason}"
            told = next((f.text for f in cell.findings if f.text.startswith(begins)), "nothing")
            assert reason in told and stage.name in told, f"{way}: {told}"
            continue
        assert (cell.state, cell.stage) == (state, stage.name), f"{way}: {cell.state} {cell.stage}: {cell.reason}"
        assert reason in cell.reason and "\n" not in cell.reason, f"{way}: {cell.reason}"
    if not (stage.env and stage.advises):  # an environment that makes every file wrong
        assert cells["fine"].state == "pass", cells["fine"].reason
    consistent(cache)


def consistent(cache: Path) -> None:
    """Every entry of the cache is whole, and nothing of this run is left beside."""
    store = Store(cache)
    assert all(store.get(key) is not None for key, _, _ in store.entries())
    assert not list((cache / "tmp").glob("*")) and not list((cache / "runs").glob("*"))


def campaign(project: Project, name: str, ways: Sequence[str]) -> None:
    stage = STAGES[name]
    arranged(project, stage, ways)
    run = project.run(*stage.options, env={"SABOTAGE": stage.call, **dict(stage.env)})
    named_rightly(run, stage, ways, project.cache)
    print(f"{len(ways)} deaths in {name}, each named: {', '.join(ways)}")


@pytest.mark.parametrize(("stage", "ways"), [
    ("twin", ("segfault",)), ("decode", ("quit", "garbage")), ("diagnosis", ("kill",)), ("prove", ("abort",)),
], ids=lambda value: value if isinstance(value, str) else "+".join(value))  # fmt: skip
def test_a_stage_that_dies_is_one_named_cell(fresh: Project, stage: str, ways: tuple[str, ...]) -> None:
    campaign(fresh, stage, ways)


@pytest.mark.nightly
@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_dies_in_every_way(fresh: Project, stage: str) -> None:
    campaign(fresh, stage, tuple(WAYS))
