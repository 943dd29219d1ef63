"""A neural network specification as something that can be run, with the same methods as a program."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from parity.core.errors import ParityError
from parity.mil import events
from parity.mil.errors import CorruptPackage, InputError, OperatorFailed, UnsupportedOperator
from parity.mil.events import FP16_MAX, Event, Peak
from parity.mil.interface import GREY, Feature
from parity.mil.machine import ITERATION_LIMIT, UNFIT, Traced
from parity.mil.nn import elementwise, indexing, recurrent, spatial, tensors  # noqa: F401  fill the registry
from parity.mil.nn.registry import LAYERS, Decoded, Shelf
from parity.mil.package import Package
from parity.mil.precision import Precision
from parity.mil.state import State

Environment = dict[str, Tensor]


def kind_of(layer: Any) -> str:
    """The name of a layer's type."""
    return str(layer.WhichOneof("layer"))


def nested(layer: Any) -> list[Any]:
    """The layers inside a loop or a branch."""
    kind = kind_of(layer)
    if kind == "loop":
        return [*layer.loop.conditionNetwork.layers, *layer.loop.bodyNetwork.layers]
    if kind == "branch":
        return [*layer.branch.ifBranch.layers, *layer.branch.elseBranch.layers]
    return []


def names_in(layer: Any) -> set[str]:
    """Every value that a layer mentions, nested layers included."""
    names = {*layer.input, *layer.output}
    if kind_of(layer) == "loop" and layer.loop.conditionVar:
        names.add(layer.loop.conditionVar)
    return names.union(*(names_in(inner) for inner in nested(layer)))


class Network:
    """A neural network or classifier of the older form of Core ML files.

    The methods and attributes are those of :class:`~parity.mil.program.Program`. Values are fp32; mode ``stress``
    rounds the result of every layer to fp16, as the GPU and the Neural Engine store it; there are no states.
    """

    function = "main"

    def __init__(self, package: Package) -> None:
        spec = package.spec
        self._network = getattr(spec, spec.WhichOneof("Type"))
        self._labels = self._class_labels(spec)
        description = spec.description
        self.inputs = {f.name: Feature.of(f) for f in description.input}
        self.outputs = {f.name: Feature.of(f) for f in description.output}
        self.states: dict[str, Feature] = {}
        self._predicted = (description.predictedFeatureName, description.predictedProbabilitiesName)
        self.operators: Counter[str] = Counter()
        self._check(self._network.layers)
        if self._network.arrayInputShapeMapping != 1 and any(f.kind == "tensor" for f in self.inputs.values()):
            raise UnsupportedOperator("RANK5_ARRAY_MAPPING", "only exact array shapes are evaluated")
        if self._network.imageInputShapeMapping != 1 and any(f.kind == "image" for f in self.inputs.values()):
            raise UnsupportedOperator("RANK5_IMAGE_MAPPING", "only images of rank 4 are evaluated")
        self._weights: Decoded = {}
        self._last_use: dict[str, int] = {}
        for position, layer in enumerate(self._network.layers):
            self._last_use |= dict.fromkeys(names_in(layer), position)
        self.events: list[Event] = []
        self.peak = Peak(0.0, "", "")

    def _class_labels(self, spec: Any) -> list[Any]:
        if spec.WhichOneof("Type") != "neuralNetworkClassifier":
            return []
        kind = self._network.WhichOneof("ClassLabels")
        return list(getattr(self._network, kind).vector) if kind else []

    def _check(self, layers: Any) -> None:
        for layer in layers:
            kind = kind_of(layer)
            self.operators[kind] += 1
            if kind not in LAYERS and kind not in ("loop", "branch"):
                raise UnsupportedOperator(kind, "this layer of neural networks is not known to this evaluator")
            self._check(nested(layer))

    def make_state(self) -> State:
        """An empty state: networks keep none."""
        return State({})

    def run(self, inputs: Mapping[str, Any], mode: str = "program", state: State | None = None) -> dict[str, Any]:
        """The outputs for these inputs; see :meth:`parity.mil.program.Program.run`."""
        env: Environment = {}
        for _ in self._execute(inputs, Precision(mode), env):
            pass
        return self._finish(env)

    def trace(
        self, inputs: Mapping[str, Any], mode: str = "program", state: State | None = None
    ) -> Iterator[tuple[str, str, Any]]:
        """Every intermediate value: layer type, output name, value."""
        for kind, name, value in self._execute(inputs, Precision(mode), {}):
            yield kind, name, value.numpy().copy()

    def _execute(self, inputs: Mapping[str, Any], precision: Precision, env: Environment) -> Iterator[Traced]:
        env |= self.prepare(inputs, precision)
        for position, layer in enumerate(self._network.layers):
            yield from self.layer(layer, env, precision)
            for name in [n for n in env if self._last_use.get(n, position) <= position and n not in self._kept()]:
                del env[name]

    def prepare(self, inputs: Mapping[str, Any], precision: Precision) -> Environment:
        """The environment of a run that has not begun: the inputs, preprocessed as the network says."""
        env: Environment = {}
        self.events, self.peak = [], Peak(0.0, "", "")
        if unknown := set(inputs) - set(self.inputs):
            raise InputError(f"there is no input {sorted(unknown)[0]!r}; there are {', '.join(self.inputs)}")
        for name, feature in self.inputs.items():
            array = feature.accept(inputs[name]) if name in inputs else feature.fill()
            value = torch.tensor(array.tolist() if array.dtype.kind == "b" else array).to(precision.float_dtype)
            env[name] = self._preprocess(name, feature, value)
        return env

    @property
    def layers(self) -> list[Any]:
        """The network's layers, in the order in which they run."""
        return list(self._network.layers)

    def _kept(self) -> set[str]:
        return {*self.outputs, self._probability_name()}

    def _preprocess(self, name: str, feature: Feature, value: Tensor) -> Tensor:
        """Scale and channel biases of an image input."""
        for step in self._network.preprocessing:
            if step.featureName not in ("", name) or feature.kind != "image":
                continue
            if step.WhichOneof("preprocessor") != "scaler":
                raise UnsupportedOperator("meanImage", "only scaled and biased images are evaluated")
            s = step.scaler
            biases = (
                [s.redBias, s.greenBias, s.blueBias]
                if feature.colour == "RGB"
                else [s.blueBias, s.greenBias, s.redBias]
            )
            biases = [s.redBias, s.greenBias, s.blueBias]
            if feature.colour in GREY:
                biases = [s.grayBias]
            elif feature.colour == "BGR":
                biases.reverse()
            value = value * (s.channelScale or 1.0) + torch.tensor(biases, dtype=value.dtype)[:, None, None]
        return value

    def layer(self, layer: Any, env: Environment, precision: Precision) -> Iterator[Traced]:
        """Execute one layer in ``env``, yielding its results."""
        kind, where = kind_of(layer), f"layer {layer.name!r}"
        if missing := [n for n in layer.input if n not in env]:
            raise CorruptPackage(f"{where}: the value {missing[0]!r} is used before anything gives it")
        if kind == "loop":
            yield from self._loop(layer.loop, where, env, precision)
            return
        if kind == "branch":
            chosen = layer.branch.ifBranch if bool(env[layer.input[0]].any()) else layer.branch.elseBranch
            for inner in chosen.layers:
                yield from self.layer(inner, env, precision)
            return
        Shelf.current = self._weights
        try:
            result = LAYERS[kind](getattr(layer, kind), [env[n] for n in layer.input])
        except ParityError as error:
            raise OperatorFailed(f"{kind} {where}: {error}") from error
        except UNFIT as error:
            raise OperatorFailed(f"{kind} {where}: {str(error).splitlines()[0] if str(error) else error!r}") from error
        results = result if isinstance(result, tuple) else (result,)
        for name, value in zip(layer.output, results, strict=False):
            env[name] = self._store(value.to(precision.float_dtype), kind, name, layer.name, precision)
            yield kind, name, env[name]

    def _loop(self, loop: Any, where: str, env: Environment, precision: Precision) -> Iterator[Traced]:
        """Repeat the body while the condition network leaves its variable true, at most so many times."""
        for _ in range(loop.maxLoopIterations or ITERATION_LIMIT):
            for inner in loop.conditionNetwork.layers:
                yield from self.layer(inner, env, precision)
            if loop.conditionVar and not bool(env[loop.conditionVar].any()):
                return
            for inner in loop.bodyNetwork.layers:
                yield from self.layer(inner, env, precision)
        if not loop.maxLoopIterations:
            raise OperatorFailed(f"loop {where} did not end in {ITERATION_LIMIT} iterations")

    def _store(self, value: Tensor, kind: str, name: str, module: str, precision: Precision) -> Tensor:
        if not value.numel():
            return value
        low, high = (float(v) for v in value.aminmax())
        peak = max(-low, high)
        if math.isnan(peak):
            self.events.append(Event(events.NAN, kind, name, module))
        elif peak > self.peak.value:
            self.peak = Peak(peak, kind, name)
        if precision.mode != "stress":
            return value
        if FP16_MAX + 16 <= peak < math.inf:
            self.events.append(Event(events.OVERFLOW, kind, name, module, {"peak": peak, "headroom": FP16_MAX / peak}))
        return value.half().to(value.dtype)

    def _probability_name(self) -> str:
        name = getattr(self._network, "labelProbabilityLayerName", "")
        return str(name or self._network.layers[-1].output[0]) if self._labels else ""

    def _finish(self, env: Environment) -> dict[str, Any]:
        results: dict[str, Any] = {}
        if self._labels:
            scores = env[self._probability_name()].reshape(-1)
            if len(scores) != len(self._labels):
                raise CorruptPackage(f"{len(scores)} probabilities for {len(self._labels)} labels")
            results[self._predicted[0]] = self._labels[int(scores.argmax())]
            results[self._predicted[1]] = dict(zip(self._labels, scores.tolist(), strict=True))
        for name in self.outputs:
            if name in env:
                results.setdefault(name, env[name].numpy().copy())
            elif name not in results:
                raise CorruptPackage(f"no layer gives the output {name!r}")
        return results
