"""The example models besides `skin` are as `fixtures/README.md` says, and tell a good export from a bad one.

A model whose answer hardly depends on its input would make every later check blind; a decode that is not its prefill
would make the suite chase faults of its own fixtures.
"""

from __future__ import annotations

import copy
import hashlib
import importlib
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")

from safetensors import safe_open  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

from fixtures.models.golfiq_lite import golfiq_lite  # noqa: E402
from fixtures.models.skin import efficientnet_b0, from_timm, skin  # noqa: E402
from fixtures.models.student import CONTEXT, Rotary, student  # noqa: E402
from fixtures.scripts import draw_golfiq, draw_line, draw_sign  # noqa: E402
from fixtures.scripts.hash_fixtures import sums  # noqa: E402
from fixtures.scripts.make_checkpoints import trained, write_checkpoints  # noqa: E402
from fixtures.scripts.make_zoo_golden import DECODE_POSITIONS, WRITERS  # noqa: E402
from fixtures.scripts.write_text import encode, prose, record  # noqa: E402

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
CLASSIFIERS = ("golfiq_lite", "line_video", "sign_transformer", "mediapipe_gru", "judge")
MODELS = (*CLASSIFIERS, "student")
DATA = {"sign_transformer": "sign", "mediapipe_gru": "sign"}
INPUTS = {
    "golfiq_lite": ("image",), "line_video": ("image",), "judge": ("prompt", "reply"), "student": ("ids",),
    "sign_transformer": ("keypoints",), "mediapipe_gru": ("keypoints",),
    "student_decode": ("token", "position", "keys", "values"),
}  # fmt: skip
SIZE = {"golfiq_lite": (64, 255.0), "line_video": (96, 1.0)}
"""Side of the input and the divisor of its pixels."""


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@cache
def model_of(name: str) -> torch.nn.Module:
    return trained(name).requires_grad_(False)


def pixels(path: Path, name: str) -> torch.Tensor:
    """An encoded picture to [1, 3, side, side], by hand and not by `parity`."""
    side, scale = SIZE[name]
    with Image.open(path) as image:
        resized = image.convert("RGB").resize((side, side), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(resized, np.float32).transpose(2, 0, 1)[None] / np.float32(scale))


@cache
def golden(name: str) -> tuple[tuple[torch.Tensor, ...], tuple[int | None, ...]]:
    """Inputs stacked over all golden cases, and their labels."""
    folder = FIXTURES / "golden" / DATA.get(name, name)
    labels = (folder / "labels.txt").read_text(encoding="utf-8").split() if (folder / "labels.txt").exists() else []
    rows, truth = [], []
    for path in sorted(p for p in folder.rglob("*") if p.suffix in (".png", ".jpg", ".npz")):
        named = labels.index(path.parent.name) if labels else None
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                rows.append(tuple(torch.from_numpy(archive[key]) for key in INPUTS[name]))
                assert named is None or int(archive["label"]) == named, path
        else:
            rows.append((pixels(path, name),))
        truth.append(named)
    return tuple(torch.cat(parts) for parts in zip(*rows, strict=True)), tuple(truth)


@cache
def outputs(name: str) -> torch.Tensor:
    result = model_of(name)(*golden(name)[0])
    return result[0] if isinstance(result, tuple) else result


# Files.


def test_every_data_file_has_its_recorded_hash() -> None:
    lines = (FIXTURES / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    assert {path: digest for digest, path in (line.split("  ", 1) for line in lines)} == sums(FIXTURES)


@pytest.mark.parametrize("name", MODELS)
def test_files_are_small(name: str) -> None:
    assert (FIXTURES / "weights" / f"{name}.safetensors").stat().st_size < 1_000_000
    for part in ("golden", "calibration"):
        files = [p for p in (FIXTURES / part / DATA.get(name, name)).rglob("*") if p.is_file()]
        assert files
        assert sum(p.stat().st_size for p in files) < 500_000


@pytest.mark.parametrize("name", MODELS)
def test_weights_say_where_they_come_from(name: str) -> None:
    with safe_open(FIXTURES / "weights" / f"{name}.safetensors", "numpy") as file:
        about = json.loads(file.metadata()["fixture"])
    assert (FIXTURES.parent / about["script"]).is_file()
    assert about["held_out_accuracy"] >= (0.8 if name == "student" else 0.95)


def test_golfiq_npz_holds_the_same_tensors() -> None:
    want = load_file(FIXTURES / "weights" / "golfiq_lite.safetensors")
    with np.load(FIXTURES / "weights" / "golfiq_lite.npz", allow_pickle=False) as archive:
        assert set(archive.files) == set(want)
        assert all(np.array_equal(archive[key], value.numpy()) for key, value in want.items())


@pytest.mark.parametrize("name", [name for name in WRITERS if name != "student_decode"])
def test_golden_and_calibration_are_what_the_script_writes(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path / "golden", tmp_path / "calibration")
    for part in ("golden", "calibration"):
        made = {p.relative_to(tmp_path / part / name): p for p in (tmp_path / part / name).rglob("*") if p.is_file()}
        kept = FIXTURES / part / name
        assert made.keys() == {p.relative_to(kept) for p in kept.rglob("*") if p.is_file()}
        for path, file in made.items():
            if file.suffix == ".npz":  # compressed: equal contents, whatever the version of zlib
                with np.load(file) as new, np.load(kept / path) as old:
                    assert all(np.array_equal(new[k], old[k]) for k in old.files), path


# Decisions.


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_accuracy_on_golden(name: str) -> None:
    truth = torch.tensor(golden(name)[1])
    assert (outputs(name).argmax(-1) == truth).double().mean() >= 0.9


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_outputs_depend_on_inputs(name: str) -> None:
    got = outputs(name).double()
    assert got.std(0).min() > (0.05 if name == "line_video" else 0.4)
    assert set(golden(name)[1]) <= set(got.argmax(-1).tolist())


@pytest.mark.parametrize(
    ("name", "fault", "share"),
    [
        ("golfiq_lite", lambda x: x.flip(1), 0.25),
        ("golfiq_lite", lambda x: x.flip(3), 0.25),
        ("golfiq_lite", lambda x: x.flip(2), 0.25),
        ("line_video", lambda x: x.flip(1), 0.5),
        ("line_video", lambda x: x.flip(3), 0.5),
        ("line_video", lambda x: x / 255, 0.5),
        ("sign_transformer", lambda x: x.flip(1), 0.3),
        ("mediapipe_gru", lambda x: x.flip(1), 0.3),
        ("sign_transformer", lambda x: x.unflatten(2, (89, 2)).flip(3).flatten(2), 0.5),
        ("mediapipe_gru", lambda x: x.unflatten(2, (2, 89)).transpose(2, 3).flatten(2), 0.5),
    ],
    ids=["golf_bgr", "golf_mirrored", "golf_upside_down", "line_bgr", "line_mirrored", "line_scaled",
         "sign_backwards", "gru_backwards", "sign_xy_swapped", "gru_interleaved"],
)  # fmt: skip
def test_a_faulty_input_changes_decisions(name: str, fault, share: float) -> None:
    faulty = model_of(name)(fault(golden(name)[0][0]))
    assert (faulty.argmax(-1) != outputs(name).argmax(-1)).double().mean() >= share


def test_probabilities_sum_to_one() -> None:
    assert torch.allclose(outputs("line_video").sum(1), torch.ones(()), atol=1e-6)


def test_judge_needs_both_inputs_and_ignores_padding() -> None:
    (prompt, reply), truth = golden("judge")
    model = model_of("judge")
    others = model(prompt.roll(1, 0), reply).argmax(1)
    assert others[torch.tensor(truth) == 1].double().mean() < 0.5, "a right reply to another prompt is wrong"
    padded = [torch.nn.functional.pad(part, (0, 5)) for part in (prompt, reply)]
    assert torch.allclose(model(*padded), outputs("judge"), atol=1e-4)


# Sizes.


@pytest.mark.parametrize(("batch", "side"), [(1, 32), (3, 64), (1, 97), (1, 320)])
def test_golfiq_takes_any_size(batch: int, side: int) -> None:
    assert model_of("golfiq_lite")(torch.rand(batch, 3, side, side)).shape == (batch, 6)


@pytest.mark.parametrize("name", ["sign_transformer", "mediapipe_gru"])
@pytest.mark.parametrize(("batch", "frames"), [(1, 1), (2, 7), (1, 300), (1, 512)])
def test_sign_takes_any_batch_and_length(name: str, batch: int, frames: int) -> None:
    assert model_of(name)(torch.randn(batch, frames, 178)).shape == (batch, 105)


@pytest.mark.parametrize("name", ["sign_transformer", "mediapipe_gru"])
def test_sign_knows_a_gesture_at_other_lengths(name: str) -> None:
    right = 0
    for which in range(0, 105, 5):
        for frames in (24, 80):
            gesture = torch.from_numpy(draw_sign.draw(draw_sign.LABELS[which], 77, which, frames))[None]
            right += int(model_of(name)(gesture).argmax()) == which
    assert right >= 0.85 * 42


# Synthetic weights.


def test_golfiq_without_a_checkpoint_is_repeatable_and_not_blind() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = golfiq_lite(seed=5).eval()
    again, other = golfiq_lite(seed=5).eval(), golfiq_lite(seed=6).eval()
    pictures = golden("golfiq_lite")[0][0]
    with torch.no_grad():
        got = first(pictures)
        assert torch.equal(got, again(pictures))
        assert not torch.equal(got, other(pictures))
    assert (got.std(0) > 0.02 * got.abs().mean()).all()
    assert torch.equal(before, torch.get_rng_state())


def test_golfiq_takes_options() -> None:
    model = golfiq_lite(num_classes=4, width=0.5).eval()
    assert model(torch.rand(1, 3, 64, 64)).shape == (1, 4)
    assert sum(p.numel() for p in model.parameters()) < sum(p.numel() for p in golfiq_lite().parameters())


# The language model.


@cache
def pair() -> tuple[torch.nn.Module, torch.nn.Module]:
    both = student("both")
    prefill, decode = both["prefill"], both["decode"]
    prefill.load_state_dict(load_file(FIXTURES / "weights" / "student.safetensors"))
    return prefill.eval().requires_grad_(False), decode.eval().requires_grad_(False)


def test_modes_share_weights_and_names() -> None:
    prefill, decode = pair()
    assert [n for n, _ in prefill.named_parameters()] == [n for n, _ in decode.named_parameters()]
    assert all(a is b for a, b in zip(prefill.parameters(), decode.parameters(), strict=True))
    alone = student("decode")
    alone.load_state_dict(load_file(FIXTURES / "weights" / "student.safetensors"))


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-5), (torch.float64, 1e-12)], ids=["single", "double"])
def test_decode_equals_prefill_at_every_step(dtype: torch.dtype, limit: float) -> None:
    prefill, decode = (copy.deepcopy(module).to(dtype) for module in pair())
    length = 256
    ids = torch.from_numpy(encode(prose(46, length)))[None]
    want, want_keys, want_values = prefill(ids)
    shape = (1, 2, 4, length, 16)
    keys, values = torch.full(shape, 7.0, dtype=dtype), torch.full(shape, -7.0, dtype=dtype)  # never to be looked at
    limit *= float(want.abs().max())
    for position in range(length):
        given = keys.clone(), values.clone()
        got, new_keys, new_values = decode(
            ids[:, position : position + 1], torch.tensor([position], dtype=torch.int32), keys, values
        )
        assert (got - want[:, position]).abs().max() < limit, position
        assert torch.equal(keys, given[0]) and torch.equal(values, given[1]), "inputs are never written to"
        keys, values = new_keys, new_values
    assert (keys - want_keys).abs().max() < limit
    assert (values - want_values).abs().max() < limit


def test_a_padded_prompt_changes_nothing_before_the_padding() -> None:
    prefill, decode = pair()
    ids = torch.from_numpy(encode(prose(47, 41)))[None]
    logits = prefill(ids)[0]
    padded = prefill(torch.nn.functional.pad(ids[:, :-1], (0, 24)))
    assert torch.allclose(padded[0][:, :40], logits[:, :40], atol=1e-5)
    got = decode(ids[:, 40:], torch.tensor([40], dtype=torch.int32), padded[1], padded[2])
    assert torch.allclose(got[0], logits[:, 40], atol=1e-5)


def test_rotary_angles_are_right_up_to_the_last_position() -> None:
    rotary = Rotary(16)
    position = torch.arange(CONTEXT, dtype=torch.int32)
    cos, sin = rotary(position)
    angles = position.double()[:, None] * 10000.0 ** (-torch.arange(0, 16, 2, dtype=torch.float64) / 16)
    assert (cos - angles.cos()).abs().max() < 1e-6
    assert (sin - angles.sin()).abs().max() < 1e-6


def test_student_reads_its_longest_context() -> None:
    prefill, _ = pair()
    logits, keys, _ = prefill(torch.from_numpy(encode(prose(48, CONTEXT)))[None])
    assert logits.shape == (1, CONTEXT, 128) and keys.shape == (1, 2, 4, CONTEXT, 16)
    assert logits.isfinite().all()


def test_student_predicts_text() -> None:
    ids = golden("student")[0][0]
    share = (outputs("student")[:, :-1].argmax(-1) == ids[:, 1:]).double().mean()
    assert share > 0.75


def test_decode_cases_are_caches_that_prefill_made() -> None:
    prefill, decode = pair()
    folder = FIXTURES / "golden" / "student_decode"
    seen = []
    for path in sorted(folder.glob("*.npz")):
        with np.load(path, allow_pickle=False) as archive:
            token, position, keys, values = (torch.from_numpy(archive[k]) for k in INPUTS["student_decode"])
        assert keys.shape == (1, 2, 4, 256, 16) and token.dtype == position.dtype == torch.int32
        at = int(position)
        seen.append(at)
        number = DECODE_POSITIONS.index(at)
        ids = torch.from_numpy(encode(prose(45, 1024)).reshape(4, 1, 256)[number % 4])
        logits, want, _ = prefill(ids)
        assert torch.allclose(keys[:, :, :, :at], want[:, :, :, :at], atol=1e-2)
        got, _, _ = decode(token, position, keys, values)
        assert (got - logits[:, at]).abs().max() < 0.05
    assert tuple(seen) == DECODE_POSITIONS


def test_text_is_ascii_and_its_replies_are_right() -> None:
    text = (FIXTURES / "text" / "held_out.txt").read_text(encoding="ascii")
    asked = [line for line in text.splitlines() if "How many" in line][:-1]
    assert len(asked) > 50
    for line in asked:
        said, _, reply = line.partition("? ")
        assert f" {reply[:-1]}" in said
    one = record(np.random.default_rng(1))
    assert one.reply != one.wrong


# Video.


@pytest.mark.parametrize(
    ("name", "size", "turn", "from_top"),
    [
        ("portrait.mp4", (128, 176), 0, False),
        ("top.avi", (101, 135), 0, True),
        ("turned.mp4", (176, 128), 1, False),
        ("tagged.mp4", (176, 128), 1, False),
    ],
)
def test_clips_decode_to_frames_of_known_classes(name: str, size: tuple[int, int], turn: int, from_top: bool) -> None:
    cv2 = pytest.importorskip("cv2")
    path = FIXTURES / "video" / name
    assert path.stat().st_size < 100_000
    about = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    reader, frames = cv2.VideoCapture(str(path)), []
    reader.set(cv2.CAP_PROP_ORIENTATION_AUTO, 0)
    assert (int(reader.get(cv2.CAP_PROP_FRAME_WIDTH)), int(reader.get(cv2.CAP_PROP_FRAME_HEIGHT))) == size
    assert reader.get(cv2.CAP_PROP_ORIENTATION_META) == (270 if name == "tagged.mp4" else 0)
    while (read := reader.read())[0]:
        frame = np.rot90(read[1][:, :, ::-1], turn)
        side = min(frame.shape[:2])
        square = frame[:side] if from_top else frame[-side:]
        frames.append(cv2.resize(np.ascontiguousarray(square), (96, 96)).transpose(2, 0, 1))
    assert 24 <= len(frames) == about["frames"] == len(about["labels"]) <= 48
    got = model_of("line_video")(torch.from_numpy(np.stack(frames)).float()).argmax(1)
    right = [draw_line.LABELS[i] == label for i, label in zip(got.tolist(), about["labels"], strict=True)]
    assert np.mean(right) >= 0.8  # the ball crosses borders between classes
    assert len(set(about["labels"])) >= 4


# Drawing.


@pytest.mark.parametrize(
    ("draw", "label", "other"),
    [
        (lambda label, index: np.asarray(draw_golfiq.draw(label, 7, index)), "path_draw", "path_fade"),
        (lambda label, index: np.asarray(draw_line.draw(label, 7, index)), "off_good", "leg_good"),
        (lambda label, index: draw_sign.draw(label, 7, index, 16), "flat_rise_head", "flat_fall_head"),
    ],
    ids=["golfiq", "line", "sign"],
)
def test_drawing_is_deterministic(draw, label: str, other: str) -> None:
    first = draw(label, 3)
    assert np.array_equal(first, draw(label, 3))
    assert not np.array_equal(first, draw(label, 4))
    assert not np.array_equal(first, draw(other, 3))


def test_calibration_is_not_golden() -> None:
    for name in ("golfiq_lite", "line_video", "sign", "student", "judge"):
        digests = [
            hashlib.sha256(p.read_bytes()).hexdigest()
            for part in ("golden", "calibration")
            for p in (FIXTURES / part / name).rglob("*")
            if p.is_file()
        ]
        assert len(set(digests)) == len(digests), name


# The full EfficientNet.


def timm_names(stages: tuple[tuple[int, int, int, int, int], ...], stem: int, head: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a timm `efficientnet` state dict, written out from timm's documented module structure:
    `conv_stem`, `blocks.STAGE.BLOCK` of conv_pw, conv_dw, se.conv_reduce, se.conv_expand, conv_pwl and bn1 to bn3
    (a first stage without expansion: conv_dw, se, conv_pw, bn1, bn2), `conv_head`, `classifier`."""
    named: dict[str, tuple[int, ...]] = {}

    def conv(name: str, out: int, into: int, kernel: int, bias: bool = False) -> None:
        named[f"{name}.weight"] = (out, into, kernel, kernel)
        if bias:
            named[f"{name}.bias"] = (out,)

    def norm(name: str, channels: int) -> None:
        named.update({f"{name}.{part}": (channels,) for part in ("weight", "bias", "running_mean", "running_var")})
        named[f"{name}.num_batches_tracked"] = ()

    conv("conv_stem", stem, 3, 3)
    norm("bn1", stem)
    channels = stem
    for number, (expand, kernel, _, out, blocks) in enumerate(stages):
        for block in range(blocks):
            start, wide = f"blocks.{number}.{block}", channels * expand
            names = iter(("bn1", "bn2", "bn3"))
            if expand != 1:
                conv(f"{start}.conv_pw", wide, channels, 1)
                norm(f"{start}.{next(names)}", wide)
            conv(f"{start}.conv_dw", wide, 1, kernel)
            norm(f"{start}.{next(names)}", wide)
            conv(f"{start}.se.conv_reduce", max(1, channels // 4), wide, 1, bias=True)
            conv(f"{start}.se.conv_expand", wide, max(1, channels // 4), 1, bias=True)
            conv(f"{start}.{'conv_pwl' if expand != 1 else 'conv_pw'}", out, wide, 1)
            norm(f"{start}.{next(names)}", out)
            channels = out
    conv("conv_head", head, channels, 1)
    norm("bn2", head)
    named |= {"classifier.weight": (5, head), "classifier.bias": (5,)}
    return named


def test_efficientnet_b0_is_the_published_size() -> None:
    assert sum(p.numel() for p in efficientnet_b0().parameters()) == 5_288_548
    names = set(efficientnet_b0(5).state_dict())
    assert {"features.1.0.block.1.fc1.bias", "features.7.0.block.3.1.running_var", "features.8.0.weight"} <= names


def test_timm_names_become_torchvision_names() -> None:
    from fixtures.models.skin import B0_STAGES

    state = {
        name: torch.full(shape, float(number))
        for number, (name, shape) in enumerate(timm_names(B0_STAGES, 32, 1280).items())
    }
    names = list(state)
    renamed = from_timm(state)
    assert list(state) == names, "the given state dict is left alone"
    model = efficientnet_b0(5)
    assert {n: v.shape for n, v in renamed.items()} == {n: v.shape for n, v in model.state_dict().items()}
    model.load_state_dict(renamed)
    assert model.features[1][0].block[0][0].weight[0, 0, 0, 0] == state["blocks.0.0.conv_dw.weight"][0, 0, 0, 0]
    assert model.features[7][0].block[3][1].bias[0] == state["blocks.6.0.bn3.bias"][0]
    assert model.features[4][2].block[2].fc2.bias[0] == state["blocks.3.2.se.conv_expand.bias"][0]


def test_a_checkpoint_with_timm_names_is_loaded_as_it_is(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    from fixtures.models.skin import B0_STAGES
    from parity.core.errors import ParityError
    from parity.reference.modelling import load_checkpoint

    state = {name: torch.full(shape, 0.5) for name, shape in timm_names(B0_STAGES, 32, 1280).items()}
    save_file(state, tmp_path / "timm.safetensors")
    model = efficientnet_b0(5)
    load_checkpoint(model, tmp_path / "timm.safetensors")
    loaded = [v for v in model.state_dict().values() if v.is_floating_point()]
    assert all(bool((v == 0.5).all()) for v in loaded)
    save_file(model.state_dict(), tmp_path / "torchvision.safetensors")
    load_checkpoint(efficientnet_b0(5), tmp_path / "torchvision.safetensors")
    save_file({**state, "blocks.0.0.odd.weight": torch.zeros(1)}, tmp_path / "odd.safetensors")
    with pytest.raises(ParityError, match=r"odd.safetensors: 'blocks.0.0.odd.weight' is not a name in a timm"):
        load_checkpoint(efficientnet_b0(5), tmp_path / "odd.safetensors")


def test_names_of_another_model_are_refused() -> None:
    with pytest.raises(ValueError, match="layer1"):
        from_timm({"layer1.0.conv1.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match="timm"):
        from_timm(skin().state_dict())


# Checkpoints for other tests.


def test_checkpoints_of_every_kind_are_written(tmp_path: Path) -> None:
    files = write_checkpoints(tmp_path)
    want = model_of("sign_transformer").state_dict()
    assert torch.load(files["state.pt"], weights_only=True).keys() == want.keys()
    with pytest.raises(Exception, match=r"(?i)weights_only|unsupported"):
        torch.load(files["whole.pt"], weights_only=True)
    whole = torch.load(files["whole.pt"], weights_only=False)
    assert isinstance(whole, type(model_of("sign_transformer")))
    with pytest.raises(Exception, match=r"(?i)header|incomplete|buffer|error"):
        load_file(files["truncated.safetensors"])


@pytest.mark.parametrize("name", MODELS)
def test_factories_carry_the_file_s_name(name: str) -> None:
    assert callable(getattr(importlib.import_module(f"fixtures.models.{name}"), name))
