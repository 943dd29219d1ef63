"""Ways to lose a test in a run of pytest that ends green.

Each is a plugin that acts on the test whose node id contains TARGET, and works on any test suite: on this one's
golden test of one cell, and on a plain test that calls numpy.testing. `alone`: it takes the whole session with it.
"""

from __future__ import annotations

from .protocol import Loss

_MARK = """
import pytest
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        if TARGET in item.nodeid:
            item.add_marker({mark})
"""
_CALL = """
import os, pytest, signal, sys, time
@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    if TARGET in pyfuncitem.nodeid:
        {do}
"""
_REPORT = """
import pytest
@pytest.hookimpl(hookwrapper=True, tryfirst=True)
def pytest_runtest_makereport(item, call):
    out = yield
    report = out.get_result()
    if TARGET in item.nodeid and report.when == "call":
        {do}
"""

CASES = (
    Loss("skip-marked", "The test is marked skip.", _MARK.format(mark='pytest.mark.skip(reason="flaky")')),
    Loss("skipif-true", "The test is skipped under a condition that always holds.",
         _MARK.format(mark='pytest.mark.skipif(True, reason="no GPU")')),
    Loss("skip-in-call", "The test skips itself in the middle.", _CALL.format(do='pytest.skip("not today")')),
    Loss("skip-for-import", "A package is absent, and importorskip skips.",
         _CALL.format(do='pytest.importorskip("no_such_runtime")')),
    Loss("skip-in-setup", "A fixture skips.", """
import pytest
@pytest.fixture(autouse=True)
def sometimes(request):
    if TARGET in request.node.nodeid:
        pytest.skip("not today")
"""),
    Loss("unittest-skip", "The test raises unittest's SkipTest.",
         _CALL.format(do='import unittest; raise unittest.SkipTest("not here")')),
    Loss("xfail", "The test fails, as it is marked to.", _MARK.format(mark='pytest.mark.xfail(reason="known")'),
         broken=True),
    Loss("xfail-not-run", "The test is marked xfail and not run.",
         _MARK.format(mark='pytest.mark.xfail(run=False, reason="hangs")')),
    Loss("xfail-in-call", "The test calls pytest.xfail.", _CALL.format(do='pytest.xfail("known")')),
    Loss("dropped", "A conftest drops the test from the collection.", """
def pytest_collection_modifyitems(items):
    items[:] = [item for item in items if TARGET not in item.nodeid]
"""),
    Loss("deselected", "A conftest deselects the test and says so.", """
def pytest_collection_modifyitems(config, items):
    gone = [item for item in items if TARGET in item.nodeid]
    items[:] = [item for item in items if item not in gone]
    config.hook.pytest_deselected(items=gone)
"""),
    Loss("not-called", "A hook takes the call over and does nothing.", _CALL.format(do="return True")),
    Loss("emptied", "The test's body was replaced by one that does nothing.", """
def pytest_collection_modifyitems(items):
    for item in items:
        if TARGET in item.nodeid:
            item.obj = lambda **fixtures: None
"""),
    Loss("swallowed", "A wrapper swallows the failure.", """
import pytest
@pytest.hookimpl(hookwrapper=True, tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    out = yield
    if TARGET in pyfuncitem.nodeid:
        out.force_result(True)
""", broken=True),
    Loss("forged-outcome", "A hook turns the failure into a pass.",
         _REPORT.format(do='report.outcome, report.longrepr = "passed", None'), broken=True),
    Loss("forged-skip", "A hook turns the failure into a skip.",
         _REPORT.format(do='report.outcome, report.longrepr = "skipped", ("f", 1, "Skipped: flaky")'), broken=True),
    Loss("report-lost", "The test's report never arrives.", """
import pytest
@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item, nextitem):
    if TARGET in item.nodeid:
        return True
"""),
)  # fmt: skip

ALONE = (
    Loss("exit-zero", "A test ends the session with exit code 0.",
         _CALL.format(do='pytest.exit("enough", returncode=0)')),
    Loss("nothing-left", "Every test but one is dropped, and that one is another.", """
def pytest_collection_modifyitems(items):
    items[:] = [item for item in items if TARGET not in item.nodeid][:1]
"""),
    Loss("stopped", "The session is told to stop after the first test.", """
import pytest
@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item):
    item.session.shouldstop = "enough"
"""),
    Loss("empty-parameters", "The test is parametrised over an empty list.", """
import pytest
@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc):
    if metafunc.function.__name__ in TARGET:
        metafunc.fixturenames.append("empty")
        metafunc.parametrize("empty", [])
"""),
    Loss("worker-lost", "A worker of pytest-xdist dies in the test.",
         _CALL.format(do="os.kill(os.getpid(), signal.SIGKILL)")),
)  # fmt: skip

HONEST = (Loss("untouched", "Nothing happens to the test.", "", honest=True),)
