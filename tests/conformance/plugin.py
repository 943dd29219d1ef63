"""The pytest plugin that makes coremltools' tests predict with the evaluator, on any operating system.

Off macOS those tests convert a model and return before they compare anything. Here they are told that they
run on macOS, ``MLModel.predict`` and ``make_state`` lead to :mod:`parity.mil`, and their fp16 tolerance
(atol 0.5, rtol 0.05) is cut to atol 5e-3 and rtol 2e-2. The same holds for tests of fp32 whose program
declares fp16 values, which Apple's own runs leave out; other tolerances stay as they are, or are cut too.

What a test came to:

- *agrees*: it predicted and passed; *differs*: it predicted and failed;
- *refused*: the evaluator refused the program by name; *broken*: the evaluator failed in another way;
- *not compared*: it passed, or was skipped, without predicting; *not converted*: it failed before predicting;
- *crashed*: a run with a log began it and never ended it.

With a log, every test is written down as it begins and as it ends, and a later run goes on after the last one: the
whole suite takes hours, and can so be run in pieces.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import parity.mil

ATOL, RTOL = 5e-3, 2e-2
FP16 = 10  # the number of fp16 in MIL.proto's enum DataType
BAR = 0.995
RUNTIME_ERROR = "Unable to compute the prediction using ML Program"  # the words that some tests wait for
FEWEST = 20  # comparisons below which no rate is worth reporting


@dataclass
class Outcome:
    """One test: what it came to, and the first line of its error."""

    test: str
    state: str
    reason: str = ""


class Conformance:
    """Runs for a session: patches coremltools, watches each test, sums up.

    One test in ``every`` is taken, those whose hash leaves the remainder ``part``. ``log`` is the file of a run in
    pieces, ``seconds`` how long this piece may take, from its first test on.
    """

    def __init__(self, every: int, part: int = 0, log: Path | None = None, seconds: float | None = None) -> None:
        self.every, self.part, self.log = every, part, log
        self.seconds, self.ends = seconds, float("inf")
        self.predictions = 0
        self.test = ""
        self.left = 0  # tests of the sample that have not run yet
        self.outcomes: list[Outcome] = read(log) if log and log.exists() else []

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Keep one test in ``every``, chosen by a hash of its name, and none of the neural network backend."""
        wanted, left_out = [], []
        for item in items:
            sampled = "neuralnetwork" not in item.name and _hash(_identity(item)) % self.every == self.part
            (wanted if sampled else left_out).append(item)
        known = {outcome.test for outcome in self.outcomes}
        again = [item for item in wanted if _identity(item) in known]
        config.hook.pytest_deselected(items=left_out + again)
        # By hash, so that a piece of a run is a fair sample of the whole.
        items[:] = sorted((i for i in wanted if _identity(i) not in known), key=lambda i: _hash(_identity(i) + "order"))
        self.left = len(items)
        if self.seconds:  # collecting takes minutes on a busy machine, and is no progress
            self.ends = time.monotonic() + self.seconds

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Seed each test by its name, so that a sample sees what the whole run sees."""
        if time.monotonic() > self.ends:
            item.session.shouldstop = "the time for this piece is over"
        self.test = _identity(item)
        self._note(Outcome(self.test, "crashed", "it began and never ended"))
        np.random.seed(_hash(self.test))
        _seed_torch(_hash(self.test))
        self.predictions = 0
        return (yield)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Classify the test by its call phase, or by its set-up where that was the end of it."""
        if report.when == "call" or (report.when == "setup" and not report.passed):
            outcome = Outcome(self.test, self._state(report), _reason(report))
            self.outcomes.append(outcome)
            self._note(outcome)
            self.left -= 1

    def _note(self, outcome: Outcome) -> None:
        if self.log is not None:
            with self.log.open("a") as file:
                file.write(json.dumps(asdict(outcome)) + "\n")

    def _state(self, report: pytest.TestReport) -> str:
        if report.failed:
            text = str(report.longrepr)
            if "UnsupportedOperator" in text:
                return "refused"
            if any(name in text for name in ("CorruptPackage", "InputError", "OperatorFailed")):
                return "broken"
            return "differs" if self.predictions else "not converted"
        return "agrees" if report.passed and self.predictions else "not compared"

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """The exit code follows the rate, not pytest's own count."""
        session.exitstatus = 0 if self.passed else 1

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """The counts, and every test that did not agree."""
        write = terminalreporter.write_line
        for outcome in self.outcomes:
            if outcome.state in ("differs", "broken", "refused", "crashed"):
                write(f"{outcome.state}: {outcome.test}: {outcome.reason}")
        write(", ".join(f"{n} {state}" for state, n in sorted(self.counts.items())))
        if self.left:
            write(f"{self.left} tests of this sample have not run: the same command with the same --log goes on")
        write(f"conformance: {self.rate:.2%} of {self.compared} compared tests agree (bar {BAR:.1%})")

    @property
    def counts(self) -> Counter[str]:
        """How many tests came to what."""
        return Counter(o.state for o in self.outcomes)

    @property
    def compared(self) -> int:
        """Tests that converted and should agree."""
        return sum(self.counts[s] for s in ("agrees", "differs", "broken", "crashed"))

    @property
    def rate(self) -> float:
        """The share of them that agree."""
        return self.counts["agrees"] / max(self.compared, 1)

    @property
    def passed(self) -> bool:
        """Whether there were enough comparisons and enough of them agree."""
        return self.compared >= FEWEST and self.rate >= BAR

    def patch(self) -> None:
        """Point coremltools at the evaluator."""
        import coremltools as ct
        from coremltools.converters.mil import testing_utils
        from coremltools.converters.mil.frontend.torch.test import testing_utils as torch_testing_utils
        from coremltools.models import model as model_module
        from coremltools.models import utils

        if importlib.util.find_spec("torchvision") is None:
            sys.modules["torchvision"] = ModuleType("torchvision")  # its tests fail before they predict
        for module in (testing_utils, torch_testing_utils):
            module._IS_MACOS = True
        for module in (utils, model_module, ct.utils):
            module._is_macos = lambda: True
            module._macos_version = lambda: (15, 0)
        conformance = self

        def predict(model: Any, data: Any, state: Any = None) -> Any:
            conformance.predictions += 1
            if isinstance(data, list):
                return [_predict(model, d, state) for d in data]
            return _predict(model, data, state)

        ct.models.MLModel.predict = predict
        ct.models.MLModel.make_state = lambda model: _State(_program(model).make_state())
        np.testing.assert_allclose = _tighter(np.testing.assert_allclose)
        np.isclose = _tighter(np.isclose)


def read(log: Path) -> list[Outcome]:
    """The outcomes of a log: the last line of a test counts."""
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.strip()]
    return list({line["test"]: Outcome(**line) for line in lines}.values())


def _hash(text: str) -> int:
    return zlib.crc32(text.encode())


def _identity(item: pytest.Item) -> str:
    """A name that does not depend on where coremltools is installed: ``iOS14.test_pool::TestPool::test[...]``."""
    module = ".".join(item.module.__name__.split(".")[-2:])
    return f"{module}::{item.nodeid.split('::', 1)[1]}"


class _State:
    """The evaluator's state behind the method names of coremltools' ``MLState``."""

    def __init__(self, state: parity.mil.State) -> None:
        self.state = state

    def read_state(self, name: str) -> Any:
        return self.state.read(name)

    def write_state(self, name: str, value: Any) -> None:
        self.state.write(name, value)


def _program(model: Any) -> parity.mil.Program:
    if not hasattr(model, "_parity_program"):
        with tempfile.TemporaryDirectory() as folder:
            path = model.package_path
            if path is None:  # a neural network specification, which was never saved
                model.save(path := str(Path(folder, "model.mlmodel")))
            model._parity_program = parity.mil.load(path, model.function_name)
    return model._parity_program


def _predict(model: Any, data: dict[str, Any], state: Any) -> dict[str, Any]:
    program = _program(model)
    model._verify_input_dict(data)  # coremltools' own, which its tests wait for
    Tolerance.has_fp16 = _declares_fp16(program)
    inputs = {name: v.numpy() if hasattr(v, "numpy") else v for name, v in data.items()}
    try:
        outputs = program.run(inputs, state=state.state if state is not None else None)
    except parity.mil.OperatorFailed as error:
        raise RuntimeError(f"{RUNTIME_ERROR}: OperatorFailed: {error}") from error
    except parity.mil.InputError as error:
        raise RuntimeError(f"{RUNTIME_ERROR}: InputError: {error}") from error
    return {name: _presented(value, program.outputs[name]) for name, value in outputs.items()}


def _presented(value: Any, feature: parity.mil.Feature) -> Any:
    """An output as ``MLModel.predict`` presents it: no rank 0, and pictures for image outputs."""
    if feature.kind == "image":
        from PIL import Image

        if feature.colour == "GRAYSCALE_FLOAT16":
            return Image.fromarray(value[0, 0].astype(np.float32))
        pixels = np.clip(np.round(value[0]), 0, 255).astype(np.uint8)
        return Image.fromarray(pixels[0] if pixels.shape[0] == 1 else pixels.transpose(1, 2, 0))
    return value.reshape(1) if isinstance(value, np.ndarray) and value.ndim == 0 else value


class Tolerance:
    """Which tolerance is fair to the program that predicted last."""

    has_fp16 = False


def _declares_fp16(program: parity.mil.Program) -> bool:
    """Whether the program holds any fp16 tensor, constants too: then fp32 tolerances are out of reach."""
    if not isinstance(program, parity.mil.Program):
        return False  # a neural network specification has no types of its own
    return any(o.type.tensorType.dataType == FP16 for operation in program.proto.operations for o in operation.outputs)


def _tighter(compare: Any) -> Any:
    """``compare`` with the tolerance of the program's precision: a test's own, but for fp16 exactly ours."""

    def tightened(actual: Any, desired: Any, rtol: float = 1e-7, atol: float = 0, **options: Any) -> Any:
        if Tolerance.has_fp16:
            rtol, atol = RTOL, ATOL
        return compare(actual, desired, rtol=min(rtol, RTOL), atol=min(atol, ATOL), **options)

    return tightened


def _seed_torch(seed: int) -> None:
    import torch

    torch.manual_seed(seed)


def _reason(report: pytest.TestReport) -> str:
    crash = getattr(report.longrepr, "reprcrash", None)
    lines = str(crash.message if crash else report.longrepr or "").strip().splitlines()
    return " ".join(line.strip() for line in lines[:6])[:300]


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options that ``__main__`` passes on."""
    parser.addoption("--conformance-every", type=int, default=400)
    parser.addoption("--conformance-part", type=int, default=0)
    parser.addoption("--conformance-log", type=Path, default=None)
    parser.addoption("--conformance-seconds", type=float, default=None)


def pytest_configure(config: pytest.Config) -> None:
    """Patch before the first test module is imported."""
    import torch

    torch.set_num_threads(1)
    torch.backends.mha.set_fastpath_enabled(False)
    options = ("every", "part", "log", "seconds")
    conformance = Conformance(*(config.getoption(f"conformance_{name}") for name in options))
    conformance.patch()
    config.pluginmanager.register(conformance, "conformance")
