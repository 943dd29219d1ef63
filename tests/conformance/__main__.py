"""Run coremltools' own numeric tests through the evaluator: ``python -m tests.conformance [--whole]``.

Without ``--whole`` a fixed sample runs, small enough for every commit. The exit code is 0 only if enough
tests were compared and at least 99.5 % of them agree.
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


def main() -> int:
    """Parse the command line and hand over to pytest with a configuration of its own."""
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description=__doc__)
    parser.add_argument("--whole", action="store_true", help="every test, not the sample")
    parser.add_argument("--suite", choices=[*SUITES, "all"], default="all")
    parser.add_argument("--every", type=int, metavar="N", help="take one test in N (default 400, or 1 if whole)")
    parser.add_argument("--report", type=Path, metavar="JSON", help="write what each test came to")
    parser.add_argument("-k", metavar="EXPRESSION", help="as for pytest")
    options = parser.parse_args()
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
        f"--conformance-every={options.every or (1 if options.whole else 400)}",
        *([f"--conformance-report={options.report}"] if options.report else []),
        *(["-k", options.k] if options.k else []),
        *("--pyargs", *(module for modules in suites.values() for module in modules)),
    ]
    return int(pytest.main(arguments))


if __name__ == "__main__":
    sys.exit(main())
