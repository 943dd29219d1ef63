"""A record tells no secret of the environment and nobody's home, and keeps every name and figure."""

from __future__ import annotations

from pathlib import Path

from parity.core.exhibits import FaultFate
from parity.core.record import ArtifactRecord, CellRecord, Check, Environment, Finding, Power, RunRecord
from parity.report.redact import redacted

HOME = Path("/home/ada")
SECRET = "hunter2-hunter2"


def record(text: str) -> RunRecord:
    check = Check("golden", "a", "logits", "max_abs", 0.5, 1.0, "max", True, detail=text)
    cell = CellRecord("m-onnx-fp32", "m", "onnx", "fp32", "error", reason=text, log=text, findings=(Finding(text),),
                      checks=(check,), artifact=ArtifactRecord(location=text), routes_failed=(text,),
                      faults_failed=(text,),
                      power=Power(1, 0, (), 0, (FaultFate("own", "survived", text),)))  # fmt: skip
    return RunRecord("fail", (cell,), Environment("3.11", {}, "linux"), command=text)


def cleaned(text: str, **environ: str) -> str:
    found = redacted(record(text), HOME, environ)
    cell = found.cells[0]
    texts = {cell.reason, cell.log, cell.findings[0].text, cell.checks[0].detail, found.command, cell.routes_failed[0],
             cell.faults_failed[0], cell.power.fates[0].words if cell.power else "",
             cell.artifact.location if cell.artifact else ""}  # fmt: skip
    assert len(texts) == 1
    return texts.pop()


def test_the_home_folder_is_a_tilde() -> None:
    assert cleaned("/home/ada/models/x.onnx: no such file") == "~/models/x.onnx: no such file"
    assert cleaned("in '/home/ada'") == "in '~'"
    assert cleaned("/home/adam/x and /srv/home/adas") == "/home/adam/x and /srv/home/adas"


def test_secrets_are_starred_wherever_they_stand() -> None:
    assert cleaned(f"refused: {SECRET}!", AWS_SECRET_ACCESS_KEY=SECRET) == "refused: ***!"
    assert cleaned(f"{SECRET}", HF_TOKEN=SECRET, MY_PASSWORD=SECRET[:8]) == "***"
    assert cleaned(f"plain {SECRET}", EDITOR=SECRET) == f"plain {SECRET}"
    assert cleaned("parity", MY_TOKEN="parity") == "parity", "a short value is a word"


def test_logins_in_urls_are_starred() -> None:
    assert cleaned("--parity-cache s3://key:pass@host/x") == "--parity-cache s3://***@host/x"


def test_what_tells_nothing_is_the_very_same() -> None:
    before = record("text")
    assert redacted(before, HOME, {}).cells is before.cells


def test_names_and_figures_stay() -> None:
    before = record("text")
    assert redacted(before, HOME, {"API_KEY": "m-onnx-fp32"}) == before
    assert redacted(before, Path("/"), {}) == before
