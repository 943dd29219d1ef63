"""What an object holds, as one hash: everything that can be reached from it, whatever its type.

The hash is the same in every process that makes the object alike. So an object is described by its
data and never by its address. What has no data to show (a lock, an open file, a random generator)
is described by its class alone.
Imports torch: in a child process only.
"""

from __future__ import annotations

import copyreg
import enum
import functools
import hashlib
import itertools
import sys
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from parity.reference import provenance

_MOST = 1_000_000  # objects, about two seconds; the guard behind the fingerprint sees to the rest
_PLAIN = frozenset({type(None), bool, int, float, complex, str, bytes, type(...)})
_OF_THE_PROCESS = (
    "_io",
    "_thread",
    "asyncio",
    "concurrent",
    "contextvars",
    "io",
    "logging",
    "multiprocessing",
    "os",
    "queue",
    "random",
    "selectors",
    "socket",
    "subprocess",
    "tempfile",
    "threading",
    "torch._dynamo",
    "torch._inductor",
    "torch.utils.hooks",
    "weakref",
)
"""Modules whose objects belong to a process or a machine: locks, streams, loggers, environment."""
_RANDOM = (torch.Generator, np.random.Generator, np.random.RandomState, np.random.BitGenerator)
_CODE_FIELDS = (
    "co_code",
    "co_names",
    "co_varnames",
    "co_freevars",
    "co_cellvars",
    "co_argcount",
    "co_posonlyargcount",
    "co_kwonlyargcount",
    "co_flags",
    "co_exceptiontable",  # from Python 3.11 on
)


@dataclass(frozen=True)
class Described:
    """`digest` of all that an object holds, and the `modules` that define parts of it."""

    digest: str
    modules: frozenset[str]


def describe(value: Any, root: Path, named: Mapping[str, torch.Tensor] | None = None) -> Described:
    """Describe an object. Paths below `root` count relative to it: a project may lie anywhere.

    `named` are tensors that are hashed elsewhere and count by name here.
    """
    walk = _Walk(str(root.resolve()), named or {})
    walk.visit(value)
    return Described(walk.hash.hexdigest(), frozenset(walk.modules))


@dataclass(frozen=True)
class _Read:
    """The attributes `names` of a module, as code reads them."""

    module: types.ModuleType
    names: frozenset[str]


@dataclass(frozen=True)
class _Part:
    """What an object opens into: one line of text, then objects in a fixed order."""

    text: str
    children: tuple[Any, ...] = ()


class _Walk:
    """A walk over everything below an object, each object once.

    It keeps a list instead of recursing: what a model holds may be linked deeper than Python
    recurses.
    """

    def __init__(self, root: str, named: Mapping[str, torch.Tensor]):
        self.root = root
        self.hash = hashlib.sha256()
        self.modules: set[str] = set()
        self._numbers: dict[int, int] = {}
        self._alive: list[Any] = []  # keeps every address that was seen taken
        self._left = _MOST
        self._names = {id(tensor): name for name, tensor in named.items()}

    def visit(self, value: Any) -> None:
        waiting = [value]
        while waiting and self._left > 0:
            self._left -= 1
            part = self._open(waiting.pop())
            self.hash.update(f"{part.text}\n".encode("utf-8", "surrogatepass"))
            waiting.extend(reversed(part.children))

    def _open(self, value: Any) -> _Part:
        if type(value) in _PLAIN:
            return self._plain(value)
        key = id(value)
        if key in self._names:
            return _Part(f"the tensor {self._names[key]}")
        if key in self._numbers:
            return _Part(f"object {self._numbers[key]} again")
        # Which constant tuples are one object depends on whether Python read them from a .pyc file.
        if type(value) not in (tuple, frozenset):
            self._numbers[key] = len(self._alive)
        self._alive.append(value)
        try:
            for kind, opened in _OPENERS:
                if isinstance(value, kind):
                    return opened(self, value)
            return self._instance(value)
        except Exception as error:  # an object of anyone's may refuse to be looked at
            return _Part(f"unreadable, {type(error).__name__}: {type(value).__qualname__}")

    def _plain(self, value: Any) -> _Part:
        text = repr(value)
        if self.root in text:
            text = text.replace(self.root, ".")
        return _Part(f"{type(value).__name__} {text}")

    # Data.

    def _tensor(self, value: torch.Tensor) -> _Part:
        text = f"tensor {value.dtype} {list(value.shape)}"
        if value.is_meta:
            return _Part(text)
        if value.is_quantized:
            return _Part(f"{text} {value.qscheme()}", (value.int_repr(), value.dequantize()))
        if value.layout != torch.strided:
            return _Part(f"{text} {value.layout}", (value.to_dense(),))
        return _Part(f"{text} {digest(value)}")

    def _array(self, value: np.ndarray[Any, Any]) -> _Part:
        text = f"array {value.dtype.str} {list(value.shape)}"
        if value.dtype.hasobject:
            return _Part(text, tuple(value.reshape(-1).tolist()))
        content = hashlib.sha256(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)
        return _Part(f"{text} {content.hexdigest()}")

    def _scalar(self, value: np.generic) -> _Part:
        return _Part(f"scalar {value.dtype.str} {value.tobytes().hex()}")

    def _list(self, value: Any) -> _Part:
        if type(value) in (list, tuple) and all(type(item) in _PLAIN for item in value):
            return self._plain(value)
        return self._container(value, f"{len(value)} items", tuple(value))

    def _set(self, value: Any) -> _Part:
        """A set has no order: its elements count by their sorted digests."""
        digests = sorted(self._digest_of(item) for item in value)
        return self._container(value, f"a set {digests}", ())

    def _digest_of(self, value: Any) -> str:
        if type(value) in _PLAIN:
            return repr(value)
        inner = _Walk(self.root, {})
        inner._names = self._names
        inner.visit(value)
        self.modules |= inner.modules
        return inner.hash.hexdigest()

    def _dict(self, value: Mapping[Any, Any]) -> _Part:
        pairs = tuple(itertools.chain.from_iterable(value.items()))
        return self._container(value, f"{len(value)} pairs", pairs)

    def _container(self, value: Any, text: str, items: tuple[Any, ...]) -> _Part:
        """A container, with the attributes that a class of its own gives it."""
        own = _attributes(value)
        return _Part(f"{text}, {len(own)} attributes", (type(value), *items, *own))

    # Code.

    def _class(self, value: type) -> _Part:
        if not self._is_loose(value.__module__):
            return _Part(f"class {value.__module__}.{value.__qualname__}")
        names = [n for n in sorted(vars(value)) if not _is_bookkeeping(n, vars(value)[n])]
        held = [item for name in names for item in (name, vars(value)[name])]
        return _Part(f"class {value.__module__}.{value.__qualname__}", (*value.__bases__, *held))

    def _function(self, value: types.FunctionType) -> _Part:
        text = f"function {value.__module__}.{value.__qualname__} {value.__name__}"
        cells = tuple(_content(cell) for cell in value.__closure__ or ())
        held = (value.__code__, value.__defaults__, value.__kwdefaults__, dict(vars(value)), *cells)
        return _Part(text, (*held, *self._globals(value)))

    def _globals(self, function: types.FunctionType) -> list[Any]:
        """What a loose function reads of its module, as names and values in one row."""
        if not self._is_loose(function.__module__):
            return []
        names = frozenset(_names(function.__code__))
        held = function.__globals__
        return _flat({name: _read(held[name], names) for name in names & held.keys()})

    def _reading(self, value: _Read) -> _Part:
        """Attributes of a module that a function names, as `act` in `layers.act(x)`."""
        name = value.module.__name__
        if not self._is_loose(name):
            return _Part(f"module {name}")
        held = vars(value.module)
        read = {key: _read(held[key], value.names) for key in value.names & held.keys()}
        return _Part(f"of module {name}", tuple(_flat(read)))

    def _module_object(self, value: types.ModuleType) -> _Part:
        self._is_loose(value.__name__)
        return _Part(f"module {value.__name__}")

    def _code(self, value: types.CodeType) -> _Part:
        fields = [getattr(value, field, None) for field in _CODE_FIELDS]
        return _Part(f"code {fields!r}", value.co_consts)

    def _builtin(self, value: Any) -> _Part:
        owner = getattr(value, "__self__", None)
        text = f"builtin {getattr(value, '__module__', None)}.{value.__qualname__}"
        return _Part(text, () if owner is None or isinstance(owner, types.ModuleType) else (owner,))

    def _method(self, value: types.MethodType) -> _Part:
        return _Part("method", (value.__self__, value.__func__))

    def _property(self, value: property) -> _Part:
        return _Part("property", (value.fget, value.fset, value.fdel))

    def _wrapped(self, value: Any) -> _Part:
        return _Part(f"wrapped in {type(value).__name__}", (value.__wrapped__,))

    # Objects.

    def _member(self, value: enum.Enum) -> _Part:
        return _Part(f"member {value.name}", (type(value), value.value))

    def _layer(self, value: nn.Module) -> _Part:
        """A module of PyTorch. The numbers of its hooks are the process's, and do not count."""
        held = {}
        for name, item in vars(value).items():
            if "hooks" not in name or not isinstance(item, dict):
                held[name] = item
            elif item:  # a layer has a dozen kinds of hooks, and mostly none of any kind
                held[name] = list(item.values())
        if isinstance(value, torch.fx.GraphModule):
            graph = held.pop("_graph")
            held["_code"] = value.code
            held["calls"] = [node.target for node in graph.nodes if callable(node.target)]
            held.pop("meta", None)
        return _Part("layer", (type(value), *_flat(held)))

    def _script(self, value: torch.jit.ScriptModule) -> _Part:
        """A TorchScript module: the source of its methods, its attributes and its submodules."""
        inner: Any = value._c
        methods = {name: _script_code(inner._get_method(name)) for name in inner._method_names()}
        attributes = dict(inner.named_attributes(recurse=False))
        parts = dict(value.named_children())
        held = (*_flat(methods), *_flat(attributes), *_flat(parts))
        return _Part(f"script {value.original_name}", held)

    def _script_function(self, value: Any) -> _Part:
        return _Part(f"script {value.name}", (_script_code(value),))

    def _operator(self, value: Any) -> _Part:
        return _Part(f"operator {value}")

    def _path(self, value: Path) -> _Part:
        return _Part("path", (str(value),))

    def _instance(self, value: Any) -> _Part:
        kind = type(value)
        module = kind.__module__
        if isinstance(value, _RANDOM) or any(_lies_in(module, name) for name in _OF_THE_PROCESS):
            return _Part(f"of the process: {module}.{kind.__qualname__}")
        own = _attributes(value)
        # What is written in C has no attributes to show: a partial's function, the day of a date.
        inner = () if own and _keeps_all_in_attributes(kind) else _state(value)
        return _Part(f"{len(own)} attributes", (kind, *own, *inner))

    def _is_loose(self, module: str | None) -> bool:
        """Whether a module's own code is to be followed; notes that it defines something."""
        if module:
            self.modules.add(module)
        return provenance.is_loose(module)


_OPENERS: tuple[tuple[Any, Callable[[_Walk, Any], _Part]], ...] = (
    (torch.Tensor, _Walk._tensor),
    (np.ndarray, _Walk._array),
    (np.generic, _Walk._scalar),
    (torch.jit.ScriptModule, _Walk._script),
    (torch.jit.ScriptFunction, _Walk._script_function),
    (nn.Module, _Walk._layer),
    (enum.Enum, _Walk._member),
    (type, _Walk._class),
    (_Read, _Walk._reading),
    (types.FunctionType, _Walk._function),
    (types.MethodType, _Walk._method),
    (types.CodeType, _Walk._code),
    (types.ModuleType, _Walk._module_object),
    ((types.BuiltinFunctionType, types.MethodWrapperType, types.WrapperDescriptorType,
      types.MethodDescriptorType, types.ClassMethodDescriptorType), _Walk._builtin),
    (property, _Walk._property),
    ((staticmethod, classmethod, functools._lru_cache_wrapper), _Walk._wrapped),
    ((torch._ops.OpOverload, torch._ops.OpOverloadPacket), _Walk._operator),
    (Path, _Walk._path),
    ((list, tuple), _Walk._list),
    ((set, frozenset), _Walk._set),
    ((dict, types.MappingProxyType), _Walk._dict),
)  # fmt: skip


def digest(tensor: torch.Tensor) -> str:
    """The hash of a dense tensor's bytes."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return hashlib.sha256(flat.view(torch.uint8).numpy().data if flat.numel() else b"").hexdigest()


def _flat(held: Mapping[str, Any]) -> list[Any]:
    """Names and values in one row, by name."""
    return [item for name in sorted(held, key=str) for item in (name, held[name])]


def _attributes(value: Any) -> list[Any]:
    """The attributes in an object's `__dict__` and slots, as names and values in one row."""
    held = dict(getattr(value, "__dict__", {}))
    for kind in type(value).__mro__:
        slots = vars(kind).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                held[name] = getattr(value, name)
    return _flat(held)


def _lies_in(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def _keeps_all_in_attributes(kind: type) -> bool:
    """Whether a class is pickled by its attributes, or in a way that is not Python's own."""
    owner = next(k for k in kind.__mro__ if "__reduce__" in vars(k) or "__reduce_ex__" in vars(k))
    return owner is object or owner.__module__.partition(".")[0] not in sys.stdlib_module_names


def _state(value: Any) -> tuple[Any, ...]:
    """What an object tells pickle of itself; empty where it cannot be pickled."""
    try:
        reduce = copyreg.dispatch_table.get(type(value))
        found = reduce(value) if reduce else value.__reduce_ex__(4)
    except Exception:
        return ()
    if isinstance(found, str):
        return (found,)
    made, arguments, *rest = found
    state, items, pairs = [*rest, None, None, None][:3]
    return (made, arguments, state, list(items or ()), list(pairs or ()))


def _is_bookkeeping(name: str, value: Any) -> bool:
    """Whether an entry of a class is Python's own note about it."""
    return name in ("__annotate__", "__annotate_func__", "_abc_impl") or (
        name.startswith("__") and name.endswith("__") and not callable(value)
    )


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # of a name that was never bound
        return None


def _names(code: types.CodeType) -> Iterable[str]:
    """The names of globals and attributes in a function and in those inside it."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _read(value: Any, names: frozenset[str]) -> Any:
    return _Read(value, names) if isinstance(value, types.ModuleType) else value


def _script_code(method: Any) -> Any:
    code, constants = method.code_with_constants
    return [code, dict(getattr(constants, "const_mapping", constants))]
