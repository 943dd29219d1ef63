"""Children that die, hang, eat memory, print or lie: each is one named failure, and the next call works."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import venv
from collections.abc import Iterator
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np
import psutil
import pytest

from parity.process import serialise
from parity.process.isolate import Budget, Child, ChildFailure, Children, child_environment
from tests.unit import workload

HERE = Path(__file__).parent
SHORT, LONG = Budget(seconds=0.6), Budget(seconds=20.0)


@pytest.fixture
def child() -> Iterator[Child]:
    one = Child("test", root=HERE)
    yield one
    one.close()


@pytest.fixture(scope="module")
def warm() -> Iterator[Child]:
    """One child for all the tests that leave it alive."""
    one = Child("warm", root=HERE)
    yield one
    one.close()


def call(child: Child, name: str, /, budget: Budget = LONG, stage: str = "run", **arguments: Any) -> Any:
    """The answer to one argument, or to the dataclass that takes several."""
    several = {"fail": workload.Failing, "note_and_die": workload.Dying}
    request = several[name](**arguments) if name in several else next(iter(arguments.values()), None)
    kind: Any = workload.Sum if name.endswith("total") else Any
    return child.call(f"workload:{name}", request, kind, budget=budget, stage=stage)


def failure(child: Child, name: str, /, **arguments: Any) -> ChildFailure:
    with pytest.raises(ChildFailure) as caught:
        call(child, name, **arguments)
    assert "\n" not in str(caught.value)
    return caught.value


def gone(pid: int, seconds: float = 6.0) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.02)
    return False


def wait_for(file: Path) -> list[int]:
    until = time.monotonic() + 10
    while time.monotonic() < until:
        if file.exists() and file.read_text().strip():
            return [int(part) for part in file.read_text().split()]
        time.sleep(0.02)
    raise AssertionError("the child did not start")


# A warm child.


def test_a_child_stays_warm_between_calls(child: Child) -> None:
    assert [call(child, "count") for _ in range(3)] == [1, 2, 3]
    assert call(child, "pid") == child.pid != os.getpid()


def test_a_child_stays_warm_after_an_exception(warm: Child) -> None:
    before = call(warm, "pid")
    assert failure(warm, "fail", message="no").state == "error"
    assert call(warm, "pid") == before


def test_arguments_and_results_keep_their_values(warm: Child) -> None:
    value = {"a": [1, 2.5, None, True, "é\n"], "b": np.arange(6, dtype=np.int16).reshape(2, 3), "c": float("inf")}
    back = call(warm, "echo", value=value)
    np.testing.assert_array_equal(back.pop("b"), value.pop("b"))
    assert back == value


def test_big_arrays_go_both_ways(child: Child) -> None:
    arrays = [np.full((3 << 20,), i, np.float32) for i in range(8)]  # 96 MiB
    back = call(child, "total", arrays=arrays)
    assert back.sum == float(sum(a.sum() for a in arrays))
    assert all((a == b).all() for a, b in zip(arrays, back.back, strict=True))


def test_the_environment_is_pinned(warm: Child) -> None:
    assert call(warm, "environment", name="OMP_NUM_THREADS") == "1"
    assert call(warm, "environment", name="PYTHONHASHSEED") == "0"
    assert call(warm, "environment", name="CUDA_VISIBLE_DEVICES") == ""
    assert call(warm, "environment", name="PYTEST_CURRENT_TEST") is None
    place = call(warm, "where")
    assert Path(place["cwd"]) == HERE and place["group"] == place["pid"]


def test_the_project_comes_first_on_the_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PYTHONPATH", "/before")
    paths = child_environment(tmp_path)["PYTHONPATH"].split(os.pathsep)
    assert paths[0] == str(tmp_path) and paths[-1] == "/before"


def test_stages_are_heard_in_order(warm: Child) -> None:
    heard: list[str] = []
    warm.call("parity.process.child:stage", "load", NoneType, on_stage=heard.append, budget=Budget(10))
    warm.call("parity.process.child:stage", "run", NoneType, on_stage=heard.append, budget=Budget(10))
    assert heard == ["load", "run"]


# Ways to die.


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("segfault", {}, "SIGSEGV (segmentation fault)"),
        ("abort", {}, "SIGABRT (abort)"),
        ("leave_at_once", {"code": 3}, "exited with code 3"),
        ("leave_at_once", {"code": 0}, "exited with code 0"),
        ("raise_signal", {"number": int(signal.SIGKILL)}, "SIGKILL (killed: out of memory, or by hand)"),
        ("raise_signal", {"number": int(signal.SIGBUS)}, "SIGBUS (bus error)"),
        ("raise_signal", {"number": int(signal.SIGILL)}, "SIGILL (illegal instruction)"),
        ("raise_signal", {"number": int(signal.SIGFPE)}, "SIGFPE (arithmetic fault)"),
        ("raise_signal", {"number": int(signal.SIGTERM)}, "SIGTERM"),
        ("write_half", {}, "exited with code 0"),
    ],
)
def test_a_death_is_a_crash_with_its_name(child: Child, name: str, arguments: dict[str, Any], words: str) -> None:
    found = failure(child, name, **arguments)
    assert (found.state, found.reason) == ("crash", words)
    assert call(child, "echo", value=1) == 1


def test_a_crash_is_named_after_its_stage_with_the_end_of_the_log(child: Child) -> None:
    found = failure(child, "segfault", stage="export")
    assert found.stage == "convert" and str(found).startswith("convert: SIGSEGV")
    assert "about to fall" in found.log and "Segmentation fault" in found.log
    assert "workload.py" in found.log


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("leave", {"code": 3}, "called sys.exit(3)"),
        ("leave", {"code": 0}, "called sys.exit(0)"),
        ("leave", {"code": "bye"}, "called sys.exit('bye')"),
        ("fail", {"message": "first\nsecond"}, "ValueError: first"),
        ("fail", {"message": ""}, "ValueError: no message"),
        ("fail", {"message": "x" * 9999}, "ValueError: x"),
        ("fail", {"message": "m", "kind": "KeyboardInterrupt"}, "KeyboardInterrupt: m"),
        ("fail", {"message": "cannot allocate", "kind": "MemoryError"}, "MemoryError: cannot allocate"),
        ("fail", {"message": "", "kind": "MemoryError"}, "MemoryError"),
        ("fail", {"message": "one line", "kind": "ParityError"}, "one line"),
        ("fail", {"message": "deep", "kind": "RecursionError"}, "RecursionError: deep"),
        ("unsendable", {}, "cannot be sent"),
        ("no_such_function", {}, "AttributeError"),
        ("environment", {"name": 3}, "no str: expected str, found int"),
        (
            "wrong_total",
            {"arrays": []},
            "workload:wrong_total: its answer is no Sum: expected float, found str @ $.sum",
        ),
    ],
)
def test_an_exception_is_an_error(warm: Child, name: str, arguments: dict[str, Any], words: str) -> None:
    found = failure(warm, name, **arguments)
    assert found.state == "error" and words in found.reason and len(found.reason) <= 520
    assert call(warm, "echo", value=1) == 1


def test_a_module_that_does_not_exist_is_an_error(warm: Child) -> None:
    with pytest.raises(ChildFailure, match="ModuleNotFoundError") as caught:
        warm.call("no_such_module:f", None, NoneType)
    assert caught.value.state == "error"


def test_the_log_of_an_error_holds_its_traceback_and_nothing_older(warm: Child) -> None:
    failure(warm, "fail", message="an older one")
    found = failure(warm, "fail", message="this one")
    assert "Traceback" in found.log and "this one" in found.log and "an older one" not in found.log


@pytest.mark.parametrize(
    ("name", "arguments"), [("hang", {"seconds": 600.0}), ("hang_talking", {}), ("hang_in_native_code", {"file": ""})]
)
def test_a_hang_is_a_timeout(child: Child, name: str, arguments: dict[str, Any]) -> None:
    call(child, "echo")
    start = time.monotonic()
    found = failure(child, name, **arguments, budget=SHORT)
    assert found.state == "timeout" and "no answer within 0.6 s" in found.reason
    assert time.monotonic() - start < 3
    assert call(child, "echo", value=1) == 1


def test_a_timeout_is_named_after_its_stage(child: Child) -> None:
    call(child, "pid")  # a busy machine needs longer to start one than this test's time
    assert failure(child, "hang", seconds=600.0, budget=SHORT).stage == "load"


def test_a_slow_answer_within_the_time_is_an_answer(warm: Child) -> None:
    assert call(warm, "hang", seconds=0.3, budget=Budget(20)) is None


def test_eating_memory_is_a_crash_that_says_how_much(child: Child) -> None:
    found = failure(child, "eat", mebibytes=8000, budget=Budget(20, 400 << 20))
    assert found.state == "crash" and found.reason.startswith("used more than 0.4 GiB, ended: ")
    assert call(child, "eat", mebibytes=32) == 2


def test_memory_of_what_the_child_started_counts(child: Child) -> None:
    found = failure(child, "eat_in_a_child", mebibytes=600, budget=Budget(20, 400 << 20))
    assert found.state == "crash" and "GiB" in found.reason


@pytest.mark.parametrize("name", ["write_garbage", "no_event"])
def test_something_that_is_no_answer_is_a_crash_at_once(child: Child, name: str) -> None:
    start = time.monotonic()
    found = failure(child, name)
    assert found.state == "crash" and found.reason == "broke off its answer"
    assert time.monotonic() - start < 3
    assert call(child, "echo", value=1) == 1


def test_noise_on_standard_output_does_not_reach_the_protocol(warm: Child) -> None:
    assert [call(warm, "noise") for _ in range(2)] == ["answer", "answer"]


def test_noise_is_in_the_log(warm: Child) -> None:
    call(warm, "noise")
    warm._log.seek(0)
    log = warm._log.read().decode()
    for text in ("python prints", "native code prints", "libc prints", "and to stderr"):
        assert text in log


def test_a_child_that_reads_its_input_gets_nothing(warm: Child) -> None:
    assert call(warm, "reads_stdin") == ""


# Once more in a fresh child.


def test_a_call_that_kills_a_used_child_is_repeated_once_in_a_fresh_one(child: Child, tmp_path: Path) -> None:
    file = tmp_path / "pids"
    first = call(child, "note", file=str(file))
    second = call(child, "note", file=str(file))
    pids = [int(p) for p in file.read_text().split()]
    assert first != second and pids == [first, first, second]


def test_a_call_that_kills_the_fresh_child_too_is_a_crash(child: Child, tmp_path: Path) -> None:
    file = tmp_path / "pids"
    call(child, "echo")
    assert failure(child, "note_and_die", file=str(file), how="abort").state == "crash"
    assert len(set(file.read_text().split())) == len(file.read_text().split()) == 2


def test_a_call_that_kills_an_unused_child_is_not_repeated(child: Child, tmp_path: Path) -> None:
    file = tmp_path / "pids"
    assert failure(child, "note_and_die", file=str(file), how="abort").state == "crash"
    assert len(file.read_text().split()) == 1


@pytest.mark.parametrize("how", ["hang", "raise"])
def test_a_timeout_or_an_exception_is_not_repeated(child: Child, tmp_path: Path, how: str) -> None:
    file = tmp_path / "pids"
    call(child, "echo")
    failure(child, "note_and_die", file=str(file), how=how, budget=SHORT)
    assert len(file.read_text().split()) == 1


# Killed from outside.


def test_a_child_killed_while_idle_is_replaced(child: Child) -> None:
    before = call(child, "pid")
    os.kill(before, signal.SIGKILL)
    assert gone(before)
    assert call(child, "pid") != before


def test_a_child_killed_and_not_yet_noticed_is_replaced(child: Child) -> None:
    before = call(child, "pid")
    os.kill(before, signal.SIGKILL)
    assert call(child, "pid") != before


def test_a_child_killed_while_busy_is_a_crash(child: Child) -> None:
    def kill(stage: str) -> None:
        os.kill(child.pid or 0, signal.SIGKILL)

    with pytest.raises(ChildFailure) as caught:
        child.call("workload:hang", 600.0, NoneType, on_stage=kill, budget=LONG)
    found = caught.value
    assert found.state == "crash" and "SIGKILL" in found.reason and found.stage == "load"


def test_a_child_stopped_from_outside_is_a_timeout(child: Child) -> None:
    pid = call(child, "pid")
    os.kill(pid, signal.SIGSTOP)
    assert failure(child, "echo", budget=SHORT).state == "timeout"
    assert gone(pid)


def test_what_the_child_started_ends_with_it_on_a_timeout(child: Child, tmp_path: Path) -> None:
    file = tmp_path / "pids"
    assert failure(child, "hang_with_children", file=str(file), budget=Budget(1.5)).state == "timeout"
    for pid in wait_for(file):
        assert gone(pid)


def test_what_an_idle_child_started_ends_when_it_is_replaced(child: Child) -> None:
    pid, helper = call(child, "start_helper")
    os.kill(pid, signal.SIGKILL)
    assert gone(pid)
    call(child, "echo")
    assert gone(helper)


def test_interrupting_a_call_ends_the_child(child: Child) -> None:
    pid = call(child, "pid")

    def interrupt(stage: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        child.call("workload:hang", 600.0, NoneType, on_stage=interrupt, budget=Budget(20))
    assert gone(pid)
    assert call(child, "echo", value=1) == 1


PARENT = """
import sys
from pathlib import Path
from parity.process.isolate import Budget, Child
child = Child("test", root=Path(sys.argv[1]))
child.start()
busy = sys.argv[2].startswith("hang")
child.call("workload:" + sys.argv[2], sys.argv[3], type(None) if busy else str)
Path(sys.argv[3]).write_text(str(child.pid))
import time; time.sleep(600)
"""


@pytest.mark.parametrize("name", ["echo", "hang_with_children", "hang_in_native_code"])
def test_the_child_of_a_killed_parent_ends_within_seconds(tmp_path: Path, name: str) -> None:
    file = tmp_path / "pids"
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(HERE), name, str(file)])
    pids = wait_for(file)
    parent.kill()
    parent.wait()
    for pid in pids:
        assert gone(pid, 6)


def test_closing_ends_every_child_and_a_second_close_is_nothing() -> None:
    with Children(HERE, Budget(20)) as children:
        pids = [children.call(name, "workload:pid", None, int) for name in ("a", "b")]
        assert children.call("a", "workload:pid", None, int) == pids[0] != pids[1]
    assert all(map(gone, pids))
    children.close()


def test_children_share_the_session_s_budget() -> None:
    with Children(HERE, SHORT) as children, pytest.raises(ChildFailure) as caught:
        children.call("a", "workload:hang", 600.0, NoneType)
    assert caught.value.state == "timeout"


def test_an_interpreter_that_does_not_exist_is_an_error() -> None:
    child = Child("test", python="/no/such/python", root=HERE)
    found = failure(child, "echo")
    assert found.state == "error" and "/no/such/python" in found.reason


# An interpreter with an environment of its own.


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with NumPy, and with older copies of what our serialiser imports."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, symlinks=True)
    packages = next(folder.glob("lib/python*/site-packages"))
    home = Path(np.__file__).parent
    for source in (home, home.with_name("numpy.libs")):
        if source.exists():
            (packages / source.name).symlink_to(source)
    for name in ("attr", "attrs"):
        (packages / name).mkdir()
        (packages / name / "__init__.py").write_text("whose = 'theirs'\n")
    (packages / "typing_extensions.py").write_text("whose = 'theirs'\n")
    return folder / "bin" / "python"


@pytest.fixture
def foreign(bare: Path) -> Iterator[Child]:
    one = Child("foreign", python=str(bare), root=HERE)
    yield one
    one.close()


def test_an_environment_without_our_serialiser_is_asked_and_answers(foreign: Child) -> None:
    arrays = [np.arange(3.0), np.ones((2, 2), np.int8)]
    answer = call(foreign, "total", arrays=arrays)
    assert answer.sum == 7.0 and [a.dtype for a in answer.back] == ["float64", "int8"]
    place = call(foreign, "interpreter")
    assert place["prefix"] != sys.prefix and not place["ours"]


def test_an_environment_keeps_its_own_copies(foreign: Child) -> None:
    """Our serialiser needs an attrs that is newer than many converters' environments hold."""
    call(foreign, "total", arrays=[])
    assert call(foreign, "whose") == {"attr": "theirs", "attrs": "theirs", "typing_extensions": "theirs"}
    assert call(foreign, "total", arrays=[np.ones(2)]).sum == 2.0


def test_a_child_of_our_own_environment_is_not_given_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(serialise.CARRIED, "/elsewhere")
    assert serialise.CARRIED not in child_environment(HERE)
