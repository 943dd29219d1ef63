"""What people use instead: each as its documentation uses it, with its own defaults where the case gives none.

A peer that cannot be imported says so when it is made, and is left out.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..protocol import Base, File, Loss, NotApplicable, Pair, each


def run_by_hand(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What onnxruntime gives for the probe, and what the model does."""
    import onnxruntime

    from .. import files

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(None, {"x": files.PROBE}), strict=True)), files.model(files.PROBE)


class Polygraphy(Base):
    """`Comparator.compare_accuracy` with `SimpleCompareFunc`, on results given and on files run by its own runner."""

    name = "Polygraphy"

    def __init__(self) -> None:
        from polygraphy.logger import G_LOGGER

        G_LOGGER.module_severity = G_LOGGER.CRITICAL
        logging.getLogger("polygraphy").setLevel(logging.CRITICAL)

    def _passes(self, got: Sequence[Any], want: Sequence[Any], atol: float | None, rtol: float | None) -> bool:
        from polygraphy.comparator import Comparator, IterationResult, RunResults, SimpleCompareFunc

        def results(name: str, cases: Sequence[Any]) -> Any:
            return name, [IterationResult(dict(outputs), runner_name=name) for outputs in cases]

        runs = RunResults([results("want", want), results("got", got)])
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            judge = SimpleCompareFunc(atol=atol, rtol=rtol)
            return bool(Comparator.compare_accuracy(runs, compare_func=judge))

    def pair(self, case: Pair) -> bool:
        return self._passes(case.got, case.want, case.atol, case.rtol)

    def files(self, cases: Sequence[File]) -> set[str]:
        from polygraphy.backend.onnxrt import OnnxrtRunner, SessionFromOnnx
        from polygraphy.comparator import Comparator

        from .. import files

        def passes(path: Path) -> bool:
            runs = Comparator.run([OnnxrtRunner(SessionFromOnnx(str(path)))], data_loader=[{"x": files.PROBE}])
            want = [{k: v.astype(np.float32) for k, v in files.model(files.PROBE).items()}]
            return self._passes([dict(result) for result in runs[0][1]], want, 1e-3, 1e-3)

        return each(cases, passes)


class TorchOnnx(Base):
    """`torch.onnx.verification`, judged as `torch.onnx.export(..., verify=True)` judges it."""

    name = "torch.onnx verify"

    def __init__(self) -> None:
        import torch.onnx.verification  # noqa: F401

    @staticmethod
    def _holds(infos: Any, atol: float | None = 5e-3, rtol: float | None = 1e-1) -> bool:
        return all(not (i.max_abs_diff >= atol) and not (i.max_rel_diff >= rtol) for i in infos)

    def pair(self, case: Pair) -> bool:
        import torch
        from torch.onnx.verification import VerificationInfo

        if case.atol is None or not case.atol:
            raise NotApplicable("its limits are its own")
        infos = [
            VerificationInfo.from_tensors(name, torch.as_tensor(w), torch.as_tensor(g))
            for got, want in zip(case.got, case.want, strict=False)
            for (name, w), g in zip(want.items(), got.values(), strict=False)
        ]
        return self._holds(infos, case.atol, case.rtol or np.inf)

    def files(self, cases: Sequence[File]) -> set[str]:
        import onnx_ir
        import torch
        from torch.onnx import ONNXProgram
        from torch.onnx.verification import verify_onnx_program

        from .. import files

        class Model(torch.nn.Module):
            def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
                y = x @ torch.from_numpy(files.W) + torch.from_numpy(files.B)
                return y, torch.tanh(y)

        exported = torch.export.export(Model(), (torch.from_numpy(files.PROBE),))
        return each(
            cases, lambda path: self._holds(verify_onnx_program(ONNXProgram(onnx_ir.load(str(path)), exported)))
        )


class OnnxSim(Base):
    """`onnxsim.model_checking.compare` of the file with the right one, on its own random inputs."""

    name = "onnxsim check"

    def __init__(self) -> None:
        from onnxsim.model_checking import compare

        self._compare = compare

    def files(self, cases: Sequence[File]) -> set[str]:
        from .. import files

        with tempfile.TemporaryDirectory() as folder:
            right = Path(folder, "right.onnx")
            files.HONEST[0].write(right)
            return each(cases, lambda path: bool(self._compare(str(path), str(right), n_times=3, verbose=False)))


class NumpyAssert(Base):
    """`numpy.testing.assert_allclose` on every output of every case, in plain pytest."""

    name = "numpy assert_allclose"

    def pair(self, case: Pair) -> bool:
        for got, want in zip(case.got, case.want, strict=True):
            assert got.keys() == want.keys()
            for name in want:
                np.testing.assert_allclose(got[name], want[name], case.rtol, 1e-7 if case.atol is None else case.atol)
        return True

    def files(self, cases: Sequence[File]) -> set[str]:
        def passes(path: Path) -> bool:
            got, want = run_by_hand(path)
            for name in want:
                np.testing.assert_allclose(got[name], want[name], 1e-3, 1e-3)
            return True

        return each(cases, passes)

    def runs(self, cases: Sequence[Loss]) -> set[str]:
        """Plain pytest: the ids of the losses under which the test does not turn the run red."""
        together = [case for case in cases if not _alone(case)]
        found = _plain(together) if together else set()
        for case in cases:
            if _alone(case):
                found |= _plain([case])
        return found


def _alone(case: Loss) -> bool:
    from .. import runs

    return case in runs.ALONE


def _plain(cases: Sequence[Loss]) -> set[str]:
    """One run of plain pytest over a test a case. A single case passes when the exit code is 0; one of several when its
    test is not among those that failed."""
    with tempfile.TemporaryDirectory() as folder:
        tests = ["import numpy as np", "WANT = np.arange(6.0)", "def test_another(): pass"]
        for case in cases:
            got = "WANT + 5" if case.broken else "WANT"
            tests.append(f"def test_{ident(case)}():\n    np.testing.assert_allclose({got}, WANT, atol=1e-3)")
        Path(folder, "test_plain.py").write_text("\n".join(tests), encoding="utf-8")
        write_plugins(Path(folder), cases, lambda case: f"test_{ident(case)}")
        Path(folder, "conftest.py").write_text(load_plugins(cases), encoding="utf-8")
        workers = ["-n", "1"] if [c.id for c in cases] == ["worker-lost"] else ["-p", "no:xdist"]
        command = [sys.executable, "-m", "pytest", "-q", "-rfE", "-p", "no:cacheprovider", "-p", "no:parity", *workers]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    if len(cases) == 1:
        return {cases[0].id} if done.returncode == 0 else set()
    failed = set(re.findall(r"^(?:FAILED|ERROR) \S*::test_(\w+)", done.stdout, re.M))
    assert done.returncode in (0, 1), done.stdout
    return {case.id for case in cases if ident(case) not in failed}


def ident(case: Loss) -> str:
    return case.id.replace("-", "_")


def write_plugins(folder: Path, cases: Sequence[Loss], target: Callable[[Loss], str]) -> None:
    for case in cases:
        text = f"TARGET = {target(case)!r}\n{case.plugin}"
        (folder / f"loss_{ident(case)}.py").write_text(text, encoding="utf-8")


def load_plugins(cases: Sequence[Loss]) -> str:
    return f"pytest_plugins = {[f'loss_{ident(case)}' for case in cases]!r}\n"


class NumpyClose(Base):
    """`all(numpy.allclose(...))` over the outputs that the reference names."""

    name = "numpy allclose"

    def pair(self, case: Pair) -> bool:
        atol = 1e-8 if case.atol is None else case.atol
        return all(
            np.allclose(got[name], want[name], case.rtol, atol)
            for got, want in zip(case.got, case.want, strict=False)
            for name in want
        )

    def files(self, cases: Sequence[File]) -> set[str]:
        """Outputs by position, as `session.run(None, ...)` gives them."""

        def passes(path: Path) -> bool:
            got, want = run_by_hand(path)
            return all(np.allclose(g, w, 1e-3, 1e-3) for g, w in zip(got.values(), want.values(), strict=False))

        return each(cases, passes)


class TorchClose(Base):
    """`torch.testing.assert_close` on lists of mappings, dtypes not compared, as one does with a float64 oracle."""

    name = "torch assert_close"

    def __init__(self) -> None:
        import torch

        self._torch = torch

    def pair(self, case: Pair) -> bool:
        def tensors(cases: Sequence[Any]) -> list[dict[str, Any]]:
            return [{k: self._torch.as_tensor(v) for k, v in outputs.items()} for outputs in cases]

        given = {"rtol": None, "atol": None} if case.atol is None else {"rtol": case.rtol, "atol": case.atol}
        self._torch.testing.assert_close(tensors(case.got), tensors(case.want), **given, check_dtype=False)
        return True

    def files(self, cases: Sequence[File]) -> set[str]:
        def passes(path: Path) -> bool:
            got, want = run_by_hand(path)
            pairs = [{k: self._torch.as_tensor(v) for k, v in side.items()} for side in (got, want)]
            self._torch.testing.assert_close(*pairs, rtol=1e-3, atol=1e-3, check_dtype=False)
            return True

        return each(cases, passes)
