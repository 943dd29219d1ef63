"""Ways to lose a measurement that a project has: none of them ends in `pass` or in exit code 0."""

from __future__ import annotations

import pytest

from parity.core.record import read
from tests.plugin.tiny_project import Project

pytest_plugins = "pytester"

HOOKS = {
    "a conftest that drops the golden tests": """
def pytest_collection_modifyitems(items):
    items[:] = [i for i in items if "test_golden" not in i.name]
""",
    "a conftest that drops and says so": """
def pytest_collection_modifyitems(config, items):
    gone = [i for i in items if "test_golden" in i.name]
    items[:] = [i for i in items if i not in gone]
    config.hook.pytest_deselected(items=gone)
""",
    "a conftest that drops every parity test": """
def pytest_collection_modifyitems(items):
    items[:] = []
""",
    "a conftest that marks skip": """
import pytest
def pytest_collection_modifyitems(items):
    for i in items:
        if "test_golden[tiny-plain-fp16]" in i.nodeid:
            i.add_marker(pytest.mark.skip(reason="flaky"))
""",
    "a fixture that skips": """
import pytest
@pytest.fixture(autouse=True)
def sometimes(request):
    if "test_contract" in request.node.name:
        pytest.skip("not today")
""",
    "a hook that skips during the call": """
import pytest
@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    if "test_accuracy" in pyfuncitem.name:
        pytest.skip("inside")
""",
    "a hook that runs nothing": """
import pytest
@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    if "test_golden" in pyfuncitem.name:
        return True
""",
    "a hook that forges the outcome": """
import pytest
@pytest.hookimpl(hookwrapper=True, tryfirst=True)
def pytest_runtest_makereport(item, call):
    out = yield
    report = out.get_result()
    if call.excinfo is not None:
        report.outcome, report.longrepr = "passed", None
import plain_target
plain_target.PlainSession.run = None
import os
os.environ["PLAIN_RUN"] = "nan"
""",
    "an xfail marker over a failure": """
import os, pytest
os.environ["PLAIN_RUN"] = "wrong"
def pytest_collection_modifyitems(items):
    for i in items:
        i.add_marker(pytest.mark.xfail(reason="known"))
""",
    "an xfail marker that does not run": """
import pytest
def pytest_collection_modifyitems(items):
    for i in items:
        if "test_golden" in i.name:
            i.add_marker(pytest.mark.xfail(run=False))
""",
    "a runtime that gives no row": """
from parity.session.session import Runtime
Runtime.run = lambda self, inputs: []
""",
    "a runtime that gives one case too few": """
from parity.session.session import Runtime
real = Runtime.run
Runtime.run = lambda self, inputs: real(self, inputs)[1:]
""",
    "no golden case": """
import pytest
@pytest.fixture(scope="session")
def parity_golden():
    return []
""",
    "one golden case too few": """
import pytest
@pytest.fixture(scope="session")
def parity_golden(parity_golden):
    return parity_golden[1:]
""",
    "a recorder that records nothing": """
import pytest
class Nothing:
    def limits(self, output=None): return {}
    def __getattr__(self, name): return lambda *a, **k: None
@pytest.fixture
def parity():
    return Nothing()
""",
    "a check that is cut off in the middle": """
import pytest
import parity.suite.contract as contract
contract._operators = lambda *a: pytest.fail("timed out")
""",
    "a check that is cut off by an exception": """
import parity.suite.batch as batch
def broken(*a): raise OSError("disk")
batch._sizes = broken
""",
    "limits that were taken away": """
import parity.judging.limits
parity.judging.limits.DEFAULTS = {}
""",
    "a test that stops the session as if all were well": """
import pytest
@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item):
    if "test_golden" in item.name:
        pytest.exit("enough", returncode=0)
""",
    "an interruption": """
import pytest
@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item):
    if "test_golden" in item.name:
        raise KeyboardInterrupt
""",
    "a session that wants to stop": """
import pytest
def pytest_runtest_logreport(report):
    pass
@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item):
    item.session.shouldstop = "enough"
""",
    "a fixture that fails in teardown": """
import pytest
@pytest.fixture(autouse=True)
def leaves_badly():
    yield
    raise OSError("teardown")
""",
}


@pytest.mark.parametrize("hooks", HOOKS.values(), ids=HOOKS)
def test_a_conftest_cannot_lose_a_measurement(project: Project, hooks: str) -> None:
    project.add("conftest.py", hooks)
    run = project.run()
    assert run.code != 0, run.text
    assert run.verdict in ("fail", "incomplete"), run.text
    assert f"verdict: {run.verdict}" in run.text or "Interrupted" in run.text or "Exit" in run.text


@pytest.mark.parametrize(
    "how", ["none", "renamed", "nan", "shape", "empty", "transposed", "dtype", "wrong", "one bad case"]
)
def test_a_runtime_cannot_lose_a_measurement(project: Project, how: str) -> None:
    run = project.run(env={"PLAIN_RUN": how})
    assert (run.code, run.verdict) == (1, "fail"), run.text
    assert "pass" not in run.states().values()
    assert all(cell.reason for cell in run.record.cells)


FILES = {
    "a golden test that does nothing": "from parity.suite import *\ndef test_golden(parity_cell): pass\n",
    "one that claims the kind": (
        "from parity.suite import *\ndef test_golden(parity_cell): pass\ntest_golden.parity_kind = 'golden'\n"
    ),
    "one that claims the kind and asks for the recorder": (
        "from parity.suite import *\ndef test_golden(parity_cell, parity): pass\ntest_golden.parity_kind = 'golden'\n"
    ),
    "one that measures a single case": (
        "from parity.suite import *\nimport numpy as np\ndef test_golden(parity_cell, parity):\n"
        "    parity.check('logits', np.ones(3), np.ones(3), cosine=0.9)\ntest_golden.parity_kind = 'golden'\n"
    ),
    "a golden test that is gone": "from parity.suite import test_contract, test_accuracy\n",
    "a test that is shadowed": "from parity.suite import *\ntest_accuracy = None\n",
    "no test at all": "def test_other(): pass\n",
    "a file that cannot be imported": "from parity.suite import *\nimport no_such_module\n",
    "a class that unittest skips": (
        "import unittest\nfrom parity.suite import test_contract\n"
        "@unittest.skip('x')\nclass TestSuite:\n    from parity.suite import test_golden, test_accuracy\n"
    ),
}


@pytest.mark.parametrize("text", FILES.values(), ids=FILES)
def test_a_test_file_cannot_lose_a_measurement(project: Project, text: str) -> None:
    project.write("test_parity.py", text)
    run = project.run()
    assert run.code != 0 and run.verdict in ("fail", "incomplete"), run.text


def test_no_name_of_a_case_is_special(project: Project) -> None:
    (project.path / "golden" / "a" / "case0.npz").rename(project.path / "golden" / "all.npz")
    run = project.run("--parity-precisions=fp32")
    assert run.code == 0 and run.record is not None, run.text
    cases = {c.case for c in run.record.cells[0].checks if c.kind == "golden"}
    assert cases == {"all", "all (case)", "b/case1", "c/case2"}


def test_an_empty_golden_folder_is_no_pass(project: Project) -> None:
    for file in (project.path / "golden").rglob("*.npz"):
        file.unlink()
    run = project.run()
    assert run.code == 1 and run.verdict == "fail", run.text
    assert "holds no picture and no .npz" in run.text


def test_a_broken_golden_file_is_no_pass(project: Project) -> None:
    (project.path / "golden" / "a" / "case0.npz").write_bytes(b"PK not really")
    run = project.run()
    assert (run.code, run.verdict) == (1, "fail") and "not a readable .npz" in run.text


def test_no_golden_data_is_no_pass(project: Project) -> None:
    text = (project.path / "pyproject.toml").read_text()
    project.write("pyproject.toml", text.replace('golden = "golden"\n', ""))
    run = project.run()
    assert (run.code, run.verdict) == (1, "fail") and 'set golden = "folder"' in run.text


def test_an_ignored_test_file_is_no_pass(project: Project) -> None:
    project.write("test_other.py", "def test_other(): pass\n")
    run = project.run("--ignore=test_parity.py")
    assert run.code != 0 and run.verdict == "incomplete", run.text


@pytest.mark.parametrize("stop", ["-x", "--maxfail=1"])
def test_stopping_at_the_first_failure_is_no_pass(project: Project, stop: str) -> None:
    project.write("test_a_first.py", "import pytest\n@pytest.mark.parity\ndef test_first(): assert False\n")
    run = project.run(stop)
    assert run.code != 0 and run.verdict == "incomplete", run.text


def test_a_worker_killed_in_a_test_is_a_crash_of_that_cell(project: Project) -> None:
    project.add("conftest.py", """
import os, pytest, signal
@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item):
    if item.name == "test_golden[tiny-plain-fp32]":
        os.kill(os.getpid(), signal.SIGKILL)
""")  # fmt: skip
    run = project.run("-n", "2", "--dist", "worksteal")
    assert (run.code, run.verdict) == (1, "fail"), run.text
    assert run.states() == {"tiny-plain-fp32": "crash", "tiny-plain-fp16": "pass"}
    cell = run.record.cell("tiny-plain-fp32")
    assert cell.stage == "pytest" and "died while it ran test_golden[tiny-plain-fp32]" in cell.reason


def test_the_process_killed_in_a_test_leaves_no_passing_record(project: Project) -> None:
    project.add("conftest.py", """
import os, pytest, signal
@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item):
    if item.name == "test_golden[tiny-plain-fp32]":
        os.kill(os.getpid(), signal.SIGKILL)
""")  # fmt: skip
    run = project.run()
    assert run.code != 0 and run.verdict == "incomplete"
    assert set(run.states().values()) == {"missing"}


def test_the_record_of_the_last_run_does_not_outlive_a_run_that_dies(project: Project) -> None:
    assert project.run("--parity-report=reports/last.html").code == 0
    kept = {project.path / "reports" / f"last{suffix}" for suffix in (".json", ".html", ".md")}
    assert all(path.exists() for path in kept)
    project.run("--parity-report=reports/last.html", "-k", "no_such_cell")
    assert all(path.exists() for path in kept), "a run of nothing replaces nothing"
    project.add("conftest.py", """
import os, pytest, signal
@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    if "[tiny-plain-fp32]" in item.name:
        os.kill(os.getpid(), signal.SIGKILL)
""")  # fmt: skip
    assert project.run("--parity-report=reports/last.html").code != 0
    left = project.path / "reports" / "last.json"
    assert {path for path in kept if path.exists()} == {left}
    assert read(left).verdict == "incomplete"
