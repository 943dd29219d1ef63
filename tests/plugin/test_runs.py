"""A run seen from the outside: options, selection, verdicts, exit codes, and what several workers share."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from parity.core.errors import ParityError
from parity.core.record import read
from parity.judging.shards import merge
from tests.plugin.tiny_project import MODEL, Project, count, timeless

pytest_plugins = "pytester"

BACKENDS = ("torch", "tensorflow", "onnx", "onnxruntime", "coremltools", "ncnn", "cv2", "ai_edge_litert")
OPTIONS = ("models", "targets", "precisions", "profile", "report", "no-report", "cache", "rebuild", "shard", "gate",
           "require", "show-plan", "timeout")  # fmt: skip


def test_a_whole_project_passes(project: Project) -> None:
    """What every other test here takes a piece out of."""
    run = project.run()
    assert (run.code, run.verdict) == (0, "pass"), run.text
    assert run.states() == {"tiny-plain-fp32": "pass", "tiny-plain-fp16": "pass"}
    for cell in run.record.cells:
        assert cell.planned == cell.measured
        assert {*cell.planned} >= {"contract", "golden", "accuracy", "sequence", "batch"}
        assert cell.planned_cases == 3 and cell.planned_outputs == ("logits",) and cell.route == "plain"
        assert {c.case for c in cell.checks if c.kind == "golden"} == {"a/case0", "b/case1", "c/case2", "all"}
    assert "verdict: pass: 2 cells measured and inside their limits" in run.text
    lines = run.text.strip().splitlines()
    assert "report: reports/parity.html" in lines[-2] and "passed" in lines[-1]
    assert {p.name for p in (project.path / "reports").iterdir()} == {"parity.html", "parity.json", "parity.md"}


def test_help_names_every_option(project: Project) -> None:
    text = project.run("--help", parity=False).text
    for name in OPTIONS:
        assert f"--parity-{name}" in text
    for words in ("cell(model, target, precision)", "needs(capability)"):
        assert words in project.run("--markers", parity=False).text


PROBE = """
import atexit, sys
atexit.register(lambda: print("LOADED", sorted(set(sys.modules) & {names!r})))
"""


@pytest.mark.parametrize("args", [["--help"], ["--collect-only", "-q"], ["--parity-show-plan"], ["--markers"]])
def test_asking_imports_no_converter_and_no_runtime(project: Project, args: list[str]) -> None:
    names = set(BACKENDS)
    project.write("probe.py", PROBE.format(names=names))
    run = project.run("-p", "probe", *args)
    assert "LOADED []" in run.text, run.text
    assert run.code == 0


def test_running_imports_no_converter_and_no_runtime_in_the_test_process(project: Project) -> None:
    project.write("probe.py", PROBE.format(names=set(BACKENDS)))
    run = project.run("-p", "probe")
    assert run.code == 0 and "LOADED []" in run.text, run.text


def test_the_plan_is_shown_and_nothing_runs(fresh: Project) -> None:
    fresh.add(
        "pyproject.toml", '[tool.parity.limits]\nfp16 = { cosine = 0.9 }\n"tiny-plain-fp32".logits = { max_abs = 1 }\n'
    )
    run = fresh.run("--parity-show-plan")
    assert run.code == 0 and "2 cells" in run.text
    assert "tiny-plain-fp32: contract, golden, accuracy, sequence, batch" in run.text
    assert "; 3 golden cases" in run.text
    assert "[tool.parity.limits] fp16" in run.text or "[tool.parity.limits.fp16] cosine" in run.text
    assert "built-in default for fp32" in run.text and "pyproject.toml:" in run.text
    assert not fresh.cache.exists() and not (fresh.path / "reports").exists()


def test_the_plan_says_what_cannot_run_here_and_why(project: Project) -> None:
    text = (project.path / "pyproject.toml").read_text()
    project.write("pyproject.toml", text.replace('["fp32", "fp16"]', '["fp32", "int8"]'))
    run = project.run("--parity-show-plan")
    assert "cannot run here: plain has no int8 route" in run.text


# Selecting.


@pytest.mark.parametrize(
    ("args", "states"),
    [
        (["--parity-precisions=fp16"], {"tiny-plain-fp16": "pass"}),
        (["-k", "tiny and fp32"], {"tiny-plain-fp32": "pass"}),
        (["--parity-shard=2/2"], None),
    ],
)
def test_a_narrowed_run_is_partial(project: Project, args: list[str], states: dict[str, str] | None) -> None:
    run = project.run(*args)
    assert (run.code, run.verdict) == (0, "partial"), run.text
    assert len(run.record.cells) == 1 and run.record.partial
    if states:
        assert run.states() == states


def test_the_cell_marker_selects(project: Project) -> None:
    run = project.run("-m", "cell(target='plain', precision='fp16')", parity=False)
    assert (run.code, run.verdict) == (0, "partial"), run.text
    assert run.states() == {"tiny-plain-fp16": "pass"}
    assert "-m cell(target='plain', precision='fp16')" in (run.record.partial or "")


def test_one_test_named_alone_is_partial(project: Project) -> None:
    run = project.run("test_parity.py::test_golden[tiny-plain-fp32]")
    assert (run.code, run.verdict) == (0, "partial"), run.text
    (cell,) = run.record.cells
    assert cell.id == "tiny-plain-fp32" and cell.planned == ("golden",)


def test_a_narrowed_run_that_fails_is_a_fail(project: Project) -> None:
    run = project.run("--parity-precisions=fp16", env={"PLAIN_RUN": "wrong"})
    assert (run.code, run.verdict) == (1, "fail"), run.text
    assert "why: logits: measured" in run.text and "By the output alone: channels in other places: 4 of 4" in run.text


def test_the_quick_profile_is_partial(project: Project) -> None:
    run = project.run("--parity-profile=quick")
    assert (run.code, run.verdict) == (0, "partial"), run.text
    assert run.record.profile == "quick" and "profile quick" in (run.record.partial or "")


# Mistakes.


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--parity-targets=plian"], "did you mean 'plain'"),
        (["--parity-models=x"], "unknown model 'x'"),
        (["--parity-precisions=int8"], "unknown precision 'int8'"),
        (["--parity-shard=3/2"], "expected K/N"),
        (["--parity-shard=x"], "expected K/N"),
        (["--parity-timeout=0"], "above 0"),
        (["--parity-timeout=soon"], "soon"),
        (["--parity-gate=maybe"], "invalid choice"),
        (["--parity-profile=fast"], "invalid choice"),
        (["--parity-require=coreml"], "neither a target nor a model"),
        (["--parity-targets="], "comma-separated list"),
    ],
)
def test_a_wrong_option_is_exit_code_4(project: Project, args: list[str], words: str) -> None:
    run = project.run(*args)
    assert run.code == 4 and words in run.text and "Traceback" not in run.text, run.text


def test_a_wrong_configuration_is_exit_code_4_and_one_line(project: Project) -> None:
    project.add("pyproject.toml", "goldn = 'x'\n")
    run = project.run()
    assert run.code == 4 and "Traceback" not in run.text
    assert count(run.text, r"pyproject.toml:\d+ \[tool.parity.models.tiny\] goldn: unknown key") == 1
    assert "did you mean 'golden'?" in run.text


def test_a_cache_that_cannot_be_written_is_said_and_no_pass(project: Project) -> None:
    file = project.write("occupied", "a file, not a folder")
    run = project.run(f"--parity-cache={file}")
    assert (run.code, run.verdict) == (1, "fail"), run.text
    assert "choose another with --parity-cache" in run.text and "Traceback" not in run.text


def test_a_report_that_cannot_be_written_is_exit_code_1(project: Project) -> None:
    project.write("occupied", "a file")
    run = project.run("--parity-report=occupied/parity.html")
    assert run.code == 1 and "cannot be written" in run.text and "Traceback" not in run.text


# Gate modes.


@pytest.mark.parametrize("mode", ["warn", "off"])
def test_a_gate_that_does_not_block(project: Project, mode: str) -> None:
    run = project.run(f"--parity-gate={mode}", env={"PLAIN_RUN": "wrong"})
    assert run.code == 0 and run.verdict == "fail", run.text
    assert ("gate: warn, not blocking" in run.text) is (mode == "warn")


def test_a_gate_that_does_not_block_still_lets_other_tests_fail(project: Project) -> None:
    project.write("test_other.py", "import pytest\n@pytest.mark.parity\ndef test_other(): assert False\n")
    run = project.run("--parity-gate=warn", env={"PLAIN_EXPORT": "raise"}, parity=True)
    assert run.code == 1, run.text


def test_other_failing_tests_fail_the_run_whatever_the_verdict(project: Project) -> None:
    project.write("test_other.py", "import pytest\n@pytest.mark.parity\ndef test_other(): assert False\n")
    run = project.run()
    assert (run.code, run.verdict) == (1, "pass")


def test_require_makes_an_absent_cell_block(project: Project) -> None:
    text = (project.path / "pyproject.toml").read_text()
    project.write("pyproject.toml", text.replace('["fp32", "fp16"]', '["fp32", "int8"]'))
    run = project.run()
    assert (run.code, run.verdict) == (0, "pass"), run.text
    assert run.states()["tiny-plain-int8"] == "unavailable"
    run = project.run("--parity-require=plain")
    assert (run.code, run.verdict) == (1, "incomplete"), run.text


# Beside other tests.


def test_a_project_without_the_table_is_not_disturbed(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_a="def test_a(): pass\ndef test_b(tmp_path): pass\n")
    pytester.makepyprojecttoml("[tool.pytest.ini_options]\naddopts = '-q'\n[tool.parity-other]\nx = 1\n")
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(passed=2)
    assert result.ret == 0 and "parity" not in result.stdout.str()
    assert not (pytester.path / "reports").exists()


def test_a_run_of_unrelated_tests_writes_nothing_and_gates_nothing(project: Project) -> None:
    project.write("test_other.py", "def test_other(): pass\n")
    run = project.run("test_other.py", parity=False)
    assert run.code == 0 and run.verdict == "no record" and "verdict" not in run.text


def test_a_parameter_that_looks_like_a_cell_leaves_the_last_report_where_it_is(project: Project) -> None:
    report = project.path / "reports" / "parity.html"
    report.parent.mkdir()
    report.write_text("the last run's")
    project.write("test_other.py", "import pytest\n@pytest.mark.parametrize('x', ['other-onnx-int8'])\n"
                                   "def test_other(x): pass\n")  # fmt: skip
    assert project.run("test_other.py", parity=False).code == 0
    assert report.read_text() == "the last run's"


def test_a_parity_fixture_without_the_table_says_parity_init(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_a="def test_a(parity_cell): pass\n")
    result = pytester.runpytest_subprocess()
    assert result.ret != 0
    result.stdout.fnmatch_lines(["*parity init*"])


def test_pytest_counts_the_tests_that_the_plan_asks_for_and_no_other(project: Project) -> None:
    run = project.run("--collect-only", "-q")
    tests = [line for line in run.text.splitlines() if "::" in line]
    assert len(tests) == 12 and not any("test_video" in line or "NOTSET" in line for line in tests)
    assert "12 tests collected" in run.text


def test_a_model_that_does_not_decide_has_no_accuracy_test(project: Project) -> None:
    text = (project.path / "pyproject.toml").read_text()
    project.write("pyproject.toml", text.replace('kind = "logits", labels = ["a", "b", "c", "d"]', 'kind = "dense"'))
    run = project.run()
    assert (run.code, run.verdict) == (0, "pass"), run.text
    assert all("golden" in c.planned and "accuracy" not in c.planned for c in run.record.cells)


OWN = """
import numpy as np
def test_own(parity_cell, parity_runtime, parity_golden, parity):
    for case, out in zip(parity_golden, parity_runtime.run([c.inputs for c in parity_golden])):
        want = np.ones_like(out["logits"]) if {broken} else out["logits"]
        parity.check("logits", out["logits"], want, metric="max_abs", at_most=1e-9, case=case.id)
"""


def test_a_project_s_own_check_is_recorded_and_counts(project: Project) -> None:
    project.write("test_own.py", OWN.format(broken=False))
    run = project.run()
    assert (run.code, run.verdict) == (0, "pass"), run.text
    own = [c for c in run.record.cell("tiny-plain-fp32").checks if c.source == "the test"]
    assert [c.case for c in own] == ["a/case0", "b/case1", "c/case2"] and all(c.kind == "property" for c in own)
    project.write("test_own.py", OWN.format(broken=True))
    run = project.run()
    assert (run.code, run.verdict) == (1, "fail"), run.text
    assert "limit from the test" in run.text


def test_a_parity_test_that_records_nothing_fails(project: Project) -> None:
    project.write("test_own.py", "def test_own(parity_cell, parity): pass\n")
    run = project.run("-k", "test_own")
    assert run.code == 1 and "no check was recorded against a limit" in run.text, run.text


def test_a_mistake_in_a_check_is_one_line(project: Project) -> None:
    project.write("test_own.py", "import numpy as np\ndef test_own(parity_cell, parity):\n"
                  "    parity.check('logits', np.ones(3), np.ones(3), max_abs=1, case=7)\n")  # fmt: skip
    run = project.run("-k", "test_own")
    assert run.code == 1 and "INTERNALERROR" not in run.text and "case" in run.text, run.text


def test_needs_skips_with_the_reason(project: Project) -> None:
    project.write("test_own.py", "import pytest\n@pytest.mark.needs('coreml-runtime')\ndef test_mac(): pass\n"
                  "@pytest.mark.needs('moon')\ndef test_moon(): pass\n")  # fmt: skip
    run = project.run("test_own.py", "-rs", parity=False)
    assert "unknown capability" in run.text
    if sys.platform != "darwin":
        assert "Core ML predicts only on macOS" in run.text


# Several workers.


@pytest.mark.slow
def test_four_workers_build_each_artefact_once_and_say_the_same_as_none(fresh: Project, tmp_path: Path) -> None:
    counter, env = tmp_path / "counter", {"PLAIN_COUNTER": str(tmp_path / "counter"), "PLAIN_EXPORT": "slow"}
    run = fresh.run("-n", "4", "--dist", "worksteal", env=env)
    assert (run.code, run.verdict) == (0, "pass"), run.text
    assert sorted(line.split()[0] for line in counter.read_text().splitlines()) == ["half", "weights"]
    assert run.record.builds == 2
    four = timeless(fresh.path / "reports" / "parity.json")
    alone = fresh.run("-n", "0", env=env)
    assert (alone.code, alone.verdict) == (0, "pass") and alone.record.builds == 0
    assert len(counter.read_text().splitlines()) == 2
    assert timeless(fresh.path / "reports" / "parity.json") == four
    shutil.rmtree(fresh.cache)
    again = fresh.run("-n", "0", env=env)
    assert again.record.builds == 2 and "all artefacts from the cache" not in again.text
    assert timeless(fresh.path / "reports" / "parity.json") == four


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_failed_export_is_told_once(fresh: Project, workers: str) -> None:
    run = fresh.run("-n", workers, env={"PLAIN_EXPORT": "raise"})
    assert (run.code, run.verdict) == (1, "fail"), run.text
    assert run.states() == {"tiny-plain-fp32": "error", "tiny-plain-fp16": "error"}
    for cell in run.record.cells:
        assert cell.stage == "export" and "unsupported operator aten::nothing" in cell.reason and cell.log
        assert count(run.text, rf"(?m)^{cell.id}: error in export") == 1
    assert "2 errors" in run.text or "2 failed" in run.text


def test_rebuild_builds_again_and_the_report_does_not_call_it_damage(fresh: Project) -> None:
    assert fresh.run().record.builds == 2
    run = fresh.run("--parity-rebuild")
    assert run.record.builds == 2 and run.verdict == "pass"
    assert not any("damaged" in f.text for c in run.record.cells for f in c.findings)


def test_a_damaged_artefact_is_built_again_and_said(fresh: Project) -> None:
    fresh.run()
    for file in (fresh.cache / "objects").rglob("weights.npz"):
        file.write_bytes(file.read_bytes()[:-30])
    run = fresh.run()
    assert (run.code, run.verdict) == (0, "pass") and run.record.builds == 2, run.text
    data = json.loads((fresh.path / "reports" / "parity.json").read_text())
    assert "damaged" in json.dumps([c["findings"] for c in data["cells"]])


def test_shards_of_one_plan_merge_into_its_verdict(project: Project) -> None:
    for k in (1, 2):
        run = project.run(f"--parity-shard={k}/2", f"--parity-report=out/{k}.html")
        assert (run.code, "verdict: partial" in run.text) == (0, True), run.text
    command = [sys.executable, "-m", "parity.cli", "report", "merge"]

    def merged(*files: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, *files], cwd=project.path, capture_output=True, text=True, check=False)

    both = merged("out/1.json", "out/2.json")
    assert both.returncode == 0 and "verdict: pass: 2 cells measured" in both.stdout, both.stdout + both.stderr
    assert read(project.path / "reports" / "parity.json").verdict == "pass"
    one = merged("out/1.json")
    assert one.returncode == 1 and "verdict: incomplete" in one.stdout
    assert read(project.path / "reports" / "parity.json").verdict == "incomplete"
    again = merged("out/1.json", "out/1.json")
    assert again.returncode == 1 and again.stderr.count("\n") == 1 and "given twice" in again.stderr


READING = """
import pathlib, torch

WEIGHTS = [float(w) for w in pathlib.Path(__file__).with_name("w.txt").read_text().split()]

def tiny():
    net = torch.nn.Linear(3, 4)
    with torch.no_grad():
        net.weight.copy_(torch.tensor(WEIGHTS).reshape(4, 3))
        net.bias.copy_(torch.tensor([.1, .2, .3, .4]))
    return net
"""


def test_shards_whose_models_read_another_file_are_not_merged_and_no_record_outlives_it(fresh: Project) -> None:
    fresh.write("tinynet.py", READING)
    fresh.write("w.txt", "3 0 0  0 3 0  0 0 3  -3 -3 -3")
    text = (fresh.path / "pyproject.toml").read_text()
    fresh.write("pyproject.toml", text + text[text.index("[tool.parity.models") :].replace("models.tiny", "models.two"))
    part = fresh.run("--parity-shard=1/2", "--parity-report=out/1.html", "--parity-precisions=fp32")
    assert part.code == 0, part.text
    assert list(read(fresh.path / "out" / "1.json").read) == ["w.txt"]
    fresh.write("w.txt", "4 0 0  0 3 0  0 0 3  -3 -3 -3")
    assert fresh.run("--parity-shard=2/2", "--parity-report=out/2.html", "--parity-precisions=fp32").code == 0
    both = [(f"{k}.json", read(fresh.path / "out" / f"{k}.json")) for k in (1, 2)]
    assert {cell.model for _, record in both for cell in record.cells} == {"tiny", "two"}
    with pytest.raises(ParityError, match=r"2.json: made from another w.txt, which a model reads, than 1.json"):
        merge(both)
    command = [sys.executable, "-m", "parity", "gate"]

    def gate(name: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, name], cwd=fresh.path, capture_output=True, text=True, check=False)

    assert gate("out/2.json").returncode == 0
    stale = gate("out/1.json")
    assert (stale.returncode, "changed since this run: w.txt, which a model reads" in stale.stdout) == (1, True)


def test_a_shard_that_an_earlier_commit_left_behind_is_not_merged(project: Project) -> None:
    for k in (1, 2):
        assert project.run(f"--parity-shard={k}/2", f"--parity-report=out/{k}.html").code == 0
    project.write("tinynet.py", MODEL.replace(".1, .2", ".5, .2"))
    assert project.run("--parity-shard=1/2", "--parity-report=out/1.html").code == 0
    with pytest.raises(ParityError, match=r"2.json: made from another source than 1.json"):
        merge([(f"{k}.json", read(project.path / "out" / f"{k}.json")) for k in (1, 2)])
