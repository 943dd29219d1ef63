"""Property, sequence and batch tests from the outside: each fault makes one fail, a correct file passes, and a lost
measurement is never a pass."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from parity.cases import own
from parity.config import parse
from parity.core.errors import ConfigError
from parity.core.settings import TargetFacts
from tests.plugin.tiny_project import PYPROJECT, Project

pytest_plugins = "pytester"

DRAWN = ("-k", "property and fp32")
FAULTS = {  # in the body of PlainSession.run, before its return
    "wrong beyond the range of golden data": ("property", "y = y * (1 + 0.01 * (np.abs(inputs['x']).max() > 2))"),
    "reads memory and not the view": (
        "property",
        "x = inputs['x']; base = x.base if x.base is not None else x\n"
        "        y = (base.reshape(-1)[: x.size].reshape(x.shape) @ self.w.T + self.b).astype(np.float32)",
    ),
    "remembers the input before": (
        "sequence",
        "y = y + 1e-3 * getattr(self, 'last', 0); self.last = float(inputs['x'].sum())",
    ),
    "counts its runs": ("sequence", "self.n = getattr(self, 'n', 0) + 1; y = y + (1e-3 if self.n > 8 else 0)"),
    "rows leak": ("batch", "y = y + 1e-3 * (y - y[::-1])"),
    "wrong at three rows": ("batch", "y = y + (1e-3 if len(y) == 3 else 0)"),
}


@pytest.fixture
def drawing(project: Project) -> Project:
    text = (project.path / "pyproject.toml").read_text().replace("examples = 0", "examples = 12")
    project.write("pyproject.toml", text)
    return project


def test_every_target_is_given_the_same_draws(drawing: Project) -> None:
    run = drawing.run("-n2", "-k", "property")
    assert run.code == 0, run.text
    ids = [{c.case for c in cell.checks} for cell in run.record.cells]
    assert len(ids) == 2 and ids[0] == ids[1]


def broken(project: Project, line: str) -> None:
    text = (project.path / "plain_target.py").read_text()
    project.write("plain_target.py", text.replace('        return {"none"', f'        {line}\n        return {{"none"'))


EVERYDAY = ("reads memory and not the view", "remembers the input before", "rows leak")


@pytest.mark.parametrize("fault", [f if f in EVERYDAY else pytest.param(f, marks=pytest.mark.nightly) for f in FAULTS])
def test_each_fault_is_found_by_its_kind_alone(drawing: Project, fault: str) -> None:
    kind, line = FAULTS[fault]
    broken(drawing, line)
    run = drawing.run("-k", f"fp32 and (golden or {kind})")
    bad = {c.kind for c in run.record.cells[0].checks if not c.passed}
    assert kind in bad and bad <= ({kind, "golden"} if kind == "sequence" else {kind}), run.text
    assert run.code == 1


def test_a_failing_input_is_small_printed_kept_and_met_first_the_next_time(drawing: Project) -> None:
    broken(drawing, FAULTS["wrong beyond the range of golden data"][1])
    run = drawing.run(*DRAWN)
    (path,) = (drawing.path / ".parity" / "recipes" / "tiny").glob("*.json")
    assert f"parity promote tiny {path.stem}" in run.text
    assert "batch=1 ~" + path.stem in run.text  # the smallest batch
    script = run.text.split(f"parity promote tiny {path.stem}\n")[1].split("\n====")[0].splitlines()[:10]
    script = script[: next(i for i, line in enumerate(script) if line.startswith("print(")) + 1]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(script)], cwd=drawing.path, capture_output=True, text=True, check=True
    )
    got, want = re.search(r"(\S+) the float64 oracle: (\S+)", done.stdout).groups()  # type: ignore[union-attr]
    assert abs(float(got) - float(want)) > 1e-3 * abs(float(want))

    drawing.write("pyproject.toml", (drawing.path / "pyproject.toml").read_text().replace("= 12", "= 1"))
    again = drawing.run(*DRAWN)  # one drawn example does not find it: the kept one does
    assert again.code == 1 and path.stem in again.text

    own = "import sys; sys.path.insert(0, '.'); import conftest; from parity.cli import main; main(sys.argv[1:])"
    command = [sys.executable, "-c", own, "promote", "tiny"]
    done = subprocess.run(command, cwd=drawing.path, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and f"golden/property_{path.stem}.npz: written" in done.stdout, done.stderr
    run = drawing.run("-k", "golden and fp32")
    assert run.record.cells[0].planned_cases == 4 and run.code == 1


def test_correct_files_pass_on_everything_that_is_drawn(drawing: Project) -> None:
    run = drawing.run("--parity-examples", "40")
    assert run.verdict == "pass", run.text
    for cell in run.record.cells:
        assert {c.kind for c in cell.checks} >= {"contract", "golden", "accuracy", "sequence", "batch", "property"}
        assert len({c.case for c in cell.checks if c.kind == "property"}) > 30
    one, other = ({c.case for c in cell.checks if c.kind == "property"} for cell in run.record.cells)
    assert one == other  # every cell of a model is given the same


@pytest.mark.parametrize(
    "kind", ["property", *(pytest.param(k, marks=pytest.mark.nightly) for k in ("sequence", "batch"))]
)
def test_a_kind_that_is_not_measured_is_not_a_pass(drawing: Project, kind: str) -> None:
    drawing.add(
        "conftest.py",
        "def pytest_collection_modifyitems(items):\n"
        f"    items[:] = [i for i in items if 'test_{kind}' not in i.name]\n",
    )
    run = drawing.run()
    assert run.verdict == "incomplete" and f"{kind}: its test did not run" in run.record.cells[0].reason


STATE_MODEL = """
import torch
class Step(torch.nn.Module):
    def forward(self, x, h):
        new = torch.tanh(0.5 * h + x)
        return 2 * new, new
def tiny():
    return Step()
"""


def test_a_carried_state_is_followed_step_by_step(project: Project) -> None:
    project.write("tinynet.py", STATE_MODEL)
    text = (project.path / "pyproject.toml").read_text()
    start = text.index("inputs = ")
    project.write("pyproject.toml", text[:start] + """
inputs = [{ name = "x", shape = ["batch", 3], range = [-1, 1] }, { name = "h", shape = ["batch", 3], range = [-1, 1] }]
outputs = [{ name = "y" }, { name = "h_next" }]
states = { h = "h_next" }
properties = { examples = 0 }
golden = "golden"
cells = ["plain-fp32"]
""")  # fmt: skip
    for folder in "abc":
        for path in (project.path / "golden" / folder).glob("*.npz"):
            path.unlink()
            rng = np.random.default_rng(ord(folder))
            rows = rng.uniform(-1, 1, (2, 1, 3)).astype(np.float32)
            np.savez(project.path / "golden" / f"{folder}.npz", x=rows[0], h=rows[1])
    target = (project.path / "plain_target.py").read_text()
    target = target.replace('"inputs": {"x": {"name": "x"}}, "outputs": {"logits": {"name": "logits"}}',
                            '"inputs": {"x": {"name": "x"}, "h": {"name": "h"}}, '
                            '"outputs": {"y": {"name": "y"}, "h_next": {"name": "h_next"}}')  # fmt: skip
    target = target.replace("np.savez(Path(work, \"weights.npz\"), w=net.weight.numpy(), b=net.bias.numpy())",
                            "np.savez(Path(work, \"weights.npz\"), w=np.zeros(1), b=np.zeros(1))")  # fmt: skip
    step = "        new = np.tanh(np.float32(0.5) * inputs['h'] + inputs['x'])\n        FAULT\n"
    step += "        return {'y': 2 * new, 'h_next': new}\n"
    target = re.sub(r"        how = os.environ.*", step, target, flags=re.S)
    project.write("plain_target.py", target.replace("FAULT", "pass"))
    good = project.run("-k", "sequence")
    assert good.code == 0, good.text
    steps = [c for c in good.record.cells[0].checks if c.metric == "steps_right"]
    assert [(c.output, c.value, c.limit) for c in steps] == [("y", 3.0, 3.0), ("h_next", 3.0, 3.0)]
    forgets = "new = np.where(np.abs(inputs['h']).max() > 0.01, np.tanh(inputs['x']), new)"
    project.write("plain_target.py", target.replace("FAULT", forgets))
    bad = project.run("-k", "sequence")
    assert bad.code == 1 and re.search(r"step [12] is the first that differs", bad.text), bad.text


def test_stored_references_are_written_on_purpose_and_stale_ones_stop_the_cell(fresh: Project) -> None:
    text = (fresh.path / "pyproject.toml").read_text()
    fresh.write("pyproject.toml", text.replace('golden = "golden"', 'golden = "golden"\nreferences = "refs"'))
    golden = ("-k", "golden and fp32")
    absent = fresh.run(*golden)
    assert absent.code == 1 and "no reference is stored yet" in absent.text and "--parity-update" in absent.text
    refused = fresh.run(*golden, "--parity-update", env={"CI": "true"})
    assert refused.code == 4 and "refused where CI is set" in refused.text and not (fresh.path / "refs").exists()
    written = fresh.run(*golden, "--parity-update", env={"CI": ""})
    assert written.code == 0 and any("3 new" in f.text for f in written.record.cells[0].findings)
    (fresh.path / "golden" / "c" / "case2.npz").unlink()
    unused = fresh.run(*golden)
    assert unused.code == 0 and "unused references of tiny, of no golden case: c/case2" in unused.text
    for name, value in (("a/case0", 0.4), ("c/more", 0.3)):
        np.savez(fresh.path / "golden" / f"{name}.npz", x=np.full((1, 3), value, np.float32))
    other = fresh.run(*golden)
    assert other.code == 1 and "1 new (c/more); 1 changed (a/case0)" in other.text, other.text
    renewed = fresh.run(*golden, "--parity-update", env={"CI": "0"})
    (said,) = [f.text for f in renewed.record.cells[0].findings if "references of tiny written" in f.text]
    assert "1 new, 1 changed, 1 removed, 1 unchanged" in said and renewed.code == 0, renewed.text
    fresh.write("tinynet.py", (fresh.path / "tinynet.py").read_text().replace(".4]", ".5]"))
    stale = fresh.run(*golden)
    assert stale.code == 1 and "stored references are stale: its weights changed" in stale.text


DECODER = """
import torch
class Reader(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(4)
        self.table, self.head = torch.nn.Embedding(7, 5), torch.nn.Linear(5, 7)
        self.head.weight.data *= 3
class Step(Reader):
    def forward(self, token, position, memory):
        place = (torch.arange(24) == position)[None, :, None]
        memory = torch.where(place, self.table(token), memory)
        seen = (torch.arange(24) <= position)[None, :, None]
        return self.head(torch.tanh((memory * seen).sum(1))), memory
class Whole(Reader):
    def forward(self, ids):
        return self.head(torch.tanh(self.table(ids).cumsum(1)))
def tiny():
    return Step()
def whole():
    return Whole()
"""
DECODER_TABLES = """
inputs = [
  { name = "token", shape = ["batch", 1], dtype = "int64", range = [0, 6] },
  { name = "position", shape = [1], dtype = "int64", range = [0, 23] },
  { name = "memory", shape = ["batch", 24, 5], range = [-1, 1] },
]
outputs = [{ name = "scores", kind = "logits" }, { name = "memory_next" }]
states = { memory = "memory_next" }
decode = { token = "token", scores = "scores", position = "position", steps = 20, prompt = 6, prefill = "whole" }
properties = { examples = 0 }
cells = ["plain-fp32"]

[tool.parity.models.whole]
factory = "tinynet:whole"
inputs = [{ name = "ids", shape = ["batch", "steps"], dtype = "int64", range = [0, 6] }]
outputs = [{ name = "scores", kind = "logits" }]
cells = ["plain-fp32"]
"""
DECODER_RUN = """
        at, own = inputs['position'], self.table[inputs['token']]
        memory = np.where((np.arange(24) == at)[None, :, None], own, inputs['memory'])
        seen = (np.arange(24) <= at)[None, :, None]
        FAULT
        scores = np.tanh((memory * seen).sum(1)) @ self.w.T + self.b
        return {'scores': scores.astype(np.float32), 'memory_next': memory.astype(np.float32)}
"""
DECODING = {  # the line that breaks it, the checks that must fail, the step that must be named
    "nothing": ("pass", set(), None),
    "the cache is off by one": (
        "memory = np.where((np.arange(24) == at - 1)[None, :, None], own, inputs['memory'])",
        {"decode all", "free-running all"}, 0),
    "the position stops at nine": ("seen = (np.arange(24) <= min(at[0], 9))[None, :, None]", {"decode all"}, 10),
    "the last sequence stays": (
        "left = getattr(self, 'left', 0 * memory); memory = memory + (0.01 * left if at[0] == 0 else 0)\n"
        "        self.left = memory.copy()",
        {"state reset"}, None),
}  # fmt: skip


@pytest.mark.parametrize(
    "fault", [f if f in ("nothing", "the position stops at nine") else pytest.param(f, marks=pytest.mark.nightly)
              for f in DECODING]
)  # fmt: skip
def test_decoding_is_followed_token_by_token_and_the_first_wrong_step_is_named(project: Project, fault: str) -> None:
    line, broken_cases, step = DECODING[fault]
    project.write("tinynet.py", DECODER)
    text = (project.path / "pyproject.toml").read_text()
    project.write("pyproject.toml", text[: text.index("inputs = ")] + DECODER_TABLES)
    names = {"inputs": ("token", "position", "memory"), "outputs": ("scores", "memory_next")}
    notes = {side: {n: {"name": n} for n in found} for side, found in names.items()}
    target = (project.path / "plain_target.py").read_text()
    target = re.sub(r'return \{"entry": .*', f'return {{"entry": "weights.npz", **{notes!r}}}', target)
    target = target.replace(
        "w=net.weight.numpy(), b=net.bias.numpy()",
        "w=net.head.weight.numpy(), b=net.head.bias.numpy(), table=net.table.weight.numpy()",
    )
    target = target.replace("self.w, self.b =", "self.table = held['table']; self.w, self.b =")
    target = re.sub(r"        how = os.environ.*", DECODER_RUN.strip("\n").replace("FAULT", line), target, flags=re.S)
    project.write("plain_target.py", target)
    run = project.run("-k", "tiny and sequence")
    checks = run.record.cells[0].checks
    assert {"decode all", "free-running all", "state reset", "fresh", "A-B-A"} <= {c.case for c in checks}, run.text
    assert len([c for c in checks if re.fullmatch(r"decode \d+", c.case)]) == 20
    bad = {c.case for c in checks if not c.passed}
    assert broken_cases <= bad and bool(bad) == bool(broken_cases) and run.code == bool(broken_cases), run.text
    if step is not None:
        assert f"step {step} is the first that differs" in run.text


OWN = """
import numpy as np
def made(contract):
    (spec,) = contract.inputs
    rows = {"low": -0.5, "high": 0.8}
    cases = {name: {spec.name: (value + np.array([[0, 0.05, 0.1]])).astype(np.float32)} for name, value in rows.items()}
    cases["high"]["label"] = 1
    return cases
def wrong(contract):
    return {"flat": {"x": np.zeros(3, np.float32)}}
def many(contract):
    return [1]
def none(contract):
    return {}
def pickled(contract):
    return {"odd": {"x": np.array([[{}, {}, {}]])}}
def raises(contract):
    raise RuntimeError("no disk\\nwith these cases")
"""


def with_cases(project: Project, name: str) -> None:
    text = (project.path / "pyproject.toml").read_text()
    project.write("pyproject.toml", re.sub(r"cases = .*\n", "", text) + f'cases = "{name}"\n')


def test_a_projects_own_cases_are_golden_cases(project: Project) -> None:
    project.write("own_cases.py", OWN)
    with_cases(project, "own_cases:made")
    good = project.run("-k", "fp32 and (golden or accuracy)")
    (cell,) = good.record.cells
    assert good.code == 0 and cell.planned_cases == 5, good.text
    assert {"low", "high", "a/case0"} <= {c.case for c in cell.checks if c.kind == "golden"}
    assert "of 4 labelled cases" in next(c.detail for c in cell.checks if c.metric == "top1_drop")
    broken(project, "y = y + (1 if inputs['x'][0, 0] == np.float32(0.8) else 0)")
    bad = project.run("-k", "fp32 and golden")
    assert bad.code == 1 and "(case high)" in bad.text, bad.text
    text = (project.path / "pyproject.toml").read_text()
    project.write("pyproject.toml", text.replace('golden = "golden"\n', ""))  # they are enough by themselves
    alone = project.run("-k", "fp32 and golden")
    assert alone.record.cells[0].planned_cases == 2 and alone.code == 1


@pytest.mark.parametrize(
    ("name", "words"),
    [("absent_here:made", "No module named 'absent_here'"), ("own_cases:absent", "has no attribute 'absent'"),
     ("own_cases:np", "is module, not a function"), ("own_cases:wrong", "case flat: x is [3], declared ['batch', 3]"),
     ("own_cases:many", "gave list, not {case name: {input name: array}}"), ("own_cases:none", "gave no case"),
     ("own_cases:pickled", "x is object, declared float32"), ("own_cases:raises", "raised RuntimeError: no disk")],
)  # fmt: skip
def test_own_cases_that_are_no_good_are_one_line(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "own_cases.py").write_text(OWN)
    text = PYPROJECT.replace('golden = "golden"', f'cases = "{name}"')
    contract = parse(text, tmp_path / "pyproject.toml", {"plain": TargetFacts()}).models["tiny"].contract
    with pytest.raises(ConfigError) as raised:
        own.cases(name, contract, tmp_path)
    assert words in str(raised.value) and "\n" not in str(raised.value)
