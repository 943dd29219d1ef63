"""A whole run with an execution on an emulated Arm core: its tests, its state, its place in the record."""

from __future__ import annotations

from pathlib import Path

import pytest

from parity.process.executors import arm64
from parity.store.cache import default_root
from tests.plugin.tiny_project import Project, Run, timeless

pytest_plugins = "pytester"

ARM = "arm64:cortex-a76"
CACHES = str(default_root().parent)
WHY = "the host's own processor" if arm64.is_native() else arm64.unavailable("cortex-a76", "numpy")
emulated = pytest.mark.skipif(bool(WHY), reason=f"needs an emulated Arm core: {WHY}")


@pytest.fixture
def phone(fresh: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project whose fp32 file is executed on an Arm core, too."""
    project = fresh
    monkeypatch.setenv("XDG_CACHE_HOME", CACHES)  # pytester moves the home folder
    target = (project.path / "plain_target.py").read_text(encoding="utf-8")
    target = target.replace("    session, family", '    executors = ("arm64",)\n    session, family')
    # What a test asks of it, the session does on Arm alone.
    target = target.replace(
        'os.environ.get("PLAIN_RUN")', 'os.environ.get("PLAIN_RUN") if os.uname().machine == "aarch64" else None'
    )
    project.write("plain_target.py", target)
    project.set("executors", '{ "plain-fp32" = ["host", "arm64"] }')
    return project


def execution_of(run: Run) -> tuple[str, str]:
    record = run.record.cell("tiny-plain-fp32")
    return record.executions[0].state, record.state


def test_a_project_without_executors_has_the_tests_and_the_record_that_it_had(project: Project) -> None:
    run = project.run("--collect-only", "-q")
    assert "@" not in run.text and "test_golden[tiny-plain-fp32]" in run.text
    project.run()
    before = timeless(project.path / "reports" / "parity.json")
    project.set("executors", '["host"]')
    project.run("--parity-executors=host")
    after = timeless(project.path / "reports" / "parity.json")
    assert before.pop("configuration") != after.pop("configuration")  # its own text has changed
    assert before == after and all(cell["executions"] == [] for cell in after["cells"])


@emulated
def test_each_execution_has_tests_measurements_and_a_state_of_its_own(phone: Project) -> None:
    run = phone.run("-v")
    assert f"test_golden[tiny-plain-fp32@{ARM}] PASSED" in run.text
    assert f"test_contract[tiny-plain-fp32@{ARM}]" not in run.text
    cell = run.record.cell("tiny-plain-fp32")
    execution = cell.executions[0]
    assert (run.verdict, cell.state, execution.state) == ("pass", "pass", "measured")
    assert execution.executor == ARM and execution.machine == "aarch64" and not execution.native
    assert execution.emulator.startswith("qemu-user ") and execution.planned == ("golden", "accuracy")
    assert {c.case for c in execution.checks if c.kind == "golden"} == {"a/case0", "b/case1", "c/case2", "all"}
    assert "1 are measured against no limit" in run.record.reason
    assert run.record.cell("tiny-plain-fp16").executions == ()


@emulated
def test_what_was_emulated_once_is_told_to_be_so(phone: Project) -> None:
    def computed(run: Run) -> str:
        return run.record.cell("tiny-plain-fp32").executions[0].computed

    narrowed = (f"--parity-executors={ARM}", "-k", "golden")
    assert computed(phone.run(*narrowed)) == ""
    assert " on x86_64" in computed(phone.run(*narrowed))
    assert computed(phone.run(*narrowed, "--parity-rebuild")) == ""


@emulated
@pytest.mark.parametrize(
    ("how", "state", "words"),
    [("nan", "fail", "NaN"), ("renamed", "fail", "logits"), ("segfault", "crash", "SIGSEGV")],
)
def test_what_goes_wrong_on_arm_alone_refuses_the_cell(phone: Project, how: str, state: str, words: str) -> None:
    run = phone.run("--parity-executors=host,arm64", env={"PLAIN_RUN": how})
    assert execution_of(run) == (state, state)
    reason = run.record.cell("tiny-plain-fp32").reason
    assert reason.startswith(f"{ARM}: ") and words in reason
    assert (run.code, run.verdict) == (1, "fail")


@emulated
def test_a_file_that_an_executor_refuses_fails_no_test_unless_it_is_required(phone: Project) -> None:
    target = (phone.path / "plain_target.py").read_text(encoding="utf-8")
    refusing = """if os.uname().machine == "aarch64":
            from parity.formats.gpu import refusal
            raise refusal("no kernel for this")"""
    phone.write("plain_target.py", target.replace('misbehave(os.environ.get("PLAIN_LOAD"))', refusing))
    run = phone.run()
    execution = run.record.cell("tiny-plain-fp32").executions[0]
    assert execution.state == "refused" and execution.reason.endswith("no kernel for this")
    assert (run.code, run.verdict) == (0, "pass")
    run = phone.run("--parity-require=arm64")
    assert (run.code, run.verdict) == (1, "fail") and execution_of(run) == ("refused", "fail")


@emulated
def test_a_limit_that_the_project_set_holds_on_every_executor(phone: Project) -> None:
    phone.add("pyproject.toml", "[tool.parity.limits.fp32]\nrel_rms = 0.01\n")
    run = phone.run("-k", "fp32", env={"PLAIN_RUN": "scaled"})
    assert execution_of(run) == ("fail", "fail")
    waived = (
        '[[tool.parity.waive]]\ncell = "tiny-plain-fp32@arm64"\nmetric = "rel_rms"\nreason = "seen"\n'
        "expires = 2099-01-01\n"
    )
    phone.add("pyproject.toml", waived)
    assert execution_of(phone.run("-k", "fp32", env={"PLAIN_RUN": "scaled"}))[1] == "pass"


def test_a_required_executor_that_is_not_here_leaves_the_run_incomplete(phone: Project, tmp_path: Path) -> None:
    elsewhere = {"XDG_CACHE_HOME": str(tmp_path)}  # where nothing is installed
    run = phone.run("--parity-require=arm64", env=elsewhere)
    execution = run.record.cell("tiny-plain-fp32").executions[0]
    assert execution.state == "unavailable" and "parity tools install arm64" in execution.reason
    assert run.verdict == "incomplete" and f"tiny-plain-fp32@{ARM}" in run.record.reason
    assert phone.run(env=elsewhere).verdict == "pass"
    assert phone.run("--parity-executors=arm64", env=elsewhere).verdict == "incomplete"


def test_an_executor_that_the_project_does_not_name_is_a_mistake(project: Project) -> None:
    run = project.run("--parity-executors=arm64")
    assert run.code == 4 and "unknown executor" in run.text and "known: host" in run.text
