"""A TFLite file in a failing input's script: run by LiteRT; without a signature, by the suite's own session."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from parity.formats.snippet import Failing, by_session, mapping


def lines(a: Failing, fed: Mapping[str, str], output: str) -> list[str]:
    if not a.description.get("signature"):
        return by_session(a, fed, output)
    said = {d["name"]: d for side in ("inputs", "outputs") for d in a.description[side]}
    files = a.notes.get("files") or [a.notes["entry"]]
    fitting = (f for i, f in enumerate(files) if all(_held(said[n], i) == list(s) for n, s in a.shapes.items()))
    path = str(a.folder / next(fitting, files[0]))
    kernels = a.notes.get("kernels") or "XNNPACK"
    chosen = {"builtin": "BUILTIN_WITHOUT_DEFAULT_DELEGATES", "reference": "BUILTIN_REF"}.get(kernels, "AUTO")
    given = mapping({n: _quantised(v, said[n]) for n, v in fed.items()})
    scale, zero = said[output].get("scale"), said[output].get("zero_point", 0)
    whole = f"(got.astype(np.float32) - {zero}) * np.float32({scale!r})"
    return [
        "from ai_edge_litert.interpreter import Interpreter, OpResolverType",
        f"run = Interpreter({path!r}, experimental_op_resolver_type=OpResolverType.{chosen}).get_signature_runner("
        f"{a.description['signature']!r})",
        f"got = run(**{given})[{output!r}]",
        *([f"got = {whole}"] if scale else []),
    ]


def _held(described: Mapping[str, Any], place: int) -> list[int] | None:
    """The shape of an input in the file at `place` of an artefact that has a file a size."""
    shapes = described.get("shapes", [])
    return list(shapes[place]) if place < len(shapes) else None


def _quantised(value: str, described: Mapping[str, Any]) -> str:
    dtype = described.get("dtype") or ""
    if not described.get("scale") or not dtype.startswith(("int", "uint")):
        return value
    scaled = f"np.rint({value} / np.float32({described['scale']!r})) + {described['zero_point']}"
    low, high = (0, 255) if dtype == "uint8" else (-128, 127) if dtype == "int8" else (-32768, 32767)
    return f"np.clip({scaled}, {low}, {high}).astype(np.{dtype})"
