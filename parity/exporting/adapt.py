"""A configured model as the options want it: other weights, sizes, modes, lengths; and the cells to export."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from parity import formats as targets
from parity.cases.files import golden_files
from parity.core import strict_json
from parity.core.contract import Contract
from parity.core.errors import ConfigError, ParityError
from parity.core.plan import PRECISIONS, Cell, choose
from parity.core.settings import Config, ModelConfig
from parity.exporting.options import QUANTIZE

SHAPE_SETS = "shape_sets.json"
SYSTEMS = {"mlprogram": "iOS15, macOS12 or newer", "neuralnetwork": "iOS14 or macOS11"}


@dataclass(frozen=True)
class Work:
    """One cell to export, and the length of the one size that its file holds, where each length is its own file."""

    cell: Cell
    base: str  # the configured model that `cell.model` is a variant of
    length: int | None = None


def chosen(config: Config, options: argparse.Namespace) -> tuple[dict[str, ModelConfig], dict[str, str]]:
    """The models that the options ask for, adapted; and by name the reason why one has to be left out.

    A model is left out when its checkpoint file is not there and there are others to export.
    """
    names = list(dict.fromkeys(n for model in options.models for n in _modes(config, model, options.mode)))
    if options.model_name and len(options.models) > 1:
        raise ConfigError("--model-name names one model's files: export one model at a time with it")
    if options.device not in (None, "cpu"):
        raise ConfigError(f"--device {options.device}: files are made and checked on the CPU, so that they do not "
                          "depend on the machine; leave it out or say cpu")  # fmt: skip
    checkpoints = _checkpoints(config, options)
    lengths = _lengths(config, options)
    models, absent = {}, {}
    for name in names:
        model = _adapted(config.models[name], checkpoints.get(name), lengths.get(name, {}), options)
        if model.checkpoint and not model.checkpoint.is_file():
            absent[name] = f"checkpoint {_shown(model.checkpoint, config.root)}: no such file"
        models[name] = model
    if absent and len(absent) == len(models):
        raise ParityError(next(iter(absent.values())))
    return models, absent


def _shown(path: Path, root: Path) -> str:
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


def _modes(config: Config, name: str, mode: str | None) -> list[str]:
    """The configured models that a mode of `name` stands for: those of the same factory whose options say so."""
    choose("model", name, config.models)
    if mode is None:
        return [name]
    model = config.models[name]
    kin = {m.options.get("mode"): n for n, m in reversed(list(config.models.items())) if m.factory == model.factory}
    kin[model.options.get("mode")] = name
    wanted = ("prefill", "decode") if mode == "both" else (mode,)
    for one in wanted:
        if one not in kin:
            raise ConfigError(
                f'--mode {mode}: no model with factory {model.factory} has options = {{ mode = "{one}" }}'
            )
    return [kin[one] for one in wanted]


def _checkpoints(config: Config, options: argparse.Namespace) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for entry in options.checkpoint or ():
        name, sign, file = entry.partition("=")
        if not sign:
            if len(options.models) > 1:
                raise ConfigError(f"--checkpoint {entry}: which model? write MODEL=FILE")
            name, file = options.models[0], entry
        elif name not in options.models:
            raise ConfigError(f"--checkpoint {entry}: {name!r} is not among the models to export")
        for one in _modes(config, name, options.mode):
            found[one] = Path(file).resolve()
    return found


def _lengths(config: Config, options: argparse.Namespace) -> dict[str, dict[str, tuple[int, ...]]]:
    """Enumerated sizes by model and axis: from --enumerated-T, or else from shape_sets.json."""
    if options.enumerated_T:
        sizes = tuple(dict.fromkeys(options.enumerated_T))
        found: dict[str, dict[str, tuple[int, ...]]] = {}
        for model in options.models:
            names = [n for n in _modes(config, model, options.mode) if _sequence(config.models[n])]
            if not names:
                raise ConfigError(f"--enumerated-T: model {model} has no dynamic axis besides the batch")
            found |= {n: {str(_sequence(config.models[n])): sizes} for n in names}
        return found
    file = options.shape_sets or config.root / SHAPE_SETS
    if not file.is_file():
        if options.shape_sets:
            raise ParityError(f"--shape-sets {file}: no such file")
        return {}
    try:
        data = strict_json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ParityError(f"{file}: not JSON: {str(error).splitlines()[0]}") from None
    return {str(n): _axes(file, config, str(n), axes) for n, axes in _table(file, "", data).items()}


def _axes(file: Path, config: Config, name: str, axes: Any) -> dict[str, tuple[int, ...]]:
    choose(f"model in {file.name}", name, config.models)
    known = [d for d in config.models[name].contract.sizes() if not config.models[name].contract.is_batch(d)]
    found = {}
    for axis, sizes in _table(file, name, axes).items():
        choose(f"axis of {name} in {file.name}", axis, known)
        if not isinstance(sizes, list) or not sizes or any(type(s) is not int or s < 1 for s in sizes):
            raise ConfigError(
                f"{file.name}: {name}.{axis}: expected a list of sizes of at least 1, found {sizes!r:.40}"
            )
        found[str(axis)] = tuple(dict.fromkeys(sizes))
    return found


def _table(file: Path, where: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{file.name}: {where or 'the file'}: expected {{name: ...}}, found {value!r:.40}")
    return value


def _sequence(model: ModelConfig) -> str | None:
    """The axis that lengths are about: the first dynamic one that is neither the batch nor of a picture."""
    return sequence_axis(model.contract)


def sequence_axis(contract: Contract) -> str | None:
    pictures = {d for i in contract.inputs if len(i.shape) > 3 for d in i.shape}
    return next((d for d in contract.sizes() if not contract.is_batch(d) and d not in pictures), None)


def _adapted(
    model: ModelConfig, checkpoint: Path | None, lengths: Mapping[str, tuple[int, ...]], options: argparse.Namespace
) -> ModelConfig:
    contract = model.contract
    if options.input_size is not None:
        contract = _resized(contract, options.input_size)
    if options.sequence_length is not None:
        axis = _sequence(model)
        if axis is None:
            raise ConfigError(f"--sequence-length: model {model.name} has no dynamic axis besides the batch")
        contract = with_sizes(contract, {axis: (options.sequence_length, *contract.sizes()[axis][1:])})
    factory_options = dict(model.options)
    if options.num_classes is not None:
        factory_options["num_classes"] = options.num_classes
        if options.num_classes != model.options.get("num_classes"):
            contract = replace(contract, outputs=tuple(replace(o, labels=()) for o in contract.outputs))
    if options.scriptable:
        factory_options["scriptable"] = True
    return replace(
        model,
        contract=with_sizes(contract, lengths),
        enumerated=tuple(lengths) or model.enumerated,
        options=factory_options,
        checkpoint=None if options.dummy else checkpoint or model.checkpoint,
        whole_module=bool(options.allow_whole_module),
        calibration=_calibration(model, options),
        opset=options.opset or model.opset,
        deployment_target=options.deployment_target or model.deployment_target,
        artifacts={},
    )


def _resized(contract: Contract, size: int) -> Contract:
    """The contract with pictures of `size` x `size`: a fixed axis becomes it, a dynamic one has it as its example."""
    spec = contract.picture_input()
    height_width = spec.shape[-2:]
    resized = replace(spec, shape=(*spec.shape[:-2], *(d if isinstance(d, str) else size for d in height_width)))
    how = contract.preprocess
    contract = replace(
        contract,
        inputs=tuple(resized if i is spec else i for i in contract.inputs),
        preprocess=replace(how, size=(size, size)) if how and how.size else how,
    )
    tried = {d: (size, *contract.sizes()[d][1:]) for d in height_width if isinstance(d, str)}
    return with_sizes(contract, tried)


def with_sizes(contract: Contract, sizes: Mapping[str, tuple[int, ...]]) -> Contract:
    return replace(contract, dims={**contract.dims, **sizes}) if sizes else contract


def _calibration(model: ModelConfig, options: argparse.Namespace) -> Path | None:
    if not options.calibration_dir:
        return model.calibration
    folder: Path = options.calibration_dir.resolve()
    if not folder.is_dir():
        raise ParityError(f"--calibration-dir {options.calibration_dir}: no such folder")
    count = len(golden_files(folder))
    if count == 0:
        raise ParityError(f"--calibration-dir {options.calibration_dir}: holds no picture and no .npz")
    if not 50 <= count <= 200:
        print(f"warning: {count} calibration files; 50 to 200 varied ones are usual", file=sys.stderr)
    return folder


def work(models: Iterable[ModelConfig], options: argparse.Namespace) -> tuple[list[Work], dict[str, ModelConfig]]:
    """The cells to export, in order, and the variants of models that they need beside `models`.

    A format that fixes its axes and cannot enumerate sizes gets a variant of the model, and a file, for each length.
    """
    jobs: list[Work] = []
    variants: dict[str, ModelConfig] = {}
    for model in models:
        for cell in cells(model, options):
            target = targets.get(cell.target)
            if not (model.enumerated and target.fixed_dims) or target.enumerates:
                jobs.append(Work(cell, model.name))
                continue
            axis = model.enumerated[0]
            for size in model.contract.sizes()[axis]:
                name = f"{model.name}_t{size}"
                contract = with_sizes(model.contract, {axis: (size,)})
                variants[name] = replace(model, name=name, contract=contract, enumerated=())
                jobs.append(Work(Cell(name, cell.target, cell.precision), model.name, size))
    return jobs, variants


def cells(model: ModelConfig, options: argparse.Namespace) -> list[Cell]:
    """What to export of one model: the formats asked for or configured, each at the precisions asked for or configured;
    int8 only when it is asked for."""
    configured: dict[str, list[str]] = {}
    for cell in model.cells:
        configured.setdefault(cell.target, []).append(cell.precision)
    formats = split(options.format)
    if "all" in formats:
        formats = targets.names()
    wanted = [choose("format", f, (*targets.names(), "all")) for f in formats] or list(configured)
    wanted = core_ml(wanted, options)
    precisions = [choose("precision", p, PRECISIONS) for p in split(options.precision)]
    precisions += [p for p in ("fp32", "fp16") if getattr(options, p)]
    if options.quantize:
        precisions.append(QUANTIZE[options.quantize])
    found = []
    for target in dict.fromkeys(wanted):
        usual = [p for p in configured.get(target, ()) if p != "int8"] or ["fp32"]
        more = ["int8"] if options.int8 and "int8" in targets.get(target).precisions else []
        found += [Cell(model.name, target, p) for p in dict.fromkeys([*(precisions or usual), *more])]
    return found


def left_out(model: ModelConfig, options: argparse.Namespace, chosen: Sequence[Cell]) -> list[Cell]:
    """The model's int8 cells in the formats that are exported which nobody declined: no option names a precision."""
    if options.precision or options.quantize or options.fp32 or options.fp16:
        return []
    formats = {cell.target for cell in chosen}
    return [c for c in model.cells if c.precision == "int8" and c.target in formats and c not in chosen]


def core_ml(formats: Sequence[str], options: argparse.Namespace) -> list[str]:
    """The formats with the Core ML backend that was asked for in the place of the other."""
    backends = {target.backend: target.name for target in targets.every() if target.backend}
    if options.backend:
        if not set(formats) & set(backends.values()):
            raise ConfigError(f"--backend {options.backend} is about Core ML: add --format coreml")
        formats = [backends[options.backend] if f in backends.values() else f for f in formats]
    old = options.deployment_target in ("iOS14", "macOS11")
    for backend, name in backends.items():
        if options.deployment_target and name in formats and old != (backend == "neuralnetwork"):
            raise ConfigError(
                f"--deployment-target {options.deployment_target}: a {backend} file needs {SYSTEMS[backend]}"
            )
    return list(formats)


def split(values: Sequence[str] | None) -> tuple[str, ...]:
    return tuple(part.strip() for value in values or () for part in value.split(",") if part.strip())
