"""Whole runs on a cache that was filled before: by the same model, or by another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from parity.store.code_key import code_key
from tests.plugin.tiny_project import Project, Run

pytest_plugins = "pytester"

SCALED = """
import json, os, torch, types
from pathlib import Path

class Scaled(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = torch.nn.Linear(3, 4)
        self.weight, self.bias = self.linear.weight, self.linear.bias
        {held}
    def forward(self, x):
        return self.linear(x) * {scale}

def tiny():
    return Scaled()
"""
AT_FORWARD = SCALED.format(held="", scale='float(os.environ.get("SCALE", "1"))')
FILES = {"scale.json": "1.0", "scales.json": '{"scale": 1.0}'}
PUT_ASIDE = "all that is stored was put aside and made again"


def entries(project: Project) -> dict[str, tuple[dict[str, Any], int]]:
    """Specification and time of every entry of the project's cache, by key."""
    held = {}
    for folder in (project.cache / "objects").iterdir():
        manifest = folder / "manifest.json"
        spec = json.loads(manifest.read_text())["spec"]
        held[folder.name] = (spec, manifest.stat().st_mtime_ns)
    return held


def findings(run: Run) -> list[str]:
    return [f.text for cell in run.record.cells for f in cell.findings]


def put_aside(run: Run) -> bool:
    return any(PUT_ASIDE in text for text in findings(run))


def counted(log: Path) -> int:
    return len(log.read_text().splitlines()) if log.exists() else 0


def test_a_warm_run_makes_nothing(fresh: Project) -> None:
    assert fresh.run().verdict == "pass"
    before = entries(fresh)
    again = fresh.run()
    assert again.verdict == "pass" and entries(fresh) == before
    assert "all artefacts from the cache" in again.text


def test_every_entry_names_the_code_that_made_it(fresh: Project) -> None:
    fresh.run()
    specs = [spec for spec, _ in entries(fresh).values()]
    oracle = code_key("parity.reference.oracle:evaluate")
    assert [s["code"] for s in specs if s.get("evaluates") == "oracle"].count(oracle) > 0
    assert all("code" in spec for spec in specs)


def test_a_model_that_reads_the_environment_when_it_runs_does_not_pass_from_the_cache(
    fresh: Project, tmp_path: Path
) -> None:
    fresh.write("tinynet.py", AT_FORWARD)
    log = tmp_path / "made"
    env = {"PLAIN_COUNTER": str(log)}
    assert fresh.run(env={**env, "SCALE": "1"}).verdict == "pass"
    made = counted(log)
    changed = fresh.run(env={**env, "SCALE": "1.5"})
    assert changed.verdict == "fail" and put_aside(changed)
    assert counted(log) == 2 * made  # every file of the stale state is exported again
    again = fresh.run(env={**env, "SCALE": "1.5"})
    assert again.verdict == "fail" and not put_aside(again) and counted(log) == 2 * made
    assert fresh.run(env={**env, "SCALE": "1"}).verdict == "pass"


def test_workers_find_it_once(fresh: Project) -> None:
    pytest.importorskip("xdist")
    fresh.write("tinynet.py", AT_FORWARD)
    assert fresh.run("-n", "2", env={"SCALE": "1"}).verdict == "pass"
    changed = fresh.run("-n", "2", env={"SCALE": "1.5"})
    assert changed.verdict == "fail" and put_aside(changed)
    epochs = list((fresh.cache / "epochs").iterdir())
    assert len(epochs) == 1 and len(json.loads(epochs[0].read_text())["witnesses"]) == 1


@pytest.mark.parametrize(
    "held",
    [
        'self.cfg = {"scale": json.loads(Path("scale.json").read_text())}',
        'self.cfg = types.SimpleNamespace(**json.loads(Path("scales.json").read_text())).__dict__',
    ],
)
def test_a_value_that_a_model_read_moves_its_keys(held: str, fresh: Project) -> None:
    fresh.write("tinynet.py", SCALED.format(held=held, scale='self.cfg["scale"]'))
    for name, text in FILES.items():
        fresh.write(name, text)
    assert fresh.run().verdict == "pass"
    for name, text in FILES.items():
        fresh.write(name, text.replace("1.0", "1.5"))
    changed = fresh.run()
    assert changed.verdict == "fail" and not put_aside(changed)


def test_a_model_that_draws_noise_is_not_put_aside_in_every_run(fresh: Project) -> None:
    fresh.write("tinynet.py", SCALED.format(held="", scale="(1 + 1e-4 * torch.rand(()))"))
    fresh.run()
    before = set(entries(fresh))
    assert not put_aside(fresh.run()) and set(entries(fresh)) == before


def test_rebuild_makes_all_of_it_again(fresh: Project) -> None:
    """Files, oracle and twins. Otherwise a new file is held against the old oracle for ever."""
    fresh.run()
    before = entries(fresh)
    assert {spec.get("evaluates") for spec, _ in before.values()} >= {"oracle", "twin"}
    assert fresh.run("--parity-rebuild").verdict == "pass"
    after = entries(fresh)
    assert set(after) == set(before)
    untouched = [spec for key, (spec, time) in after.items() if time == before[key][1]]
    assert [set(spec) for spec in untouched] == [{"witness", "code"}]


def test_rebuild_of_one_cell_does_not_vouch_for_the_others(fresh: Project) -> None:
    """The stale oracle of the other cells must not be hit after it."""
    fresh.write("tinynet.py", AT_FORWARD)
    assert fresh.run(env={"SCALE": "1"}).verdict == "pass"
    fresh.run("--parity-rebuild", "-k", "fp16", env={"SCALE": "1.5"})
    assert set(fresh.run(env={"SCALE": "1.5"}).states().values()) == {"fail"}


AT_SOME_INPUTS = """
import json, torch
from pathlib import Path

class Clamped(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = torch.nn.Linear(3, 4)
        self.weight, self.bias = self.linear.weight, self.linear.bias
    def forward(self, x):
        return self.linear(x.clamp(max={top}))

def tiny():
    return Clamped()
"""
TOPS = {
    "a file": 'json.loads(Path(__file__).with_name("top.json").read_text())',
    "a variable": 'float(__import__("os").environ.get("TOP", "9"))',
}


def test_a_file_that_matters_to_few_inputs_does_not_pass_from_the_cache(fresh: Project) -> None:
    fresh.write("tinynet.py", AT_SOME_INPUTS.format(top=TOPS["a file"]))
    fresh.write("top.json", "9.0")
    assert fresh.run().verdict == "pass"
    before = entries(fresh)
    assert fresh.run().verdict == "pass" and entries(fresh) == before
    fresh.write("top.json", "0.7")  # above the first golden case
    changed = fresh.run()
    assert changed.verdict == "fail" and put_aside(changed), changed.text
    assert any("model tiny reads top.json, which has changed" in text for text in findings(changed))
    again = fresh.run()
    assert again.verdict == "fail" and not put_aside(again)


def test_a_variable_that_matters_to_few_inputs_does_not_pass_from_the_cache(fresh: Project) -> None:
    fresh.write("tinynet.py", AT_SOME_INPUTS.format(top=TOPS["a variable"]))
    assert fresh.run().verdict == "pass"
    before = entries(fresh)
    assert fresh.run(env={"OTHER": "1"}).verdict == "pass" and entries(fresh) == before
    changed = fresh.run(env={"TOP": "0.7"})
    assert changed.verdict == "fail" and put_aside(changed), changed.text
    assert any("model tiny reads the variable TOP, which has changed" in text for text in findings(changed))
