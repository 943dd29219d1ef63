"""`parity doctor` names what is missing, the command that adds it, and who extends the suite."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from parity import cli
from parity.commands import doctor


def said(capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = cli.main(["doctor"])
    return code, capsys.readouterr().out


def test_what_is_missing_is_added_by_a_command_for_this_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(doctor, "installed", lambda module: module not in ("ncnn", "coreai"))
    code, out = said(capsys)
    assert code == 1
    assert f"ncnn         no: ncnn missing: {sys.executable} -m pip install -c keep.txt 'pytest-parity[ncnn]'\n" in out
    assert f"first: {sys.executable} -m pip list --format=freeze > keep.txt" in out
    assert "coreai       no: coreai missing: parity tools install coreai\n" in out
    assert "toolchain onnx2tf      this environment has it\n" in out
    assert "onnx         yes: fp32, fp16, dynamic, int8" in out
    assert "no pyproject.toml with a [tool.parity] table" in out
    for absent, expected in (("coreai", 0), ("onnx", 1), ("", 0)):
        monkeypatch.setattr(doctor, "installed", lambda module, absent=absent: module != absent)
        code, out = said(capsys)
        assert (code, "keep.txt" in out) == (expected, bool(expected)), absent


def test_packages_that_do_not_support_this_python_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = {"onnx2tf": ">=3.12", "onnx": ">=3.9", "torch": "not a specifier"}

    def found(name: str) -> Any:
        if name not in wanted:
            raise metadata.PackageNotFoundError(name)
        return {"Requires-Python": wanted[name]}

    monkeypatch.setattr(doctor.metadata, "metadata", found)
    monkeypatch.setattr(doctor.platform, "python_version", lambda: "3.11.7")
    doctor._python()
    out = capsys.readouterr().out
    assert "onnx2tf (>=3.12): use a Python 3.11 environment" in out and "onnx (" not in out and "torch (" not in out


def test_what_the_kernel_does_not_offer_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for reason in ("", "this kernel offers no Landlock"):
        monkeypatch.setattr(doctor.sandbox, "missing", lambda reason=reason: reason)
        doctor._confinement()
        out = capsys.readouterr().out
        assert ("the network: yes" in out) == (not reason) and reason in out


def test_extensions_are_listed_with_the_package_that_brings_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    point = metadata.EntryPoint("npz", "parity_npz", "parity")
    monkeypatch.setattr(doctor.metadata, "entry_points", lambda group: [point])
    doctor._extensions()
    assert "extension npz: parity_npz, from unknown package" in capsys.readouterr().out
    monkeypatch.setattr(doctor.metadata, "entry_points", lambda group: [])
    doctor._extensions()
    assert "none installed" in capsys.readouterr().out
