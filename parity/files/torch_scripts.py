"""TorchScript archives, judged before anything in them runs. In a child process only.

`torch.jit.load` runs what the archive says: default values of arguments while it compiles the
code, `__setstate__` while it makes the objects. A name can be hidden from any search of the text
(a comment within it, `getattr(torch, "sa" "ve")`), so the code is read by TorchScript's own compiler
and judged as the graph that would run:

    1. `code/*.py`: default values and constants of classes have to be literals. Nothing else is
       evaluated by a compilation.
    2. A copy of the archive is compiled whose only object is ours, without state. Its `forward` names
       every class of which the archive has objects, so all of their methods are compiled, none runs.
    3. Every operator of every function has to be pure (`torch_operators`).
    4. The archive itself is loaded, and its functions are looked at once more, before any is called.
"""

from __future__ import annotations

import ast
import io
import pickletools
import re
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from parity.files.torch_operators import refused_operator, refused_type, schema_of

_CLASS = re.compile(r"__torch__(\.\w+)+")
_CPP_CLASS = "__torch__.torch.classes."
_PLAIN_TEXT = re.compile(rb"[\n\x20-\x7e]*")
_LITERALS = (ast.Constant, ast.List, ast.Tuple, ast.Dict, ast.UnaryOp, ast.BinOp, ast.Name, ast.Attribute)
_OPCODE_WORDS = """
    PROTO STOP MARK POP GLOBAL NEWOBJ BUILD REDUCE BINPERSID NONE NEWTRUE NEWFALSE BININT
    BININT1 BININT2 LONG1 BINFLOAT BINUNICODE SHORT_BINSTRING BINSTRING EMPTY_LIST LIST APPEND
    APPENDS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_DICT DICT SETITEM SETITEMS BINPUT
    LONG_BINPUT BINGET LONG_BINGET
"""
_OPCODES = frozenset(_OPCODE_WORDS.split())  # what TorchScript's own unpickler reads; it calls nothing of Python


class Refused(Exception):
    """The reason why an archive is not loaded, in a few words."""


def load(content: bytes, reader: Any, records: Sequence[str]) -> torch.jit.ScriptModule:
    """The module in the archive `content`, whose `records` are read by `reader`.

    Raises Refused where its code may do more than compute, and whatever torch raises where it is damaged.
    """
    if len({name.lower() for name in records}) != len(records):
        raise Refused("two of its records have one name")  # torch looks them up without regard to case
    if "model.json" in records:
        raise Refused("written in the format of PyTorch 1.0")
    code = {name: reader.get_record(name) for name in records if name.startswith("code/")}
    for name, text in code.items():
        if name.endswith(".py"):
            _judge_text(name, text)
    if any(not name.startswith(_CPP_CLASS) for name in _classes(reader.get_record("constants.pkl"))):
        raise Refused("its constants are objects")
    classes = _classes(reader.get_record("data.pkl"))
    _judge(_imported(_without_objects(reader, records, classes))[1])
    module, functions = _imported(content)
    _judge(functions)
    return torch.jit._recursive.wrap_cpp_module(module)  # type: ignore[no-any-return]


def _imported(content: bytes) -> tuple[Any, list[Any]]:
    """The C++ module in an archive, and every function that was compiled for it, methods among them."""
    unit: Any = torch._C.CompilationUnit()  # torch's own stubs do not know what these two return
    load_archive: Any = torch._C.import_ir_module_from_buffer
    module = load_archive(unit, content, torch.device("cpu"), {}, False)
    return module, list(unit.get_functions())


def _without_objects(reader: Any, records: Sequence[str], classes: Sequence[str]) -> bytes:
    """The archive with one object of a class of ours in place of its own objects and their tensors."""
    name = "parity_probe"
    while f"code/__torch__/{name}.py" in records:
        name += "_"
    arguments = "".join(f",\n    a{index}: {typename}" for index, typename in enumerate(classes))
    probe = (
        "class Probe(Module):\n  __parameters__ = []\n  __buffers__ = []\n  training : bool\n"
        f"  def forward(self: __torch__.{name}.Probe{arguments}) -> int:\n    return 0\n"
    )
    # PROTO 2, GLOBAL, NEWOBJ of (), {"training": False} as its state, BUILD, STOP
    pickled = b"\x80\x02c__torch__.%s\nProbe\n)\x81}X\x08\x00\x00\x00training\x89sb." % name.encode()
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        for record in records:
            if record != "data.pkl" and not record.startswith("data/") and not record.endswith(".debug_pkl"):
                archive.writestr(f"probe/{record}", reader.get_record(record))
        archive.writestr("probe/data.pkl", pickled)
        archive.writestr(f"probe/code/__torch__/{name}.py", probe)
    return held.getvalue()


def _classes(pickled: bytes) -> list[str]:
    """The classes of TorchScript of which a pickle has objects. Raises Refused."""
    names = set()
    try:
        for opcode, argument, _ in pickletools.genops(pickled):
            if opcode.name not in _OPCODES:
                raise Refused(f"a pickle with {opcode.name}")
            if opcode.name == "GLOBAL":
                names.add(str(argument).replace(" ", ".", 1))
    except ValueError as error:
        raise Refused(f"a damaged pickle: {error}"[:80]) from None
    classes = {name for name in names if name.startswith("__torch__")}
    for name in classes:
        if not _CLASS.fullmatch(name):
            raise Refused(f"class name {name!r:.60}")
        if reason := refused_type(name):
            raise Refused(reason)
    return sorted(name for name in classes if not name.startswith(_CPP_CLASS))


def _judge_text(name: str, content: bytes) -> None:
    """Raise Refused where a default value or the constant of a class is more than a literal.

    TorchScript evaluates those when it compiles. Its tokens are Python's, but for the comments that give types, so
    Python's parser sees the same definitions.
    """
    if not _PLAIN_TEXT.fullmatch(content):
        raise Refused(f"{name} is no plain text")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        try:
            tree = ast.parse(content.decode("ascii"))
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            raise Refused(f"{name} cannot be read") from None
    if _type_comment(content):
        raise Refused(f"{name} has types in comments")
    for node in ast.walk(tree):
        for value in _evaluated(node):
            if not _literal(value):
                raise Refused(f"{name} evaluates {ast.unparse(value)!r:.60} when it is compiled")


def _type_comment(content: bytes) -> bool:
    return any(b"type:" in line.partition(b"#")[2].replace(b" ", b"") for line in content.splitlines())


def _evaluated(node: ast.AST) -> Iterator[ast.expr]:
    """The expressions in a definition that a compilation evaluates."""
    if isinstance(node, (ast.FunctionDef, ast.Lambda)):
        yield from node.args.defaults
        yield from (value for value in node.args.kw_defaults if value is not None)
    if isinstance(node, ast.ClassDef):
        for statement in node.body:
            if isinstance(statement, ast.AnnAssign) and statement.value is not None:
                yield statement.value
            elif isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
                yield statement.value  # `__annotations__["0"] = Tensor` gives a type


def _literal(value: ast.expr) -> bool:
    """Whether an expression is made of constants and names alone; `torch.device("cpu")` and `float("inf")` are."""
    if isinstance(value, ast.Call):
        named = ast.unparse(value.func) in ("torch.device", "float")
        return named and len(value.args) == 1 and isinstance(value.args[0], ast.Constant) and not value.keywords
    children = [child for child in ast.iter_child_nodes(value) if isinstance(child, ast.expr)]
    return isinstance(value, _LITERALS) and all(map(_literal, children))


def _judge(functions: Sequence[Any]) -> None:
    """Raise Refused for the first operator that is not pure, and for objects of foreign C++ classes."""
    for function in functions:
        for value in function.graph.inputs():
            _judge_type(value)
        for node in nodes(function.graph):
            namespace, _, name = node.kind().partition("::")
            if reason := refused_operator(namespace, name, schema_of(node.schema())):
                raise Refused(reason)
            for value in node.outputs():
                _judge_type(value)


def _judge_type(value: Any) -> None:
    if reason := refused_type(value.type().annotation_str):
        raise Refused(reason)


def nodes(block: Any) -> Iterator[Any]:
    """Every node of a graph, those of inner blocks and sub-graphs among them."""
    for node in block.nodes():
        yield node
        for inner in node.blocks():
            yield from nodes(inner)
        for attribute in node.attributeNames():
            if node.kindOf(attribute) == "g":
                yield from nodes(node.g(attribute))


def arguments_of(script: Any, tensors: Sequence[Any]) -> list[Any]:
    """What a script's `forward` is called with, from a tensor for each: plain numbers where it takes these."""
    types = [str(argument.type) for argument in script.forward.schema.arguments[1:]]
    if len(types) != len(tensors):
        return list(tensors)
    return [v.item() if kind in ("int", "float", "bool") else v for kind, v in zip(types, tensors, strict=True)]
