"""What a file must keep of the model's contract, checked on the file itself and by running it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from parity.core.case import Array
from parity.core.contract import InputSpec
from parity.core.kinds import CONTRACT
from parity.core.plan import Cell
from parity.core.settings import ModelConfig
from parity.judging import judge
from parity.reference.messages import Memory, WaysRequest
from parity.session.session import Runtime
from parity.suite import accepting, hint
from parity.suite.check_kind import CheckContext, SuiteKind, always, measures
from parity.suite.recorder import Recorder

_MOST_GOLDEN = 3  # cases that are run in other ways too, of a file where these differ by the input
_MEANING = 4  # letters of a name that stand in another by no chance
_PIXELS = 0.01  # of the range from the darkest to the brightest pixel: 127 for 127.5 is no other preprocessing
MEMORY = "parity.reference.memory:of_module"


def run(check: CheckContext) -> None:
    """Signature, operators, opset and repeatability. Other sizes are measured by the batch test."""
    runtime, parity = check.runtime, check.recorder
    model = runtime.session.config.models[runtime.cell.model]
    runtime.open()
    _signature(runtime, model, parity)
    _operators(runtime, model, parity)
    _repeats(runtime, model, parity)


def _signature(runtime: Runtime, model: ModelConfig, parity: Recorder) -> None:
    notes, described = runtime.artifact.notes, runtime.description
    fixed = notes.get("fixed", {})
    prebuilt = f"{runtime.cell.target}-{runtime.cell.precision}" in model.artifacts
    for side in ("inputs", "outputs"):
        have = {d["name"]: d for d in described[side]}
        entries = _entries(runtime, model, side)
        extra = sorted(set(have) - {e["name"] for e in entries.values()})
        text = f"declared {len(entries)}, the file has {len(have)}" + (
            f", undeclared: {', '.join(extra)}" if extra else ""
        )
        parity.add(judge.fact("signature", "", f"{side}_count", len(have) == len(entries), text))
        for spec in getattr(model.contract, side):
            entry = entries[spec.name]
            found = have.get(entry["name"])
            parity.add(
                judge.fact("signature", spec.name, "present", found is not None,
                           f"{side[:-1]} {entry['name']!r}; the file has {', '.join(sorted(have)) or 'none'}")
            )  # fmt: skip
            if found is None:
                if prebuilt:
                    parity.find(hint.renamed(spec.name, extra, side))
                continue
            if isinstance(spec, InputSpec) and found["shape"] is not None:
                open_too = model.reference is not None
                shape = _shape(spec, found, entry, fixed.get(spec.name), open_too)
                parity.add(shape)
                if (
                    prebuilt
                    and not shape.passed
                    and (said := hint.reshaped(model.contract, spec, found, entry.get("layout") or ""))
                ):
                    parity.find(said)
                parity.add(*_enumerated(spec, found, notes.get("enumerated", {})))
            _dtype(runtime, spec, found, prebuilt, parity)
    usual = (described.get("labels", []), described.get("label_attributes", []))
    for labels in usual:
        _labels(model, labels, parity)
    _reordered(model, [names for names in described.get("label_lists", []) if names not in usual], parity)
    _picture(model, described.get("picture"), parity)
    _order(runtime, model, prebuilt, parity)
    _names(runtime, model, prebuilt, parity)
    _signatures(runtime, parity)
    if any(d["shape"] is None for d in described["inputs"]):
        parity.find(f"{runtime.cell.target} files do not declare the shapes of their inputs: checked by running only")
    if described.get("executor") == "mil-eval":
        parity.find("executed from its file by this project's evaluator; Core ML itself runs on macOS and did not run")
    if notes.get("states"):
        text = f"states of float16 in the file, written before and read after each run: {', '.join(notes['states'])}"
        parity.find(text)
    if "kernels" in notes:
        text = f"run on {notes['kernels']} kernels, as configured: the app must switch the default ones off"
        parity.find(text, "warning")
    if (version := described.get("wrong_products")) and runtime.cell.precision in ("dynamic", "int8"):
        wrong = f"with this processor's AMX, ONNX Runtime {version} multiplies 8-bit integers wrongly (1.25 does not)"
        without = "measured without, but an app on such a processor has it"
        told = without if described["without_amx"] else "it cannot be switched off here: so may these results be"
        parity.find(f"{wrong}: {told}", "warning")
    if fixed:
        held = notes.get("enumerated", {})
        axes = sorted({d for s in model.contract.inputs for d in s.shape if isinstance(d, str)} - set(held))
        sizes = model.contract.example()
        if axes:
            text = ", ".join(f"{a} = {sizes[a]}" for a in axes)
            only_batch = all(map(model.contract.is_batch, axes))  # as mobile files have it
            text = f"this route fixes the dynamic axes: {text}; other sizes are not in this file"
            parity.find(text, "note" if only_batch else "warning")
        for axis, lengths in held.items():
            parity.find(f"{axis} is enumerated: {', '.join(map(str, lengths))}; other sizes are not in this file")


def _entries(runtime: Runtime, model: ModelConfig, side: str) -> dict[str, Mapping[str, Any]]:
    """What the artefact's notes say of each of the model's inputs or outputs: at least its name in the file."""
    notes = runtime.artifact.notes[side]
    return {spec.name: notes.get(spec.name, {"name": spec.name}) for spec in getattr(model.contract, side)}


def _labels(model: ModelConfig, have: Sequence[str], parity: Recorder) -> None:
    """The classes that a file names, which apps show, against the declared labels: in another order they are wrong; of
    other words, who knows."""
    for spec in model.contract.outputs:
        ours, theirs = ([label.strip().casefold() for label in names] for names in (spec.labels, have))
        if not ours or not theirs:
            continue
        pairs = list(zip(ours, theirs, strict=False))
        place = next((n for n, (mine, other) in enumerate(pairs) if mine != other and other in ours), None)
        if place is not None:
            text = f"class {place} is {have[place]!r} in the file, {spec.labels[place]!r} in labels"
            parity.add(judge.fact("signature", spec.name, "labels", False, text))
        elif ours == theirs:
            parity.add(judge.fact("signature", spec.name, "labels", True, "the file names the classes as declared"))
        elif len(ours) == len(theirs):
            text = f"{spec.name}: the file names other classes than the labels: {have[0]!r} for {spec.labels[0]!r}"
            parity.find(text, "warning")


def _reordered(model: ModelConfig, lists: Sequence[Sequence[str]], parity: Recorder) -> None:
    """Whatever list a file holds of the declared labels has them in their order: an app may read any."""
    for spec in model.contract.outputs:
        ours = [label.strip().casefold() for label in spec.labels]
        for names in lists:
            theirs = [name.strip().casefold() for name in names]
            if len(ours) == len(theirs) and theirs != ours and sorted(theirs) == sorted(ours):
                place = next(n for n, (mine, other) in enumerate(zip(ours, theirs, strict=True)) if mine != other)
                text = f"a list in the file has {names[place]!r} at place {place}, labels have {spec.labels[place]!r}"
                parity.add(judge.fact("signature", spec.name, "labels", False, text))


def _picture(model: ModelConfig, have: Mapping[str, Any] | None, parity: Recorder) -> None:
    """How a picture becomes an input by the file's metadata, which apps may follow, against `preprocess`: for each
    channel, what the darkest and the brightest pixel become."""
    how = model.contract.preprocess
    if how is None or not have:
        return
    pixels = np.array([[0.0], [255.0]]) / how.scale
    mine = (pixels - np.array(how.mean)) / np.array(how.std)
    theirs = np.array([have["low"], have["high"]])
    spans = np.abs(mine[1] - mine[0])
    comparable = len(have["low"]) in (1, len(how.mean))
    apart = comparable and bool((np.abs(mine - theirs) > _PIXELS * spans).any())
    if apart or have["color"] not in ("", how.color):
        values = [", ".join(f"{value:.4g}" for value in side) for side in (how.mean, how.std)]
        ours = f"{how.color}, pixels / {how.scale:g}, mean {values[0]}, std {values[1]}"
        text = f"the file's metadata says how a picture becomes its input: {have['text']}; preprocess says: {ours}"
        parity.find(f"{text}: an app that follows the file gives it other numbers than were measured", "warning")


def _signatures(runtime: Runtime, parity: Recorder) -> None:
    """What else of the file an app may call: nothing here measured it."""
    others = runtime.description.get("unmeasured_signatures")
    if others is None:
        return
    names = [f"{accepting.SIGNATURE}{name}" for name in others]
    unmeasured = accepting.still_open(
        names, accepting.SIGNATURE, accepting.of_cell(runtime.session, runtime.cell), parity
    )
    by = runtime.description["signature"]
    measured = f"signature {by}" if by else "the graph's own inputs and outputs"
    detail = f"measured by {measured}; not measured: {', '.join(unmeasured) or 'none'}"
    parity.add(judge.counted("signature", "unmeasured_signatures", float(len(unmeasured)), parity.limits(), detail))
    if unmeasured:
        parity.find(
            f"the file was measured by {measured}; an app that calls {' or '.join(unmeasured)} gets what nobody "
            "compared: verify it as a model of its own, leave it out of the file, or accept it by that name in "
            "[[tool.parity.accept]] (docs/gate.md)",
            "warning",
        )


def _order(runtime: Runtime, model: ModelConfig, prebuilt: bool, parity: Recorder) -> None:
    """The order of inputs and outputs, where apps may take them by index: here they were taken by name. A route that
    orders them so says it as a note; a file from elsewhere is warned of."""
    for side, names in runtime.description.get("positional", {}).items():
        entries = _entries(runtime, model, side)
        mine, theirs = list(entries), {entry["name"]: name for name, entry in entries.items()}
        have = [theirs[name] for name in names if name in theirs]
        if sorted(have) == sorted(mine) and have != mine:
            text = f"{side} stand in the order {', '.join(have)} in the file, the model's is {', '.join(mine)}"
            level = "warning" if prebuilt else "note"
            parity.find(f"{text}: an app has to take them by name, by index it gets others", level)


def _names(runtime: Runtime, model: ModelConfig, prebuilt: bool, parity: Recorder) -> None:
    """The names that a file has for its inputs and outputs beside those by which they were taken here: TFLite's
    tensors, the arguments of a script and the fields that it returns. A name that is the model's for another port is
    wrong. It is a warning where the two differ by their numbers alone, as converters number, and in a file made here,
    which has the names of the module's own arguments, and where the other's name is only a part of it."""
    for side, names in runtime.description.get("tensor_names", {}).items():
        ports = {name: entry["name"] for name, entry in _entries(runtime, model, side).items()}
        for name, port in ports.items():
            whole = names.get(port, "")
            text, leaf = _plain(whole), _plain(whole.rpartition("/")[2])  # behind the scopes that TensorFlow writes
            mine = (_plain(name), _plain(port))
            theirs = {n: (_plain(n), _plain(p)) for n, p in ports.items() if n != name}
            others = [n for n, pair in theirs.items() if text in pair or leaf in pair]
            said = f"the file's own name of {side[:-1]} {name} is {names.get(port)!r}, which is"
            if text in mine or leaf in mine:
                continue
            if not others:
                near = [n for n, pair in theirs.items() if any(_made_from(text, part) for part in pair)]
                if near and not any(_made_from(text, part) or _made_from(part, text) for part in mine):
                    parity.find(f"{said} made from {near[0]} of the model: an app must not take it by that name",
                                "warning")  # fmt: skip
                continue
            said += f" {others[0]} of the model"
            numbered = _numberless(text) in (_numberless(_plain(name)), _numberless(_plain(port)))
            if numbered or not prebuilt:
                parity.find(f"{said}: an app must not take it by that name", "warning")
            else:
                parity.add(judge.fact("signature", name, "tensor_name", False, said))


def _plain(name: str) -> str:
    """A name without what converters change of it: case, and characters that are no part of an identifier."""
    return "".join(c if c.isalnum() else "_" for c in name.casefold()).strip("_")


def _made_from(text: str, name: str) -> bool:
    """Whether a name has another in it: as words of it, or anywhere where it is long enough to mean something. A single
    letter is one only as the last word."""
    words, part = (re.split("_+", each) for each in (text, name))
    if not any(word.isalpha() for word in part):
        return False
    if len(name) == 1:
        return [word for word in words if not word.isdigit()][-1:] == part
    runs = (words[start : start + len(part)] for start in range(len(words)))
    return part in runs or (len(name) >= _MEANING and name in text)


def _numberless(name: str) -> str:
    return name.rstrip("0123456789").rstrip("_")


def _dtype(runtime: Runtime, spec: Any, found: Mapping[str, Any], prebuilt: bool, parity: Recorder) -> None:
    """A quantised tensor has parameters that can be used; an input has the declared type, as its format stores it.

    Who makes an fp16 file by hand decides whether it takes float16: coremltools does so unless told otherwise. The
    app sees it in the file's interface, and what the rounding of the input costs is measured with the rest.
    """
    precision, have = runtime.cell.precision, found["dtype"]
    if found.get("scale"):
        text = f"{have} with scale {found['scale']:.6g} and zero point {found['zero_point']}"
        ok = precision == "int8" and np.isfinite(found["scale"]) and found["scale"] > 0
        parity.add(judge.fact("signature", spec.name, "dtype", ok, text))
        return
    if not isinstance(spec, InputSpec) or have is None:
        return
    want = runtime.artifact.notes["inputs"][spec.name].get("dtype") or runtime.target.stored_dtype(spec.dtype)
    halved = prebuilt and (want, have) == ("float32", "float16")
    if halved and precision == "fp16":
        parity.find(f"the file takes {spec.name} as float16: the app feeds it rounded, as was done here")
    elif halved:
        parity.find("hint: if the file is meant to compute in float16: --precision fp16 (in a table: its key ends so)")
    ok = have == want or (halved and precision == "fp16")
    parity.add(judge.fact("signature", spec.name, "dtype", ok, f"declared {want}, the file has {have}"))


def _shape(
    spec: InputSpec, found: dict[str, Any], entry: Mapping[str, Any], fixed: list[int] | None, open_too: bool
) -> Any:
    """Fixed sizes must be equal; a declared dynamic axis must be dynamic in the file unless its route fixes it.

    `open_too`: where a fixed size is declared the file may take others too. A reference that is a file leaves more open
    than makes sense, and is declared at what does.
    """
    declared: list[int | str] = list(fixed or spec.shape)
    if entry.get("layout"):
        canonical = {3: "NCL", 4: "NCHW", 5: "NCDHW"}[len(declared)]
        declared = [declared[canonical.index(a)] for a in entry["layout"]]
    have = [d if isinstance(d, int) else None for d in found["shape"]]
    ok = len(have) == len(declared) and all(
        (h is None) if isinstance(d, str) else h == d or (open_too and h is None)
        for d, h in zip(declared, have, strict=False)
    )
    shown = [h if h is not None else "dynamic" for h in have]
    told = f"declared {list(spec.shape)}, exported at {declared}" if fixed else f"declared {declared}"
    return judge.fact("signature", spec.name, "shape", ok, f"{told}, the file has {shown}")


def _enumerated(spec: InputSpec, found: dict[str, Any], held: dict[str, list[int]]) -> list[Any]:
    """A file that enumerates an axis lists exactly the declared sizes of it."""
    facts = []
    for axis in held.keys() & set(spec.shape):
        have = sorted({shape[spec.shape.index(axis)] for shape in found.get("shapes", [])})
        want = sorted(held[axis])
        text = f"declared {axis} in {want}, the file takes {have}"
        facts.append(judge.fact("signature", spec.name, "enumerated", have == want, text))
    return facts


def _operators(runtime: Runtime, model: ModelConfig, parity: Recorder) -> None:
    ops = runtime.description.get("ops", {})
    total = sum(ops.values())
    parity.add(judge.fact("operators", "", "operators", total > 0, f"{total} operators of {len(ops)} kinds"))
    if delegate := runtime.target.delegate:
        flex = sorted(name for name in ops if name.startswith(delegate))
        limits = parity.limits()
        detail = f"{', '.join(flex)}: runs only in apps that link the {delegate} delegate" if flex else "none"
        parity.add(judge.counted("operators", "flex_ops", float(len(flex)), limits, detail))
        if flex:
            parity.find(f"{delegate} operators {', '.join(flex)}: the app must link the {delegate} delegate", "warning")
    asked = runtime.artifact.notes.get("opset")
    if asked is not None and not (model.reference and model.reference.suffix == ".onnx"):  # that file has its own
        found = runtime.description.get("opset")
        # Quantisers may raise the opset to reach operators that they need; lower than asked is never right.
        wanted = model.opset or asked
        ok = found == wanted or (runtime.cell.precision != "fp32" and found is not None and found >= wanted)
        parity.add(judge.fact("operators", "", "opset", ok, f"asked for {wanted}, the file has {found}"))


def _repeats(runtime: Runtime, model: ModelConfig, parity: Recorder) -> None:
    """Two runs on the same input give the same bits: live dropout or leaked state does not."""
    inputs = runtime.session.example(model)
    first, second = runtime.run([inputs, inputs])
    for spec in model.contract.outputs:
        if spec.name in first and spec.name in second:
            same = first[spec.name].tobytes() == second[spec.name].tobytes()
            parity.add(judge.fact("repeat", spec.name, "repeats", same, "two runs on one input, bit for bit"))
    _memory(runtime, model, inputs, parity)


def _memory(runtime: Runtime, model: ModelConfig, inputs: Mapping[str, Array], parity: Recorder) -> None:
    """What an app sees and one run after another does not: inputs that the file writes into or returns, threads, and
    memory that was used before. What the module does too is its own."""
    ways = runtime.otherwise(inputs)
    golden = runtime.session.golden_if_any(model) if ways or runtime.description.get("scatters") else []
    ways = [*ways, *(way for case in golden[:_MOST_GOLDEN] for way in runtime.otherwise(case.inputs))]
    for threads in sorted({way.way for way in ways if way.way.endswith("threads")}):
        names = ", ".join(sorted({name for way in ways if way.way == threads for name in way.outputs}))
        parity.find(f"with {threads} {names} are not what one thread gives: the file writes to one place more than "
                    "once, in an order that threads do not keep; apps often have several", "warning")  # fmt: skip
    uninitialised = sorted({name for way in ways if way.way == "used memory" for name in way.outputs})
    if not (runtime.overwritten or runtime.returned or uninitialised):
        return
    session = runtime.session
    request = WaysRequest(session.model_spec(model), [inputs])
    theirs = session.children.call("torch", MEMORY, request, Memory, stage="oracle")
    for name in sorted(runtime.overwritten):
        also = name in theirs.overwritten
        text = f"the file writes into this input; the module does {'so too' if also else 'not'}"
        parity.add(judge.fact("signature", name, "overwrites", also, text))
    for name in sorted(runtime.returned - set(theirs.returned)):
        parity.find(f"an output of the file lies in the memory of its input {name}, the module's does not: an app that "
                    "fills that memory anew changes outputs that it keeps", "warning")  # fmt: skip
    for name in uninitialised:
        also = theirs.uninitialised
        text = f"follows memory that nothing wrote; the module's {'does so too' if also else 'does not'}"
        parity.add(judge.fact("repeat", name, "uninitialised", also, text))


@measures(CONTRACT)
def test_contract(parity_cell: Cell, parity_runtime: Runtime, parity: Recorder) -> None:
    """The file keeps the model's contract: names, shapes, dtypes, operators, and repeats itself."""
    run(CheckContext(parity_runtime, parity))


KIND = SuiteKind(CONTRACT, always, run, test_contract)
