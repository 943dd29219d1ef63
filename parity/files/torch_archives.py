"""PyTorch's own files (.pt2, TorchScript), opened without running what somebody put into them. In a child process only.

Both loaders trust the file. `torch.export.load` unpickles without restriction, evaluates shape expressions as Python,
imports modules that a tree spec names and compiles guards; each was seen to run a stranger's code with torch 2.13
(tests/unit/test_torch_archives.py). TorchScript runs no Python, but its operators write files, also while it loads. So
every record is read once, held against what an honest file needs, and only then given to the loader.

A .pt2 file has one of two layouts. PyTorch 2.6 and 2.7 write five records with no folder around them, which every
later version reads too. From 2.8 on it is an archive as PyTorch's C++ reader wants it, whose folders have changed
since: an older PyTorch does not read the file of a newer one.
"""

from __future__ import annotations

import ast
import inspect
import io
import json
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from parity.core.errors import ParityError
from parity.files import archives, torch_scripts
from parity.files.torch_operators import refused_operator

MOST_BYTES = 64 << 30  # of one archive, unpacked; most of it is as large as it is packed
_NAME = re.compile(r"[A-Za-z_]\w*")
_UNQUOTED = re.compile(r"[^'\"\\\r\n\0]*")
_OPERATOR = re.compile(r"torch\.ops\.([a-z]\w*)\.(\w+)(?:\.(\w+))?")
_PYTHON = re.compile(
    r"math\.(ceil|floor|trunc|sqrt|log2|pow|isnan|isinf)|torch\._?sym_[a-z0-9_]+|"
    r"_operator\.(add|sub|mul|floordiv|truediv|mod|pow|neg|pos|abs|eq|ne|lt|le|gt|ge|and_|or_|xor|not_|inv|lshift|"
    r"rshift|getitem)"
)
_CONTROL = {"cond", "while_loop", "scan", "map_impl", "associative_scan", "wrap_with_set_grad_enabled",
            "wrap_with_autocast", "flex_attention"}  # fmt: skip
_PAYLOAD = re.compile(r"\w+(\.\w+)*")
_RECORD = re.compile(
    r"models/\w+\.json|data/(weights|constants|sample_inputs)/\w+(\.(json|pt))?|extra/[\w./-]+|"
    r"archive_(format|version)|version|byteorder|\.format_version|\.storage_alignment|\.data/\w+"
)  # what torch.export.save writes; compiled code (data/aotinductor/) is not among it
_BYTECODE = "bytecode.pkl"  # records are looked up without regard to case
_FLAT_PROGRAM = "serialized_exported_program.json"  # it marks the layout of 2.6 and 2.7
_FLAT_PICKLES = ("serialized_state_dict.pt", "serialized_constants.pt", "serialized_example_inputs.pt")
_FLAT = {_FLAT_PROGRAM, *_FLAT_PICKLES, "version"}
_ASSERTION = re.compile(r"Runtime assertion failed for expression [\w ()<>=!,.*/%+-]+ on node '\w+'")
_VERSION = re.compile(r"[\w.+-]{1,40}")
_TREES = {"builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict", None}
_WORDS = """
    Symbol Integer Float Rational Add Mul Pow Max Min Mod Abs And Or Not Eq Ne Lt Le Gt Ge Equality Unequality
    StrictLessThan LessThan StrictGreaterThan GreaterThan Piecewise ExprCondPair Tuple FloorDiv ModularIndexing Where
    PythonMod CleanDiv CeilDiv CeilToInt FloorToInt TruncToInt TruncToFloat RoundToInt RoundDecimal ToFloat LShift
    RShift PowByNatural FloatPow FloatTrueDiv IntTrueDiv IsNonOverlappingAndDenseIndicator Identity
"""
_SYMBOLIC = frozenset(_WORDS.split())  # what shape expressions call
_EXPRESSIONS = (ast.Expression, ast.Call, ast.keyword, ast.Name, ast.Load, ast.Constant, ast.BinOp, ast.UnaryOp,
                ast.Compare, ast.BoolOp, ast.Tuple, ast.operator, ast.unaryop, ast.cmpop, ast.boolop)  # fmt: skip


def open_program(path: Path) -> torch.export.ExportedProgram:
    """The ExportedProgram in a .pt2 file. Raises ParityError with one line for a file that would run code when it is
    loaded, and for one that is none. Ask `module_of` for its module."""
    content = _content(path)
    try:
        names = _sized(path, content)
    except zipfile.BadZipFile:
        raise ParityError(f"{path.name}: damaged, or no file that torch.export.save wrote") from None
    if any(name.rpartition("/")[2] == _FLAT_PROGRAM for name in names):
        content, program = _checked_flat(path, content)
    else:
        content, program = _checked(path, content)
    try:
        return torch.export.load(io.BytesIO(content))
    except Exception as error:
        raise ParityError(
            f"{path.name}: {_writer(program)}torch.export.load of {torch.__version__} cannot read it: {_first(error)}"
        ) from None


def module_of(program: torch.export.ExportedProgram) -> Any:
    """The program as a module, without its guards: they are source in the file, which newer PyTorch compiles."""
    if "check_guards" in inspect.signature(program.module).parameters:
        return program.module(check_guards=False)
    return program.module()


def _checked_flat(path: Path, content: bytes) -> tuple[bytes, Any]:
    """The records of a file of PyTorch 2.6 or 2.7 in an archive made anew, so that no loader finds others in it; and
    the serialised program.

    Raises ParityError where a record is not what torch.export.save wrote.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            records = {name: archive.read(name) for name in archive.namelist()}
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError, zlib.error):
        raise ParityError(f"{path.name}: damaged, or no file that torch.export.save wrote") from None
    records = {name: record for name, record in records.items() if not name.startswith("extra_files/")}
    for name in records.keys() - _FLAT:
        raise _refused(path, f"record {name!r:.60}")
    if records.keys() != _FLAT:
        raise ParityError(f"{path.name}: damaged: it has no record {min(_FLAT - records.keys())}")
    program = _json(records[_FLAT_PROGRAM])
    try:
        reasons = [_wrong_program(program)]
        reasons += [_wrong_pickle(name, records[name]) for name in _FLAT_PICKLES if records[name]]
    except (AttributeError, TypeError):
        raise ParityError(f"{path.name}: damaged: a record is not what torch.export.save writes") from None
    if reason := next(filter(None, reasons), ""):
        raise _refused(path, reason)
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as anew:
        for name, record in records.items():
            anew.writestr(name, record)
    return made.getvalue(), program


def _checked(path: Path, content: bytes) -> tuple[bytes, Any]:
    """The content of a file of PyTorch 2.8 or later, and the serialised program. Raises ParityError where a record is
    not what torch.export.save writes."""
    try:
        reader = torch._C.PyTorchFileReader(io.BytesIO(content))
        records = list(reader.get_all_records())
    except RuntimeError:
        raise ParityError(f"{path.name}: damaged, or no file that torch.export.save wrote") from None
    if "models/model.json" not in records:
        raise ParityError(f"{path.name}: holds no program named 'model'; torch.export.save writes one")
    try:
        reason = _wrong_records(records, reader)
    except (RuntimeError, AttributeError, TypeError):
        raise ParityError(f"{path.name}: damaged: a record is not what torch.export.save writes") from None
    if reason:
        raise _refused(path, reason)
    return content, _json(reader.get_record("models/model.json"))


def other_programs(path: Path) -> list[str]:
    """The names of the programs in a .pt2 file beside `model`, which `open_program` reads."""
    with zipfile.ZipFile(path) as archive:
        parts = [name.split("/") for name in archive.namelist() if name.endswith(".json")]
    names = {part[-1].removesuffix(".json") for part in parts if part[-2:-1] == ["models"]}
    return sorted(names - {"model"})


def mobile_programs(path: Path) -> list[str]:
    """The programs in a TorchScript file that only PyTorch Mobile's interpreter runs, by the names of their records."""
    with zipfile.ZipFile(path) as archive:
        names = {name.partition("/")[2] for name in archive.namelist()}
    return sorted(name for name in names if name.lower() == _BYTECODE)


def codes(path: Path) -> list[str]:
    """The code in a TorchScript file, one text a file."""
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if "/code/" in name and name.endswith(".py")]
        return [archive.read(name).decode("utf-8", "replace") for name in names]


def open_script(path: Path) -> torch.jit.ScriptModule:
    """The module in a TorchScript file on the CPU, in the mode that it was saved in, as an app gets it.

    Raises ParityError with one line for a file whose code may do more than compute, and for one that is none.
    """
    content = _content(path)
    try:
        reader = torch._C.PyTorchFileReader(io.BytesIO(content))
        records = list(reader.get_all_records())
        _sized(path, content)
    except (RuntimeError, zipfile.BadZipFile):
        raise ParityError(f"{path.name}: damaged, or no TorchScript file") from None
    if not any(name.startswith("code/") for name in records):
        kind = "a checkpoint" if "data.pkl" in records else "some other archive"
        raise ParityError(
            f"{path.name}: {kind}, not a TorchScript module; weights go with a model's name: --checkpoint"
        )
    try:
        return torch_scripts.load(content, reader, records)
    except torch_scripts.Refused as refusal:
        raise _refused(path, str(refusal)) from None
    except Exception as error:
        raise ParityError(f"{path.name}: torch.jit.load cannot read it: {_first(error)}") from None


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ParityError(f"{path.name}: cannot be read: {error.strerror or error}") from None


def _writer(program: Any) -> str:
    """Which PyTorch wrote a serialised program, where it says so: an older one cannot read the files of a newer."""
    version = program.get("torch_version") if isinstance(program, dict) else None
    stated = isinstance(version, str) and _VERSION.fullmatch(version) is not None
    return f"written by PyTorch {version}; " if stated else ""


def _sized(path: Path, content: bytes) -> list[str]:
    """The names in an archive. Raises ParityError where it would unpack to more than it is worth."""
    members = zipfile.ZipFile(io.BytesIO(content)).infolist()
    try:
        archives.check_sizes(members, MOST_BYTES)
    except ValueError as error:
        raise ParityError(f"{path.name}: {error}; refused") from None
    return [member.filename for member in members]


def _refused(path: Path, reason: str) -> ParityError:
    return ParityError(f"{path.name}: would run code when loaded ({reason}); refused. Save the program again yourself, "
                       "or give the factory and a checkpoint")  # fmt: skip


def _first(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"[:200]


def _wrong_records(records: Sequence[str], reader: Any) -> str:
    """The first thing in a .pt2 archive that is not harmless; empty where there is none."""
    if len({name.lower() for name in records}) != len(records):
        return "two of its records have one name"  # torch looks them up without regard to case
    for name in records:
        if not _RECORD.fullmatch(name):
            return f"record {name!r:.60}"
    return next(filter(None, (_wrong_record(n, reader.get_record(n), reader) for n in records)), "")


def _wrong_record(name: str, content: bytes, reader: Any) -> str:
    """Why one record of a .pt2 archive is not harmless; empty where it is."""
    if name.startswith("data/") and name.endswith(".pt"):
        return _wrong_pickle(name, content)
    if name.startswith("models/"):
        return _wrong_program(_json(content))
    if name.startswith("data/") and name.endswith(".json"):
        folder = name.rpartition("/")[0]
        for payload in (_json(content) or {}).get("config", {}).values():
            if reason := _wrong_payload(folder, payload, reader):
                return reason
    return ""


def _wrong_payload(folder: str, payload: Mapping[str, Any], reader: Any) -> str:
    """Why the record that an entry of a table of weights or constants names is not a tensor."""
    path_name = payload.get("path_name")
    if not isinstance(path_name, str) or not _PAYLOAD.fullmatch(path_name):
        return f"path {path_name!r:.60}"  # an absolute one would leave the folder
    if path_name.startswith(("custom_obj_", "opaque_obj_")):
        return f"{folder}/{path_name} is a pickled object"
    if not payload.get("use_pickle"):
        return ""
    return _wrong_pickle(f"{folder}/{path_name}", bytes(reader.get_record(f"{folder}/{path_name}")))


def _wrong_pickle(name: str, content: bytes) -> str:
    try:
        torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception:
        return f"{name} is a pickle of more than tensors"
    return ""


def _json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return None  # the loader says that it is damaged


def _wrong_program(program: Any) -> str:
    """The first thing in a serialised program that its loader would run as code, or look up where it should not."""
    for key, value in _texts(program, ""):
        if key == "target":
            reason = _wrong_operator(value)
        elif key == "expr_str":
            reason = "" if _arithmetic(value) else f"shape expression {value!r:.60}"
        elif key in ("in_spec", "out_spec"):
            reason = "" if _plain_tree(_json(value.encode())) else f"tree {value!r:.60}"
        elif key in ("name", "as_name", "forward_arg_names"):
            reason = "" if not value or _NAME.fullmatch(value) else f"name {value!r:.60}"
        elif key == "as_string" and _ASSERTION.fullmatch(value):
            reason = ""  # what PyTorch writes beside an assertion on sizes
        else:
            reason = "" if _UNQUOTED.fullmatch(value) else f"text {value!r:.60}"
        if reason:
            return reason
    return ""


def _texts(value: Any, key: str) -> Iterator[tuple[str, str]]:
    """Every text of a serialised program with the key that holds it, keys themselves among them; not what is only
    shown to people, nor guards, which are never compiled."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, list):
        for entry in value:
            yield from _texts(entry, key)
    elif isinstance(value, dict):
        for inner, entry in value.items():
            if inner not in ("metadata", "guards_code", "torch_version"):
                yield "", inner
                yield from _texts(entry, inner)


def _wrong_operator(target: str) -> str:
    reason = f"operator {target!r:.80}"
    if _PYTHON.fullmatch(target):
        return ""
    found = _OPERATOR.fullmatch(target)
    if not found:
        return reason
    operator = getattr(getattr(torch.ops, found[1]), found[2], None)
    if found[1] == "higher_order":
        return "" if found[2] in _CONTROL and found[3] is None else reason
    if operator is not None and found[3] is not None:
        operator = getattr(operator, found[3], None)
    if not isinstance(operator, torch._ops.OpOverload):
        return reason
    return refused_operator(found[1], found[2], operator._schema)


def _arithmetic(text: str) -> bool:
    """Whether a shape expression is arithmetic on symbols, and calls nothing but SymPy's functions for it."""
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if not isinstance(node, _EXPRESSIONS):
            return False
        if isinstance(node, ast.Call) and not (isinstance(node.func, ast.Name) and node.func.id in _SYMBOLIC):
            return False
        if isinstance(node, ast.Name) and "__" in node.id and id(node) not in called:
            return False
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and not _NAME.fullmatch(node.value):
            return False
    return True


def _plain_tree(spec: Any) -> bool:
    """Whether a tree spec is made of tuples, lists and dicts with plain keys: others name modules to import."""
    if not (isinstance(spec, list) and len(spec) == 2 and isinstance(spec[1], dict)):
        return False
    waiting = [spec[1]]
    while waiting:
        node = waiting.pop()
        context = node.get("context")
        keys = _json(context.encode()) if isinstance(context, str) else context
        if node.get("type") not in _TREES or not (keys is None or isinstance(keys, list)):
            return False
        if not all(isinstance(k, (str, int)) and (isinstance(k, int) or _NAME.fullmatch(k)) for k in keys or ()):
            return False
        waiting += node.get("children_spec") or ()
    return True
