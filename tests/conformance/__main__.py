"""Run coremltools' own numeric tests through the evaluator: ``python -m tests.conformance [--whole]``.

Without ``--whole`` a fixed sample runs, small enough for every commit. The whole takes hours: ``--shard K/N`` takes
one part in N, and ``--log FILE`` with ``--seconds S`` runs it in pieces, each of which goes on where the last one
ended. The exit code is 0 only if enough tests were compared and at least 99.5 % of them agree.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from pathlib import Path

import pytest

OPERATORS = "coremltools.converters.mil.mil.ops.tests"
TORCH = "coremltools.converters.mil.frontend.torch.test"
SUITES = {
    "operators": [f"{OPERATORS}.iOS{version}" for version in (14, 15, 16, 17, 18)],
    "torch": [
        f"{TORCH}.{name}"
        for name in (
            "test_torch_ops",
            "test_torch_conversion_api",
            "test_torch_export_conversion_api",
            "test_torch_stateful_model",
            "test_torch_quantization_ops",
            "test_torch_export_quantization",
        )
    ],
}


def shard(text: str) -> tuple[int, int]:
    """``K/N`` as the remainder and the divisor of a hash."""
    k, _, n = text.partition("/")
    if not (k.isdigit() and n.isdigit() and 1 <= int(k) <= int(n)):
        raise argparse.ArgumentTypeError(f"{text!r} is not K/N with K from 1 to N")
    return int(k) - 1, int(n)


def main() -> int:
    """Parse the command line and hand over to pytest with a configuration of its own."""
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description=__doc__)
    parser.add_argument("--whole", action="store_true", help="every test, not the sample")
    parser.add_argument("--suite", choices=[*SUITES, "all"], default="all")
    parser.add_argument("--every", type=int, metavar="N", help="take one test in N (default 400, or 1 if whole)")
    parser.add_argument("--shard", type=shard, metavar="K/N", help="the K-th of N parts, from 1")
    parser.add_argument("--log", type=Path, metavar="FILE", help="write down each test, and leave out those in it")
    parser.add_argument("--seconds", type=float, metavar="S", help="begin no further test after S seconds")
    parser.add_argument("-k", metavar="EXPRESSION", help="as for pytest")
    options = parser.parse_args()
    if options.shard and options.every:
        parser.error("--shard and --every both choose a sample: give one of them")
    part, every = options.shard or (0, options.every or (1 if options.whole else 400))
    if importlib.util.find_spec("scipy") is None:
        parser.error("coremltools' operator tests need scipy: pip install scipy")
    os.environ.setdefault("PYMIL_TEST_TARGETS", "mlprogram")
    os.environ.setdefault("INCLUDE_MIL_FP32_UNIT_TESTS", "1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    suites = SUITES if options.suite == "all" else {options.suite: SUITES[options.suite]}
    here = Path(__file__).parent
    arguments = [
        *("-c", str(here / "pytest.ini"), "--rootdir", str(here), "-p", "tests.conformance.plugin"),
        *(
            "-q",
            "-r",
            "N",
            "--no-header",
            "-p",
            "no:cacheprovider",
            "--tb=short",
            "--show-capture=no",
            "-W",
            "ignore",
        ),
        *(f"--conformance-every={every}", f"--conformance-part={part}"),
        *([f"--conformance-log={options.log.absolute()}"] if options.log else []),
        *([f"--conformance-seconds={options.seconds}"] if options.seconds else []),
        *(["-k", options.k] if options.k else []),
        *("--pyargs", *(module for modules in suites.values() for module in modules)),
    ]
    return int(pytest.main(arguments))


if __name__ == "__main__":
    sys.exit(main())
