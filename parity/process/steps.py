"""The child's side of every export step: a scratch folder around the converter's call, and nothing
printed upwards."""

from __future__ import annotations

import importlib
import os
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from parity.core.case import Array
from parity.core.errors import ParityError, Unconvertible
from parity.core.settings import ModelSpec
from parity.process import telling
from parity.process.child import stage


@dataclass(frozen=True)
class StepRequest:
    """One step of a route: `function` ("module:name") is called with the other fields by name, but
    for `start`, the stage that begins.

    `work` is the empty folder that it fills, `after` that of the step before. `contract` has the
    names, shapes and dtypes that an exporter may depend on, `example` the inputs that a module is
    exported with, `calibration` the cases that a quantiser takes its ranges from.
    """

    function: str
    start: str
    work: str
    after: str | None
    options: Mapping[str, Any]
    model: ModelSpec
    contract: Mapping[str, Any]
    example: Mapping[str, Array]
    calibration: Sequence[Mapping[str, Array]] | None = None


def run(request: StepRequest) -> dict[str, Any]:
    """What the step notes of what it made: it runs with a private scratch folder as working
    directory, which is gone afterwards. Converters drop files where they stand; two of them must
    never meet. Raises ParityError with the line that tells what the converter could not do, and where;
    Unconvertible where that is an operator of the model."""
    stage(request.start)
    module, _, name = request.function.partition(":")
    step = getattr(importlib.import_module(module), name)
    before = os.getcwd()
    with tempfile.TemporaryDirectory(prefix="parity-") as scratch:
        os.chdir(scratch)
        try:
            return dict(
                step(
                    work=request.work,
                    after=request.after,
                    options=request.options,
                    model=request.model,
                    contract=request.contract,
                    example=request.example,
                    calibration=request.calibration,
                )
            )
        except (ParityError, MemoryError):
            raise
        except (Exception, SystemExit) as error:
            traceback.print_exc()
            text, at_operator = telling.told(error)
            raise (Unconvertible if at_operator else ParityError)(text) from None
        finally:
            os.chdir(before)
