"""Changes to saved packages are noticed: the whole count is in ``research/mil_mutants.py`` and ``docs/coreml.md``."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.nightly
def test_most_mutants_of_saved_packages_fail_or_are_refused():
    command = [sys.executable, str(ROOT / "research" / "mil_mutants.py"), "--each", "14"]
    found = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert found.returncode == 0, found.stdout + found.stderr[-2000:]
