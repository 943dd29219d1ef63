"""`[tool.parity]` of a pyproject.toml as frozen dataclasses: strict, and it knows where each value came from."""

from __future__ import annotations

import datetime
import math
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast, get_args

from parity import inputs as inputs_of
from parity.bounds import impossible
from parity.contract import DTYPES, Contract, InputSpec, OutputKind, OutputSpec, Preprocess
from parity.errors import ConfigError, ParityError
from parity.factories import fault
from parity.inputs import Decode, Playing, Properties
from parity.judge import SENSES
from parity.limits import Rule
from parity.metrics import METRICS
from parity.plan import PRECISIONS, TARGETS, Cell, check_model_name, choose, did_you_mean
from parity.toml_lines import key_lines

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover
    import tomli as tomllib

# Systems that coremltools can be asked to convert for; neural network specs need iOS14 or macOS11 at least.
DEPLOYMENT_TARGETS = tuple(f"iOS{n}" for n in (14, 15, 16, 17, 18)) + tuple(f"macOS{n}" for n in (11, 12, 13, 14, 15))
KERNELS = {"tflite": ("XNNPACK", "builtin", "reference")}  # targets whose runtime has several; the default first
ROUTES = ("litert", "coreai")  # routes that may run in an environment of their own


@dataclass(frozen=True)
class TensorName:
    """What one input or output is called in a prebuilt artefact, and in which layout it stands there."""

    name: str
    layout: str | None = None


@dataclass(frozen=True)
class Prebuilt:
    """A file to verify instead of exporting, with the names that differ from the model's."""

    path: Path
    inputs: Mapping[str, TensorName] = field(default_factory=dict)
    outputs: Mapping[str, TensorName] = field(default_factory=dict)
    fixed: bool = False  # it has every dynamic axis at the example's size, and is meant to


@dataclass(frozen=True)
class ModelConfig:
    """One model: how to make it, what it promises, and the data that it is checked on. Paths are absolute."""

    name: str
    factory: str
    contract: Contract
    cells: tuple[Cell, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    checkpoint: Path | None = None
    golden: Path | None = None
    calibration: Path | None = None
    video: Path | None = None
    opset: int = 17
    proof: bool = True  # prove files link by link where the target allows it
    artifacts: Mapping[str, Prebuilt] = field(default_factory=dict)
    enumerated: tuple[str, ...] = ()  # axes that take exactly the sizes in `dims`, where a format can say so
    deployment_target: str | None = None  # the oldest system that Core ML files must run on, as in "iOS16"
    kernels: Mapping[str, str] = field(default_factory=dict)  # target-precision -> the kernel set that the app uses
    nightly: frozenset[Cell] = frozenset()  # cells that only the nightly profile plans
    states: Mapping[str, str] = field(default_factory=dict)  # input that is a state -> the output that replaces it
    properties: Properties = field(default_factory=Properties)
    decode: Decode | None = None
    playing: Playing = field(default_factory=Playing)
    references: Path | None = None  # the folder of stored references, which need not exist yet
    stateful: bool = False  # Core ML files keep `states` between calls, instead of taking and giving them
    whole_module: bool = False  # the user vouched for a checkpoint that is a pickled module; no key sets this


@dataclass(frozen=True)
class Waiver:
    """A known excess that a person accepted: `metric` of `cell` may reach `limit` until `expires`."""

    cell: str
    metric: str
    reason: str
    expires: datetime.date
    limit: float | None = None
    source: str = ""


@dataclass(frozen=True)
class Config:
    """Everything that `[tool.parity]` says. `root` is the folder of the file; relative paths start there."""

    root: Path
    file: Path
    models: Mapping[str, ModelConfig]
    rules: tuple[Rule, ...] = ()
    waive: tuple[Waiver, ...] = ()
    require: tuple[str, ...] = ()
    seed: int = 20260101
    timeout: float = 600.0  # seconds that one step of an export, or one batch of cases, may take
    memory: int = 8 << 30  # bytes that one child process may hold
    routes: Mapping[str, Path] = field(default_factory=dict)  # route name -> the Python that runs it
    cache: str | None = None
    cache_size: int = 10 << 30

    @property
    def cells(self) -> tuple[Cell, ...]:
        return tuple(cell for model in self.models.values() for cell in model.cells)

    @property
    def nightly(self) -> tuple[Cell, ...]:
        """The cells that only the nightly profile plans, in order."""
        return tuple(cell for cell in self.cells if cell in self.models[cell.model].nightly)


_KINDS = {str: "text", int: "a number", float: "a number", dict: "a table", list: "a list", bool: "true or false",
          datetime.date: "a date"}  # fmt: skip


class _Table:
    """A TOML table that is consumed key by key; what is left over is an error with a did-you-mean."""

    def __init__(self, data: Any, path: tuple[str, ...], reader: _Reader):
        if not isinstance(data, dict):
            raise reader.error(path, f"expected a table, found {data!r:.40}")
        self.data, self.path, self.reader, self.seen = data, path, reader, set[str]()

    def error(self, key: str | None, message: str) -> ConfigError:
        return self.reader.error((*self.path, key) if key else self.path, message)

    def take(self, key: str, kind: type | tuple[type, ...], default: Any = None) -> Any:
        self.seen.add(key)
        if key not in self.data:
            return default
        value = self.data[key]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind not in (bool, object)):
            kinds = kind if isinstance(kind, tuple) else (kind,)
            names = " or ".join(_KINDS.get(k, k.__name__) for k in kinds)
            raise self.error(key, f"expected {names}, found {value!r:.40}")
        return value

    def table(self, key: str, value: Any) -> _Table:
        """The table below this one that `key` holds."""
        return _Table(value, (*self.path, key), self.reader)

    def words(self, key: str, known: tuple[str, ...] | None = None) -> tuple[str, ...] | None:
        """A list of texts, each one of `known` when that is given."""
        value = self.take(key, list)
        if value is None:
            return None
        for word in value:
            if not isinstance(word, str):
                raise self.error(key, f"expected a list of texts, found {word!r:.40}")
            if known is not None and word not in known:
                raise self.error(key, f"unknown {word!r}{did_you_mean(word, known)}; known: {', '.join(known)}")
        if len(set(value)) != len(value):
            raise self.error(key, "names something twice")
        return tuple(value)

    def numbers(self, key: str, count: int | None = None) -> tuple[float, ...] | None:
        value = self.take(key, list)
        if value is None:
            return None
        bad = any(isinstance(v, bool) or not isinstance(v, (int, float)) or not math.isfinite(v) for v in value)
        if bad or (count is not None and len(value) != count):
            raise self.error(
                key, f"expected a list of {count or ''} numbers".replace("  ", " ") + f", found {value!r:.40}"
            )
        return tuple(float(v) for v in value)

    def done(self) -> None:
        for key in self.data:
            if key not in self.seen:
                raise self.error(key, f"unknown key {key!r}{did_you_mean(key, self.seen)}")


class _Reader:
    def __init__(self, file: Path, text: str, section: tuple[str, ...], targets: tuple[str, ...]):
        self.file, self.lines, self.section, self.targets = file, key_lines(text), section, targets
        self.root = file.parent
        self.factories = False  # whether a factory must be there
        self.checkpoints = True  # whether a checkpoint must be there
        self.set_by: dict[tuple[str, ...], str] = {}  # key path -> the text on the command line that set it

    def set(self, data: dict[str, Any], setting: str) -> dict[str, Any]:
        """`data` with the keys of a TOML text such as 'models.skin.opset = 18' in their place."""
        try:
            changes = tomllib.loads(setting)
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"--parity-set {setting!r:.80}: not TOML such as 'limits.fp32 = {{ cosine = 0.999 }}': "
                              f"{error}") from None  # fmt: skip
        if not changes:
            raise ConfigError(f"--parity-set {setting!r}: sets nothing")

        def merged(old: Any, new: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
            result = dict(old) if isinstance(old, dict) else {}
            for key, value in new.items():
                here = (*path, key)
                deeper = isinstance(value, dict) and isinstance(result.get(key), dict)
                if not deeper:
                    self.set_by[here] = setting
                result[key] = merged(result[key], value, here) if deeper else value
            return result

        return merged(data, changes, ())

    def where(self, path: tuple[str, ...]) -> str:
        """`pyproject.toml:31 [tool.parity.limits] fp32` for a key path below the section, or the option that set it."""
        for depth in range(len(path), 0, -1):
            if path[:depth] in self.set_by:
                return f"--parity-set {self.set_by[path[:depth]]!r:.80}"
        full = (*self.section, *path)
        line = next((self.lines[full[:n]] for n in range(len(full), 0, -1) if full[:n] in self.lines), 1)
        table = ".".join((*self.section, *path[:-1]))
        return f"{self.file.name}:{line} [{table}] {path[-1]}" if path else f"{self.file.name}:{line} [{table}]"

    def error(self, path: tuple[str, ...], message: str) -> ConfigError:
        return ConfigError(f"{self.where(path)}: {message}")

    def existing(self, table: _Table, key: str, kind: str = "file or folder") -> Path | None:
        text = table.take(key, str)
        if text is None:
            return None
        path: Path = self.root / text
        try:
            there = bool(text) and (path.is_file() if kind == "file" else path.exists())
        except (OSError, ValueError):  # too long, or no path at all
            there = False
        if not there:
            raise table.error(key, f"{text!r:.80}: no such {kind}")
        return path.resolve()

    def check_integers(self, value: Any, path: tuple[str, ...] = ()) -> None:
        """TOML integers have 64 bits; Python's parser takes any, and float() of a longer one raises."""
        if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
            raise self.error(path, "the number does not fit 64 bits")
        if isinstance(value, dict):
            for key, entry in value.items():
                self.check_integers(entry, (*path, key))
        elif isinstance(value, list):
            for entry in value:
                self.check_integers(entry, path)

    def config(self, data: Mapping[str, Any]) -> Config:
        top = _Table(data, (), self)
        self.check_integers(data)
        targets = top.words("targets", self.targets) or ("onnx", "tflite")
        precisions = top.words("precisions", PRECISIONS) or ("fp32", "fp16")
        models = {
            name: self.model(_Table(value, ("models", name), self), name, targets, precisions)
            for name, value in top.take("models", dict, {}).items()
        }
        if not models:
            raise top.error(None, "no model: add a [tool.parity.models.NAME] table (parity init writes one)")
        for name, model in models.items():
            other = model.decode.prefill if model.decode else None
            if other is not None and other not in models:
                place = ("models", name, "decode", "prefill")
                raise self.error(place, f"no model {other!r}{did_you_mean(other, models)}")
        rules = self.limits(top.take("limits", dict, {}), models)
        waive = tuple(
            self.waiver(_Table(value, ("waive", str(i)), self), models)
            for i, value in enumerate(top.take("waive", list, []))
        )
        require = top.words("require", tuple(dict.fromkeys((*targets, *self.targets, *models)))) or ()
        config = Config(
            self.root, self.file, models, rules, waive, require,
            seed=self.seed(top),
            timeout=self.positive(top, "timeout", 600.0),
            memory=self.size(top, "memory", 8 << 30),
            routes=self.routes(top.take("routes", dict, {})),
            cache=top.take("cache", str),
            cache_size=self.size(top, "cache_size", 10 << 30),
        )  # fmt: skip
        top.done()
        return config

    def seed(self, table: _Table) -> int:
        value = cast("int", table.take("seed", int, 20260101))
        if value < 0:
            raise table.error("seed", f"expected a whole number from 0, found {value}")
        return value

    def routes(self, data: Mapping[str, Any]) -> dict[str, Path]:
        """The Python interpreter of each route that needs an environment of its own. It need not exist: a route
        whose interpreter is absent is not tried."""
        found = {}
        for name, value in data.items():
            if name not in ROUTES:
                raise self.error(("routes", name), f"unknown route {name!r}{did_you_mean(name, ROUTES)}")
            table = _Table(value, ("routes", name), self)
            python = table.take("python", str)
            if not python:
                raise table.error(None, 'needs python = "path of an interpreter"')
            found[name] = self.root / python  # not resolved: a venv's interpreter is a link that must stay one
            table.done()
        return found

    def positive(self, table: _Table, key: str, default: float) -> float:
        value = float(table.take(key, (int, float), default))
        if not (math.isfinite(value) and value > 0):
            raise table.error(key, f"expected a number above 0, found {value}")
        return value

    def size(self, table: _Table, key: str, default: int) -> int:
        text = table.take(key, str)
        if text is None:
            return default
        try:
            return parse_size(text)
        except ParityError as error:
            raise table.error(key, str(error)) from None

    def model(self, t: _Table, name: str, targets: tuple[str, ...], precisions: tuple[str, ...]) -> ModelConfig:
        try:
            check_model_name(name, self.targets)
        except ConfigError as error:
            raise t.error(None, str(error)) from None
        factory = t.take("factory", str)
        if factory is None:
            raise t.error(None, f'model {name!r} needs factory = "package.module:function"')
        if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", factory):
            raise t.error("factory", f"{factory!r} is not of the form 'package.module:function'")
        if self.factories and (wrong := fault(factory, self.root)):
            raise t.error("factory", wrong)
        inputs = tuple(self.input(t, i, v) for i, v in enumerate(t.take("inputs", list, [])))
        outputs = tuple(self.output(t, i, v) for i, v in enumerate(t.take("outputs", list, [])))
        for key, specs in (("inputs", inputs), ("outputs", outputs)):
            names = [s.name for s in specs]
            if not names:
                raise t.error(key if key in t.data else None, f"model {name!r} needs {key} = [{{ name = ... }}]")
            if len(set(names)) != len(names):
                raise t.error(key, "two have the same name")
        preprocess = t.take("preprocess", dict)
        dims = self.dims(t, inputs)
        opset = t.take("opset", int, 17)
        if not 7 <= opset <= 25:
            raise t.error("opset", f"{opset} is not an ONNX opset that can be asked for (7 to 25)")
        contract = Contract(inputs, outputs, self.preprocess(t, preprocess) if preprocess is not None else None, dims)
        cells = self.cells(t, name, targets, precisions)
        artifacts = {}
        for key, value in t.take("artifacts", dict, {}).items():
            where = (*t.path, "artifacts")
            if f"{name}-{key}" not in {c.id for c in cells}:
                raise self.error((*where, key), f"{key!r} is not among this model's cells")
            artifacts[key] = self.prebuilt(value, (*where, key), contract)
        states, stored = self.states(t, contract), t.take("references", str)
        clips, playing = inputs_of.playing(t)
        result = ModelConfig(
            name, factory, contract, cells, t.take("options", dict, {}),
            self.checkpoint(t), self.existing(t, "golden"), self.existing(t, "calibration"),
            self.existing(clips, "path" if clips is not t else "video"), opset, t.take("proof", bool, True), artifacts,
            t.words("enumerated", tuple(dims)) or (), self.deployment_target(t),
            self.kernels(t, cells), self.nightly(t, cells), states, inputs_of.properties(t),
            inputs_of.decode(t, contract, states), playing, self.root / stored if stored else None,
            stateful=self.stateful(t),
        )  # fmt: skip
        t.done()
        return result

    def checkpoint(self, t: _Table) -> Path | None:
        text = cast("str | None", t.take("checkpoint", str))
        if self.checkpoints or not text:
            return self.existing(t, "checkpoint", "file")
        return (self.root / text).resolve()

    def deployment_target(self, t: _Table) -> str | None:
        value = cast("str | None", t.take("deployment_target", str))
        if value is not None and value not in DEPLOYMENT_TARGETS:
            hint = did_you_mean(value, DEPLOYMENT_TARGETS)
            raise t.error("deployment_target", f"unknown {value!r}{hint}; known: {', '.join(DEPLOYMENT_TARGETS)}")
        return value

    def kernels(self, t: _Table, cells: tuple[Cell, ...]) -> dict[str, str]:
        found: dict[str, str] = {}
        for key, value in t.take("kernels", dict, {}).items():
            path = (*t.path, "kernels", key)
            known = [f"{c.target}-{c.precision}" for c in cells if c.target in KERNELS]
            if key not in known:
                raise self.error(path, f"{key!r} is no cell of this model whose runtime has a choice of kernels"
                                 + did_you_mean(key, known))  # fmt: skip
            sets = KERNELS[key.partition("-")[0]]
            if value not in sets:
                raise self.error(path, f"unknown kernel set {value!r:.40}; known: {', '.join(sets)}")
            found[key] = value
        return found

    def nightly(self, t: _Table, cells: tuple[Cell, ...]) -> frozenset[Cell]:
        known = {f"{c.target}-{c.precision}": c for c in cells}
        return frozenset(known[word] for word in t.words("nightly", tuple(known)) or ())

    def stateful(self, t: _Table) -> bool:
        wanted = bool(t.take("stateful", bool, False))
        if wanted and not t.data.get("states"):
            raise t.error("stateful", 'which inputs are states? add states = { INPUT = "OUTPUT that replaces it" }')
        return wanted

    def states(self, t: _Table, contract: Contract) -> dict[str, str]:
        inputs, outputs = [i.name for i in contract.inputs], [o.name for o in contract.outputs]
        found: dict[str, str] = {}
        for key, value in t.take("states", dict, {}).items():
            path = (*t.path, "states", key)
            if key not in inputs:
                raise self.error(path, f"no input {key!r}{did_you_mean(key, inputs)}")
            if value not in outputs or value in found.values():
                raise self.error(path, f"needs an output of its own that replaces it; there are {', '.join(outputs)}")
            found[key] = value
        return found

    def cells(self, t: _Table, name: str, targets: tuple[str, ...], precisions: tuple[str, ...]) -> tuple[Cell, ...]:
        own_targets = t.words("targets", self.targets) or targets
        own_precisions = t.words("precisions", PRECISIONS) or precisions
        listed = t.words("cells")
        if listed is None:
            return tuple(Cell(name, target, p) for target in own_targets for p in own_precisions)
        if not listed:
            raise t.error("cells", "an empty list leaves nothing to check")
        cells = []
        for text in listed:
            try:
                cells.append(Cell.parse(f"{name}-{text}", self.targets))
            except ConfigError as error:
                raise t.error("cells", f"{text!r} should be target-precision, as in 'onnx-fp32': {error}") from None
        return tuple(cells)

    def input(self, t: _Table, index: int, value: Any) -> InputSpec:
        e = _Table(value, (*t.path, "inputs"), self)
        name, shape = self.name(e), e.take("shape", list)
        if not shape or any(
            isinstance(d, bool) or not isinstance(d, (int, str)) or not d or (isinstance(d, int) and d < 1)
            for d in shape
        ):
            raise e.error(None, f"input {name!r}: shape must list sizes of at least 1 and names of dynamic axes")
        dtype = e.take("dtype", str, "float32")
        if dtype not in DTYPES:
            raise e.error(None, f"input {name!r}: unknown dtype {dtype!r}{did_you_mean(dtype, DTYPES)}")
        limits = e.numbers("range", 2)
        if limits and not limits[0] < limits[1]:
            raise e.error(None, f"input {name!r}: range {list(limits)} is empty")
        e.done()
        return InputSpec(name, tuple(shape), dtype, (limits[0], limits[1]) if limits else None)

    def output(self, t: _Table, index: int, value: Any) -> OutputSpec:
        e = _Table(value, (*t.path, "outputs"), self)
        name, kind = self.name(e), e.take("kind", str, "dense")
        if kind not in get_args(OutputKind):
            kinds = get_args(OutputKind)
            raise e.error(
                None,
                f"output {name!r}: unknown kind {kind!r}{did_you_mean(kind, kinds)}; known: {', '.join(kinds)}",
            )
        labels: tuple[str, ...] = ()
        if isinstance(e.data.get("labels"), str):
            file = self.existing(e, "labels", "file")
            assert file is not None
            try:
                lines = file.read_text(encoding="utf-8").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise e.error(None, f"labels {file.name}: cannot be read as UTF-8 text: {error}") from None
            labels = tuple(line.strip() for line in lines if line.strip())
        else:
            labels = e.words("labels") or ()
        post, match = e.take("post", str), e.take("match", str)
        e.done()
        return OutputSpec(name, kind, labels, post, match)

    def name(self, e: _Table) -> str:
        name = e.take("name", str)
        if not name:
            raise e.error(None, 'each needs a name, as in { name = "image", ... }')
        return cast("str", name)

    def dims(self, t: _Table, inputs: tuple[InputSpec, ...]) -> dict[str, tuple[int, ...]]:
        known = {d for i in inputs for d in i.shape if isinstance(d, str)}
        dims = {}
        for name, sizes in t.take("dims", dict, {}).items():
            path = (*t.path, "dims", name)
            if name not in known:
                raise self.error(path, f"no input has a dimension {name!r}{did_you_mean(name, known)}")
            if not isinstance(sizes, list) or not sizes or any(type(s) is not int or s < 1 for s in sizes):
                raise self.error(path, f"expected a list of sizes of at least 1, found {sizes!r:.40}")
            dims[name] = tuple(sizes)
        return dims

    def preprocess(self, t: _Table, value: Any) -> Preprocess:
        e = _Table(value, (*t.path, "preprocess"), self)
        color = e.take("color", str, "RGB")
        if color not in ("RGB", "BGR", "L"):
            raise e.error("color", f"unknown colour order {color!r}; known: RGB, BGR, L")
        channels = 1 if color == "L" else 3
        resize = e.take("resize", str, "bilinear")
        try:
            choose("resize filter", resize, ("nearest", "bilinear", "bicubic", "lanczos", "box"))
            alpha = choose("alpha rule", e.take("alpha", str, "drop"), ("drop", "white", "black"))
        except ConfigError as error:
            raise e.error(None, str(error)) from None
        mean = e.numbers("mean", channels) or (0.0,) * channels
        std = e.numbers("std", channels) or (1.0,) * channels
        if min(std) <= 0:
            raise e.error("std", f"every value must be above 0, found {list(std)}")
        size = e.numbers("size", 2)
        if size and any(n < 1 or n != int(n) for n in size):
            raise e.error("size", f"expected [height, width], whole numbers of at least 1; found {list(size)}")
        result = Preprocess(
            mean, std, self.positive(e, "scale", 255.0), color, cast("Any", resize),
            (int(size[0]), int(size[1])) if size else None, cast("Any", alpha), e.take("orient", bool, True),
        )  # fmt: skip
        e.done()
        return result

    def prebuilt(self, value: Any, path: tuple[str, ...], contract: Contract) -> Prebuilt:
        e = _Table({"path": value} if isinstance(value, str) else value, path, self)
        file = self.existing(e, "path")
        if file is None:
            raise e.error(None, "needs path = ...")
        names: dict[str, dict[str, TensorName]] = {}
        for side in ("inputs", "outputs"):
            names[side] = {}
            known = [spec.name for spec in getattr(contract, side)]
            for key, entry in e.take(side, dict, {}).items():
                if key not in known:
                    raise self.error((*path, side, key), f"no {side[:-1]} {key!r}{did_you_mean(key, known)}")
                n = _Table(entry, (*path, side, key), self)
                layout = n.take("layout", str)
                names[side][key] = TensorName(self.name(n), layout)
                n.done()
        fixed = e.take("fixed", bool, False)
        e.done()
        return Prebuilt(file, names["inputs"], names["outputs"], fixed)

    def limits(self, data: Mapping[str, Any], models: Mapping[str, ModelConfig]) -> tuple[Rule, ...]:
        pairs = [f"{t}-{p}" for t in self.targets for p in PRECISIONS]
        cells = {c.id: models[c.model] for m in models.values() for c in m.cells}
        known = ("default", *PRECISIONS, *self.targets, *pairs, *models, *cells)
        rules = []
        for scope, table in data.items():
            path = ("limits", scope)
            if scope not in known:
                raise self.error(path, f"{scope!r} is no precision, target, model or cell of this project"
                                 + did_you_mean(scope, known))  # fmt: skip
            outputs = {o.name for m in (models[scope],) for o in m.contract.outputs} if scope in models else (
                {o.name for o in cells[scope].contract.outputs} if scope in cells
                else {o.name for m in models.values() for o in m.contract.outputs})  # fmt: skip
            for metric, value in _Table(table, path, self).data.items():
                if isinstance(value, dict):
                    if metric not in outputs:
                        raise self.error((*path, metric), f"no output {metric!r}{did_you_mean(metric, outputs)}")
                    rules += [self.rule(scope, m, v, metric, (*path, metric, m)) for m, v in value.items()]
                else:
                    rules.append(self.rule(scope, metric, value, None, (*path, metric)))
        return tuple(rules)

    def rule(self, scope: str, metric: str, value: Any, output: str | None, path: tuple[str, ...]) -> Rule:
        known = (*METRICS, *SENSES)
        if metric not in known:  # a limit on what nothing measures would never be checked
            raise self.error(path, f"no metric {metric!r}{did_you_mean(metric, known)}")
        if value is False:
            return Rule(scope, metric, None, output, self.where(path))
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise self.error(path, f"a limit is a finite number, or false for no limit; found {value!r:.40}")
        if reason := impossible(metric, float(value)):
            raise self.error(path, reason)
        return Rule(scope, metric, float(value), output, self.where(path))

    def waiver(self, t: _Table, models: Mapping[str, ModelConfig]) -> Waiver:
        cell, metric, reason = t.take("cell", str), t.take("metric", str), t.take("reason", str)
        expires, limit = t.take("expires", datetime.date), t.take("limit", (int, float))
        if not (cell and metric and reason and reason.strip() and expires):
            raise t.error(None, "a waiver needs cell, metric, reason and expires (a date)")
        known = [c.id for m in models.values() for c in m.cells]
        if cell not in known:
            raise t.error("cell", f"{cell!r} is not a cell of this project{did_you_mean(cell, known)}")
        if type(expires) is not datetime.date:
            raise t.error("expires", f"expected a date without a time, as in 2027-01-31; found {expires}")
        if limit is not None and not math.isfinite(limit):
            raise t.error("limit", f"expected a finite number, found {limit}")
        if limit is not None and (reason_against := impossible(metric, float(limit))):
            raise t.error("limit", reason_against)
        t.done()
        return Waiver(cell, metric, reason, expires, None if limit is None else float(limit), self.where(t.path))


def parse_size(text: str) -> int:
    """Bytes of a text such as '8GiB', '500 MB' or '1024'. Raises ParityError."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kKmMgGtT]?)(i?)[bB]?\s*", text)
    if not found:
        raise ParityError(f"{text!r} is not a size: write it as '8GiB' or '500MB'")
    base = 1024 if found[3] else 1000
    return int(float(found[1]) * base ** " kmgt".index(found[2].lower() or " "))


def parse(
    text: str, file: Path, targets: tuple[str, ...] = TARGETS, settings: Sequence[str] = (), *, factories: bool = False,
    checkpoints: bool = True,
) -> Config:  # fmt: skip
    """The configuration in the text of a pyproject.toml, `file` giving its place, under the `settings` of a command
    line: TOML texts, relative to the table. Raises ConfigError.

    `factories` and `checkpoints` say whether those must be there: a stored record is judged without the models, and
    an export of one model does not need the weights of another.
    """
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file.name}: not valid TOML: {error}") from None
    tool = data.get("tool", {})
    if not isinstance(tool, dict) or "parity" not in tool:
        raise ConfigError(f"{file}: no [tool.parity] table; run: parity init")
    reader = _Reader(file, text, ("tool", "parity"), targets)
    reader.factories, reader.checkpoints = factories, checkpoints
    table = tool["parity"]
    for setting in settings:
        table = reader.set(table, setting)
    return reader.config(table)


def find(start: Path) -> Path | None:
    """The nearest pyproject.toml with a [tool.parity] table at `start` or above it."""
    for folder in (start, *start.parents):
        file = folder / "pyproject.toml"
        if file.is_file() and _has_table(file.read_text("utf-8", "replace")):
            return file
    return None


def _has_table(text: str) -> bool:
    if "parity" not in text:
        return False
    try:
        tool = tomllib.loads(text).get("tool")
    except tomllib.TOMLDecodeError:  # broken: whoever reads it should say so, if it is about parity
        return re.search(r"^\s*\[+\s*tool\s*\.\s*parity\s*[.\]]", text, re.M) is not None
    return isinstance(tool, dict) and "parity" in tool


def load(
    file: Path, targets: tuple[str, ...] = TARGETS, settings: Sequence[str] = (), *, factories: bool = False,
    checkpoints: bool = True,
) -> Config:  # fmt: skip
    """The configuration in `file`, under `settings`. Raises ConfigError with one line: what, where, what to do."""
    try:
        text = file.read_text(encoding="utf-8")
        return parse(text, file.resolve(), targets, settings, factories=factories, checkpoints=checkpoints)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
