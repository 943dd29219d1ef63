"""Where a converter's error comes from: the operator it was at, and the module and the line of the model.

Converters walk a graph or run the module, and their errors often name neither. The frames of the traceback hold the
node that was being converted and the modules whose `forward` was running.
"""

from __future__ import annotations

import linecache
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

_NODES = ("node", "graph_node")  # what torch.onnx, coremltools and onnx2tf call the node that they are at
_LONGEST = 300  # characters of a converter's message; some print their whole graph
_WIDEST = 100  # characters of the line of the model
_OF_NO_USE = re.compile(r"\s*(Please (feel free|open|report)|Failure message: |\(unhinted: ).*")
# What some messages mean to whoever wrote the model.
_MEANINGS = {
    "unordered_map::at": "the trace loses values, as under torch.vmap",
    "Could not guard on data-dependent expression": "the module decides by its data",
}


class ConverterError(Exception):
    """A converter gave up: what it printed, where it raised nothing that says so."""


Place = tuple[FrameType, int]  # a frame with the line that it was at


def told(error: BaseException) -> tuple[str, bool]:
    """The error in one line, with the operator, the module and the line of the model, as far as its frames say; and
    whether a converter was at an operator of the model's graph."""
    error = _spoken(error)
    places = [*_places(error)]
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or ["no message"]
    message = _OF_NO_USE.sub("", lines[0]) or lines[0]
    text = f"{type(error).__name__}: {message:.{_LONGEST}}".rstrip(". ")
    if isinstance(error, ConverterError):
        text = message.rstrip(".")
    for part, meaning in _MEANINGS.items():
        if part in message:
            text = f"{meaning} ({text})"
    if isinstance(error, SystemExit):
        text = f"called sys.exit({error.code!r})"
    operator = _operator(places, message)
    where = operator.strip() if operator is not None else _running(places)
    return f"{text}, {where}" if where else text, operator is not None


def _spoken(error: BaseException) -> BaseException:
    """The error behind a call of sys.exit, where it was made while one was handled."""
    while isinstance(error, SystemExit) and error.__context__ is not None:
        error = error.__context__
    return error


def _places(error: BaseException) -> Iterator[Place]:
    """The frames of the error and of those that it came from, the innermost last."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__
    for part in chain:
        traceback = part.__traceback__
        while traceback is not None:
            yield traceback.tb_frame, traceback.tb_lineno
            traceback = traceback.tb_next


def _operator(places: list[Place], message: str) -> str | None:
    """The operator that the converter was at, and where the model has it; None where no frame holds a node."""
    for frame, _ in reversed(places):
        for name in _NODES:
            described = _described(frame.f_locals.get(name))
            if described is None:
                continue
            kind, place = described
            bare = kind.rpartition("::")[2].rpartition(".")[2] or kind
            at = "" if bare in message else f"at {kind}"
            return f"{at} in {place}" if place else at
    return None


def _described(node: Any) -> tuple[str, str] | None:
    """(operator, place in the model) of a node of TorchScript, torch.fx, coremltools or ONNX; else None."""
    library = type(node).__module__.partition(".")[0]
    if library == "torch" and hasattr(node, "scopeName"):
        # pkg.Net::/pkg.Block::blocks.0/pkg.Attention::attn
        names = [part.rpartition("::")[2] for part in node.scopeName().split("/")]
        return str(node.kind()), _module(names)
    if library == "torch" and hasattr(node, "meta"):
        stack = [*node.meta.get("nn_module_stack", {}).values()]
        path = str(stack[-1][0]).removeprefix("L['self']").removeprefix("L__self__") if stack else ""
        return str(node.target), _module([path.strip(".")])
    if hasattr(node, "get_scope_info"):
        # It loses the names of lists: blocks.0.attn is 0.attn, and an index by itself is of no help.
        path = _module([str(name) for name in node.get_scope_info()[0][:-1]])
        return str(node.kind), "" if path.isdigit() else path
    if library == "onnx_graphsurgeon":
        return str(node.op), str(node.name)
    return None


def _module(names: list[str]) -> str:
    return ".".join(name for name in names if name)


def _running(places: list[Place]) -> str:
    """The innermost module whose code was running, and the line of the model; "" where no module was."""
    torch: Any = sys.modules.get("torch")
    if torch is None:
        return ""
    modules: list[tuple[int, Any]] = [(at, frame.f_locals.get("self")) for at, (frame, _) in enumerate(places)]
    modules = [(at, m) for at, m in modules if isinstance(m, torch.nn.Module) and not _is_wrapper(m)]
    if not modules:
        return ""
    first, root = modules[0]
    paths = {id(module): path for path, module in root.named_modules()}
    path = next((paths[id(m)] for _, m in reversed(modules) if paths.get(id(m))), "")
    library = str(Path(torch.__file__).parent)
    of_model = [place for place in places[first:] if not place[0].f_code.co_filename.startswith((library, "<"))]
    parts = [f"in {path}"] if path else []
    if of_model:
        frame, line = of_model[-1]
        file = frame.f_code.co_filename
        source = linecache.getline(file, line).strip()
        parts.append(f"at {Path(file).name}:{line}: {source:.{_WIDEST}}".rstrip(": "))
    return " ".join(parts)


def _is_wrapper(module: Any) -> bool:
    """Whether torch put it around the model: a module of torch's that is none of torch.nn."""
    name = type(module).__module__
    return name.startswith(("torch.", "parity.")) and not name.startswith("torch.nn.")
