"""Power and diagnosis as a project sees them: faults of its own, whatever they do, and what is said of its limits."""

from __future__ import annotations

import numpy as np
import pytest

from tests.plugin.tiny_project import Project, Run

pytest_plugins = "pytester"

OWN = '''
"""Faults of a project's own: one that is right, and every way in which one can go wrong."""
import numpy as np
import parity
from parity.faults import Parameter

def register(name, apply, **more):
    parity.register_fault(parity.Fault(name, f"the fault {name} is there", "output", "output", apply, **more))

def outputs(change):
    return lambda subject: subject.then(lambda rows: [{k: change(v) for k, v in row.items()} for row in rows])

def patched(subject):
    def handler(call, args, kwargs):
        raise LookupError("no such layer")
    return subject.with_patch(lambda: {"linear": handler})

def none_at_all(subject):
    raise ZeroDivisionError("division by zero\\nand a second line")

register("own_rotated", outputs(lambda y: np.roll(y, 1, -1)))
register("own_same", outputs(lambda y: y + 0.0))
register("own_no_place", lambda subject: None)
register("own_shape", outputs(lambda y: y[:, :3]))
register("own_integers", outputs(lambda y: np.rint(y).astype(np.int64)))
register("own_raises", none_at_all)
register("own_dict", lambda subject: {"logits": 0})
register("own_late", outputs(lambda y: 1 / 0))
register("own_lists", outputs(lambda y: y.tolist()))
register("own_short", lambda subject: subject.then(lambda rows: rows[:1]))
register("own_dropped", lambda subject: subject.then(lambda rows: [{} for _ in rows]))
register("own_patch", patched)
register("own_choices", lambda subject, value: subject, parameter=Parameter("k", choices=lambda s, e: [][0]))
'''
BROKEN = {
    "own_raises": "ZeroDivisionError: division by zero",
    "own_dict": "it gave a dict, not a Subject or None",
    "own_late": "ZeroDivisionError",
    "own_lists": "logits: it gave list, not an array of real numbers",
    "own_short": "it gave no list of 3 cases",
    "own_dropped": "it dropped the output 'logits'",
    "own_patch": "LookupError: no such layer",
    "own_choices": "IndexError: list index out of range",
}
ONE = "-k test_golden and fp32"


def with_faults(project: Project, text: str = OWN, name: str = "own_faults") -> None:
    project.write(f"{name}.py", text)
    project.set("plugins", f'["{name}"]')


def power(run: Run) -> dict[str, tuple[str, str]]:
    """What became of each fault: its fate and the words."""
    (cell,) = [c for c in run.record.cells if c.id == "tiny-plain-fp32"]
    assert cell.power is not None, run.text
    return {f.fault: (f.fate, f.words) for f in cell.power.fates}


def test_faults_of_a_project_count_and_those_that_fail_are_told_and_never_count_as_noticed(project: Project) -> None:
    with_faults(project)
    run = project.run("--parity-power", ONE)
    found = power(run)
    assert {n: found[n][0] for n in ("own_rotated", "own_shape", "own_integers")} == dict.fromkeys(
        ("own_rotated", "own_shape", "own_integers"), "noticed"
    )
    assert (found["own_same"][0], found["own_no_place"][0]) == ("equivalent", "not applicable")
    for name, said in BROKEN.items():
        assert found[name][0] == "survived", (name, found[name])
        assert f"it could not be injected: {said}" in found[name][1] and "\n" not in found[name][1], found[name]
        assert any(f.level == "warning" and name in f.text and said in f.text for f in run.record.cells[0].findings)
    cell = run.record.cells[0].power
    assert cell is not None and cell.injected - cell.killed >= len(BROKEN)
    assert cell.killed == sum(fate == "noticed" for fate, _ in found.values()) > 10


@pytest.mark.parametrize(("text", "said"), [
    (None, "plugins: the module 'own_faults' cannot be imported: ModuleNotFoundError: No module named 'own_faults'"),
    ("1 / 0", "plugins: the module 'own_faults' cannot be imported: ZeroDivisionError: division by zero"),
    ("import parity\nparity.register_fault(parity.Fault('mean_missing', 'x', 'input', 'input', lambda s: s))",
     "register_fault: the fault 'mean_missing' exists: choose another name"),
])  # fmt: skip
@pytest.mark.nightly
def test_a_module_of_faults_that_cannot_be_had_is_an_error_and_no_pass(
    project: Project, text: str | None, said: str
) -> None:
    with_faults(project, text or "")
    if text is None:
        (project.path / "own_faults.py").unlink()
    run = project.run("--parity-power", ONE)
    assert run.code == 1 and run.verdict != "pass"
    assert said in run.text and "Traceback" not in run.text


def test_power_alone_begins_with_the_models_of_most_data_and_other_runs_keep_their_order(project: Project) -> None:
    tiny = (project.path / "pyproject.toml").read_text().partition("[tool.parity.models.tiny]")[2]
    wide = tiny.replace('["batch", 3]', '["batch", 300]').replace("tinynet:tiny", "tinynet:wide")
    project.add("pyproject.toml", f"[tool.parity.models.wide]{wide}")
    project.add("tinynet.py", "def wide():\n    return torch.nn.Linear(300, 4)\n")

    def order(*args: str) -> list[str]:
        run = project.run("--collect-only", "-q", *args, parity=False)
        return [line.partition("[")[2].rstrip("]") for line in run.text.splitlines() if "::test_golden[" in line]

    small, large = ([f"{model}-plain-{p}" for p in ("fp32", "fp16")] for model in ("tiny", "wide"))
    assert order("-m", "parity") == [*small, *large]
    assert order("-m", "parity_power") == [*large, *small]


def test_a_name_that_is_none_is_refused_before_anything_runs(project: Project) -> None:
    project.set("plugins", '["own-faults.py"]')
    run = project.run()
    assert run.code == 4 and "'own-faults.py' is no name of a module, such as 'my_pkg.faults'" in run.text


@pytest.mark.nightly
def test_power_is_required_and_what_is_loose_or_spare_is_named(project: Project) -> None:
    twin = np.load(project.path / "golden" / "a" / "case0.npz")
    np.savez(project.path / "golden" / "a" / "again.npz", **dict(twin))
    project.add("pyproject.toml", "[tool.parity.limits]\nfp32 = { power = 0.9, max_abs = 1e6 }")
    run = project.run(ONE)
    assert run.code == 0, run.text
    (cell,) = [c for c in run.record.cells if c.id == "tiny-plain-fp32"]
    assert cell.power is not None and cell.power.killed >= 0.9 * cell.power.injected
    (check,) = [c for c in cell.checks if c.metric == "power"]
    assert check.limit == 0.9 and check.passed
    told = "\n".join(f.text for f in cell.findings)
    assert (
        "so loose that no fault reaches them: max_abs" in told
        and "golden cases notice no fault that the others miss" in told
    )

    loose = "{ power = 0.9, rel_rms = 0.5, cosine = 0.01, top1_drop = 0.99 }"
    file = project.path / "pyproject.toml"
    file.write_text(file.read_text().replace("{ power = 0.9, max_abs = 1e6 }", loose))
    run = project.run(ONE)
    (cell,) = [c for c in run.record.cells if c.id == "tiny-plain-fp32"]
    assert run.code == 1 and cell.state == "fail" and "power" in cell.reason, (run.text, cell.power)


@pytest.mark.nightly
def test_a_diagnosis_names_a_fault_of_the_project_and_says_which_could_not_be_tried(project: Project) -> None:
    reversed_ = OWN + '\nregister("own_reversed", outputs(lambda y: y[:, ::-1]))\n'
    with_faults(project, reversed_)
    run = project.run(ONE, env={"PLAIN_RUN": "wrong"})
    (cell,) = [c for c in run.record.cells if c.id == "tiny-plain-fp32"]
    assert cell.state == "fail"
    named = [d.fault for d in cell.diagnosis]
    assert {"own_reversed", "labels_reversed"} <= set(named), run.text
    sentence = next(f.text for f in cell.findings if f.text.startswith("diagnosis:"))
    assert "the same function of this model:" in sentence
    for name in set(BROKEN) - {"own_dropped", "own_short", "own_lists", "own_late"}:
        assert any(line.startswith(f"{name}: {BROKEN[name]}") for line in cell.faults_failed), cell.faults_failed
    assert len([f for f in cell.findings if "could not be tried" in f.text]) == len(cell.faults_failed)
