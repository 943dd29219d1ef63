"""What a CI reads beside the record: `junit.xml` as `make parity` writes it, annotations at the line of a limit."""

from __future__ import annotations

import re
import shutil
import xml.etree.ElementTree as ET
from urllib.parse import unquote

from tests.plugin.tiny_project import Project

pytest_plugins = "pytester"

HOSTILE = "evil\x1b[31m\n::error::x <&>\"']]>\u202e"
KILLED = "test_sequence[tiny-plain-fp16]"


def test_junit_has_each_test_once_and_annotations_point_at_the_limit(project: Project) -> None:
    case = project.path / "golden" / "a" / "case0.npz"
    shutil.move(case, case.with_name(f"{HOSTILE}.npz"))
    project.add("pyproject.toml", "[tool.parity.limits]\nfp32 = { rel_rms = 1e-3 }\nfp16 = { rel_rms = 0.01 }\n")
    project.add("conftest.py", f"""
import os, pytest, signal
@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item):
    if item.name == {KILLED!r}:
        os.kill(os.getpid(), signal.SIGKILL)
""")  # fmt: skip
    run = project.run("-n", "2", "--dist", "worksteal", "--junitxml=reports/junit.xml", "-k", "golden or sequence",
                      env={"PLAIN_RUN": "wrong", "GITHUB_ACTIONS": "true", "GITHUB_WORKSPACE": ""})  # fmt: skip
    assert (run.code, run.verdict) == (1, "fail"), run.text

    cases = [*ET.parse(project.path / "reports" / "junit.xml").getroot().iter("testcase")]
    names = sorted(c.attrib["name"] for c in cases)
    assert names == sorted(f"test_{k}[tiny-plain-{p}]" for k in ("golden", "sequence") for p in ("fp32", "fp16"))
    told = {c.attrib["name"]: " ".join((e.text or "") + e.attrib.get("message", "") for e in c) for c in cases}
    assert "worker 'gw" in told[KILLED] and "crashed while running" in told[KILLED]
    for precision in ("fp32", "fp16"):
        failure = told[f"test_golden[tiny-plain-{precision}]"]
        assert re.search(r"^tiny-plain-fp..: (first wrong at|the file behaves|logits: )", failure), failure
        assert "checks broken" in failure
        assert re.search(r"logits rel_rms: \S+ > \S+ in a/.*; limit from pyproject.toml:\d+", failure)
    assert not re.search("[\x00-\x08\x0b-\x1f\u202e]|^\\s*::", "\n".join(told.values()), re.MULTILINE)

    lines = (project.path / "pyproject.toml").read_text(encoding="utf-8").splitlines()
    pattern = r"^::error file=([^,]+),line=(\d+),title=([^:]+)::(.*)$"
    found = {unquote(t): (f, lines[int(n) - 1]) for f, n, t, _ in re.findall(pattern, run.text, re.MULTILINE)}
    assert found["parity: tiny-plain-fp32"] == ("pyproject.toml", "fp32 = { rel_rms = 1e-3 }")
    commands = [line for line in run.text.splitlines() if line.lstrip().startswith("::")]
    assert len(commands) == len(re.findall(r"^::(?:error|warning) file=", run.text, re.MULTILINE))
