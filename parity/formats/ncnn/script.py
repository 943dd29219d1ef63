"""An NCNN network in a failing input's script: run by the ncnn wheel."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from parity.formats.snippet import Failing


def lines(a: Failing, fed: Mapping[str, str], output: str) -> list[str]:
    weights = a.path("weights") if "weights" in a.notes else str(Path(a.path()).with_suffix(".bin"))
    inputs = []
    for place, (name, value) in enumerate(fed.items()):  # held by a name: a Mat only borrows an array's memory
        own = f"np.ascontiguousarray({value}[0])" + (".astype(np.int32)" if name in a.integers else "")
        inputs.append(f"m{place} = {own}")
        inputs.append(f"e.input({name!r}, ncnn.Mat(m{place}).clone())")
    return [
        "import ncnn",
        "net = ncnn.Net(); o = net.opt; o.use_vulkan_compute = False",
        f"o.use_fp16_packed = o.use_fp16_storage = o.use_fp16_arithmetic = {bool(a.notes.get('half'))}",
        f"net.load_param({a.path()!r}); net.load_model({weights!r}); e = net.create_extractor()",
        "; ".join(inputs),
        f"got = np.array(e.extract({output!r})[1])[None]",
    ]
