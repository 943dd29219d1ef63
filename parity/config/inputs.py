"""How a model's inputs are made, drawn, played and carried on: `cases`, `properties`, `video` and `decode`.

Imports nothing of the configuration's reader: `config` hands its tables over.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from parity.core.contract import Contract
from parity.core.plan import did_you_mean
from parity.core.settings import Decode, Playing, Properties

FUNCTION = r"[A-Za-z_][\w.]*:[A-Za-z_]\w*"


def playing(t: Any) -> tuple[Any, Playing]:
    """The table that holds the clips' path, and how they are played: `video = "folder"`, or
    `video = { path = "folder", stride = 2, maximum = 100, rotate = 90, crop = "top" }`."""
    if not isinstance(t.data.get("video"), dict):
        return t, Playing()
    e = t.table("video", t.take("video", dict))
    if e.data.get("path") is None:
        raise e.error(None, 'needs path = "a clip, or a folder of them"')
    stride, maximum, rotate = e.take("stride", int, 1), e.take("maximum", int), e.take("rotate", int, 0)
    if stride < 1 or (maximum is not None and maximum < 1):
        raise e.error("stride" if stride < 1 else "maximum", "expected a whole number of at least 1")
    if rotate not in (-90, 0, 90, 180, 270):
        raise e.error("rotate", f"expected -90, 0, 90, 180 or 270 degrees, found {rotate}")
    crop = e.take("crop", str)
    if crop is not None and crop not in ("center", "top", "bottom"):
        raise e.error("crop", f"expected center, top or bottom, found {crop!r}")
    e.take("path", str)
    e.done()
    return e, Playing(stride, maximum, rotate, crop)


def cases(t: Any) -> str | None:
    """The project's own function that makes cases of the contract; imported when the plan is made."""
    name: str | None = t.take("cases", str)
    if name is not None and not re.fullmatch(FUNCTION, name):
        raise t.error("cases", f"{name!r} is not of the form 'package.module:function'")
    return name


def properties(t: Any) -> Properties:
    e = t.table("properties", t.take("properties", dict, {}))
    examples, strategy = e.take("examples", int, Properties.examples), e.take("strategy", str)
    if not 0 <= examples <= 100_000:
        raise e.error("examples", f"expected a whole number from 0 (none) to 100000, found {examples}")
    if strategy is not None and not re.fullmatch(FUNCTION, strategy):
        raise e.error("strategy", f"{strategy!r} is not of the form 'package.module:function'")
    e.done()
    return Properties(examples, strategy)


def decode(t: Any, contract: Contract, carried: Mapping[str, str]) -> Decode | None:
    value = t.take("decode", dict)
    if value is None:
        return None
    e = t.table("decode", value)
    inputs, outputs = [i.name for i in contract.inputs], [o.name for o in contract.outputs]
    names = {}
    for key, known, needed in (("token", inputs, True), ("scores", outputs, True), ("position", inputs, False)):
        names[key] = e.take(key, str)
        if names[key] is None and needed:
            raise e.error(None, f'needs {key} = "name"')
        if names[key] is not None and names[key] not in known:
            raise e.error(key, f"{names[key]!r} is not among {', '.join(known)}{did_you_mean(names[key], known)}")
    if not carried:
        raise e.error(None, 'needs states = { input = "output" } beside it: what is carried from step to step')
    steps, prompt = e.take("steps", int, Decode.steps), e.take("prompt", int, Decode.prompt)
    if not 1 <= prompt < steps:
        raise e.error("steps", f"expected prompt from 1 and more steps than that, found {prompt} and {steps}")
    result = Decode(names["token"], names["scores"], names["position"], steps, prompt, e.take("prefill", str))
    e.done()
    return result
