"""The command-line options that the plugin adds to pytest."""

from __future__ import annotations

import argparse
import re
from typing import Any

import pytest

from parity.core.plan import PRECISIONS, PROFILES


def _names(text: str) -> tuple[str, ...]:
    names = tuple(part.strip() for part in text.split(",") if part.strip())
    if not names:
        raise ValueError("expected a comma-separated list")
    return names


def _shard(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise ValueError("expected K/N with K from 1 to N, as in 2/5")
    return int(found[1]), int(found[2])


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise ValueError("expected a number of seconds above 0")
    return value


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 100_000:
        raise ValueError("expected a whole number from 1 to 100000")
    return int(text)


def _typed(name: str, parse: Any) -> Any:
    """`parse` as an argparse type whose complaint is a sentence."""

    def convert(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None

    convert.__name__ = name
    return convert


def add(parser: pytest.Parser) -> None:
    """Declare the options of `pytest`."""
    group = parser.getgroup("parity", "parity: does every exported file still compute what the model computes?")
    listed = _typed("list", _names)
    declare = group.addoption
    declare(
        "--parity-models",
        type=listed,
        metavar="LIST",
        help="measure only these models (narrows; verdict partial)",
    )
    declare("--parity-targets", type=listed, metavar="LIST", help="measure only these targets, as in onnx,tflite")
    declare("--parity-precisions", type=listed, metavar="LIST",
        help=f"measure only these precisions, of {', '.join(PRECISIONS)}")  # fmt: skip
    declare("--parity-profile", choices=PROFILES, default="full", metavar="NAME",
        help="quick: 8 golden cases a model, verdict partial; full (default); nightly: also what is long")  # fmt: skip
    declare(
        "--parity-report",
        metavar="PATH",
        help="HTML report (default reports/parity.html; .json and .md beside it)",
    )
    declare("--parity-no-report", action="store_true", help="write no report")
    declare(
        "--parity-cache",
        metavar="URL",
        help="folder or URL of the artefact cache (default: the user's cache); s3://, gs:// and other fsspec URLs are "
        "shared between machines, through the user's cache",
    )
    declare("--parity-set", action="append", default=[], metavar="TOML",
        help="a key of [tool.parity] for this run only, as in 'limits.fp32 = { cosine = 0.999 }'; the verdict is then "
             "at most partial")  # fmt: skip
    declare("--parity-rebuild", action="store_true", help="export and compute again, whatever the cache holds")
    declare("--parity-shard", type=_typed("shard", _shard), metavar="K/N", help="measure part K of N of the plan")
    declare("--parity-gate", choices=("block", "warn", "off"), default="block", metavar="MODE",
        help="block (default): exit code 1 unless the verdict is pass; warn: say it; off: do not judge")  # fmt: skip
    declare("--parity-require", type=listed, metavar="LIST",
        help="targets or models that must run here, or the verdict is not pass; adds to `require`")  # fmt: skip
    declare("--parity-baseline", metavar="PATH",
        help="ledger of the last release to compare with (default reports/baseline.json, if it exists)")  # fmt: skip
    declare("--parity-save-baseline", action="store_true",
        help="write the ledger, if the whole plan passes; where CI is set, only to a PATH that is named")  # fmt: skip
    declare("--parity-toolchain", action="append", default=[], metavar="TARGET=NAME[==VERSION]",
        help="go only the routes by this toolchain, as in tflite=litert or tflite=onnx2tf==1.29.20; the verdict is "
             "then at most partial")  # fmt: skip
    declare("--parity-executors", type=listed, metavar="LIST",
        help="execute files only by these, as in host,arm64,gpu (narrows `executors`; verdict partial)")  # fmt: skip
    declare("--parity-capsule", metavar="PATH",
        help="pack this run's cells into a capsule, to be executed on another machine: parity capsule run")  # fmt: skip
    declare("--parity-show-plan", action="store_true",
        help="print every cell, its limits and who set them, what cannot run here and why; run nothing")  # fmt: skip
    declare("--parity-power", action="store_true",
        help="inject named faults and report which of them each cell's limits would notice")  # fmt: skip
    declare("--parity-update", action="store_true",
        help="write the stored references of golden cases anew (`references`); refused where CI is set")  # fmt: skip
    declare("--parity-examples", type=_typed("count", _count), metavar="N",
        help="how many inputs each property test draws (default: by profile, from `properties`)")  # fmt: skip
    declare("--parity-submodels", metavar="DIR",
        help="save the step at which a failing file diverges, with its neighbours, as a file that runs")  # fmt: skip
    declare("--parity-timeout", type=_typed("seconds", _seconds), metavar="SECONDS",
        help="time for one step of an export or one batch of cases (default 600)")  # fmt: skip
    declare("--parity-rerun", metavar="COMMAND", help=argparse.SUPPRESS)  # for commands of ours that run pytest


def given(config: pytest.Config) -> dict[str, Any]:
    """The options' values, without the prefix."""
    names = ("models", "targets", "precisions", "profile", "report", "no_report", "cache", "rebuild", "shard", "gate",
             "require", "show_plan", "power", "timeout", "baseline", "save_baseline", "capsule", "set",
             "examples", "submodels", "update", "rerun", "toolchain", "executors")  # fmt: skip
    return {name: config.getoption(f"parity_{name}") for name in names}
