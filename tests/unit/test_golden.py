"""Golden pictures and tensors: every step of the declared preprocessing, against an independent computation."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from parity.cases.files import golden_files
from parity.cases.golden import load, picture
from parity.core.case import Case, digest
from parity.core.contract import Contract, InputSpec, OutputSpec, Preprocess
from parity.core.errors import ParityError

SHAPE = ("batch", 3, 12, 20)
NAIVE = Preprocess(scale=1.0)
TRAINED = Preprocess((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def contract(how: Preprocess = NAIVE, shape: Any = SHAPE, labels: tuple[str, ...] = ()) -> Contract:
    return Contract((InputSpec("image", shape),), (OutputSpec("y", "logits", labels),), how)


def pixels(height: int = 12, width: int = 20, channels: int = 3) -> Any:
    """Every pixel and channel its own value, so that any swap shows."""
    values = np.random.default_rng(height * width * channels).integers(0, 256, (height, width, channels), np.uint8)
    return values[..., 0] if channels == 1 else values


def saved(folder: Path, array: Any, name: str = "p.png", **options: Any) -> Path:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(folder / name, **options)
    return folder / name


def test_pixels_arrive_where_they_belong(tmp_path: Path) -> None:
    array = pixels()
    got = picture(saved(tmp_path, array), NAIVE, SHAPE)
    assert got.shape == (3, 12, 20) and got.dtype == np.float32 and got.flags.c_contiguous
    np.testing.assert_array_equal(got, array.transpose(2, 0, 1).astype(np.float32))


def test_the_channel_order_is_turned_for_bgr(tmp_path: Path) -> None:
    array = pixels()
    got = picture(saved(tmp_path, array), replace(NAIVE, color="BGR"), SHAPE)
    np.testing.assert_array_equal(got, array[..., ::-1].transpose(2, 0, 1))


def test_mean_and_std_follow_the_declared_order_and_scale(tmp_path: Path) -> None:
    array = pixels()
    how = Preprocess((0.1, 0.2, 0.3), (0.5, 0.25, 2.0), 255.0, "BGR")
    got = picture(saved(tmp_path, array), how, SHAPE)
    for place, channel in enumerate((2, 1, 0)):
        want = (array[..., channel] / 255.0 - how.mean[place]) / how.std[place]
        np.testing.assert_allclose(got[place], want, atol=1e-6)


def test_the_usual_recipe_is_the_usual_recipe(tmp_path: Path) -> None:
    array = pixels(40, 33)
    got = picture(saved(tmp_path, array), TRAINED, SHAPE)
    small = np.asarray(Image.fromarray(array).resize((20, 12), Image.Resampling.BILINEAR), np.float64)
    want = ((small / 255 - np.array(TRAINED.mean)) / np.array(TRAINED.std)).transpose(2, 0, 1)
    np.testing.assert_allclose(got, want, atol=2e-6)


def test_bilinear_is_the_filtered_one(tmp_path: Path) -> None:
    """Halving a checkerboard by area gives grey; without the filter it would give black or white."""
    board = np.kron(np.indices((24, 40)).sum(0) % 2, np.ones((1, 1), int)).astype(np.uint8) * 255
    got = picture(saved(tmp_path, np.stack([board] * 3, -1)), NAIVE, SHAPE)
    assert abs(got[:, 2:-2, 2:-2] - 127.5).max() < 2


@pytest.mark.parametrize("resize", ["nearest", "bilinear", "bicubic", "lanczos", "box"])
def test_the_filter_is_the_declared_one(resize: Any, tmp_path: Path) -> None:
    array = pixels(50, 31)
    got = picture(saved(tmp_path, array), replace(NAIVE, resize=resize), SHAPE)
    want = np.asarray(Image.fromarray(array).resize((20, 12), getattr(Image.Resampling, resize.upper())))
    np.testing.assert_array_equal(got, want.transpose(2, 0, 1))


def test_a_declared_size_stands_over_the_shape(tmp_path: Path) -> None:
    how = replace(NAIVE, size=(7, 9))
    assert picture(saved(tmp_path, pixels()), how, ("batch", 3, "h", "w")).shape == (3, 7, 9)


def test_a_dynamic_size_needs_a_declared_one(tmp_path: Path) -> None:
    with pytest.raises(ParityError, match=r"set preprocess.size"):
        picture(saved(tmp_path, pixels()), NAIVE, ("batch", 3, "h", "w"))


TURNS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("orientation", TURNS)
def test_every_exif_orientation(orientation: int, tmp_path: Path) -> None:
    array = pixels(12, 20)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path, array, exif=exif)
    want = TURNS[orientation](array)
    shape = ("batch", 3, *want.shape[:2])
    np.testing.assert_array_equal(picture(path, NAIVE, shape), want.transpose(2, 0, 1))
    as_stored = picture(path, replace(NAIVE, orient=False), ("batch", 3, 12, 20))
    np.testing.assert_array_equal(as_stored, array.transpose(2, 0, 1))


@pytest.mark.parametrize(("alpha", "ground"), [("drop", None), ("white", 255), ("black", 0)])
def test_transparency(alpha: Any, ground: int | None, tmp_path: Path) -> None:
    array = pixels(12, 20, 4)
    got = picture(saved(tmp_path, array), replace(NAIVE, alpha=alpha), SHAPE)
    rgb, share = array[..., :3].astype(float), array[..., 3:] / 255.0
    want = rgb if ground is None else rgb * share + ground * (1 - share)
    np.testing.assert_allclose(got, want.transpose(2, 0, 1), atol=0 if ground is None else 1.01)


def test_a_transparent_colour_of_a_palette_counts(tmp_path: Path) -> None:
    image = Image.new("P", (20, 12), 1)
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.save(tmp_path / "p.png", transparency=1)
    assert (picture(tmp_path / "p.png", replace(NAIVE, alpha="white"), SHAPE) == 255).all()
    np.testing.assert_array_equal(picture(tmp_path / "p.png", NAIVE, SHAPE)[:, 0, 0], [40, 50, 60])


def test_grey_pictures_for_colour_models_and_colour_pictures_for_grey_ones(tmp_path: Path) -> None:
    grey = pixels(12, 20, 1)
    got = picture(saved(tmp_path, grey), NAIVE, SHAPE)
    assert all((got[c] == grey).all() for c in range(3))
    single = Preprocess((0.0,), (1.0,), 1.0, "L")
    np.testing.assert_array_equal(picture(saved(tmp_path, grey), single, ("b", 1, 12, 20)), grey[None])
    array = pixels()
    got = picture(saved(tmp_path, array, "c.png"), single, ("b", 1, 12, 20))
    want = array @ np.array([299, 587, 114]) / 1000
    assert got.shape == (1, 12, 20) and abs(got[0] - want).max() <= 1


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (200, 3), (13, 21)])
def test_pictures_of_every_size_come_out_in_the_declared_one(size: tuple[int, int], tmp_path: Path) -> None:
    assert picture(saved(tmp_path, pixels(*size)), TRAINED, SHAPE).shape == (3, 12, 20)


@pytest.mark.parametrize("name", ["p.jpg", "p.jpeg", "p.webp", "p.bmp", "p.tif", "P.PNG"])
def test_every_format_is_read(name: str, tmp_path: Path) -> None:
    saved(tmp_path, np.full((12, 20, 3), 128, np.uint8), name)
    (case,) = load(tmp_path, contract())
    assert case.inputs["image"].shape == (1, 3, 12, 20) and abs(case.inputs["image"] - 128).max() < 3


# Broken files.


def encoded(kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels(60, 60)).save(out, kind)
    return out.getvalue()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("p.png", b""),
        ("p.png", b"not a picture"),
        ("p.png", encoded()[:100]),
        ("p.png", encoded()[: len(encoded()) // 2]),
        ("p.jpg", encoded("JPEG")[: len(encoded("JPEG")) // 2]),
        ("p.gif", b"GIF89a" + bytes(10)),
        ("p.tif", b"II*\x00" + bytes(30)),
        ("p.webp", b"RIFF\x10\x00\x00\x00WEBPVP8 "),
        ("p.bmp", b"BM" + bytes(20)),
    ],
)
def test_a_broken_picture_is_one_line(name: str, data: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ParityError, match="cannot be decoded") as caught:
        load(tmp_path, contract())
    assert name in str(caught.value) and "\n" not in str(caught.value)


def test_a_picture_that_would_fill_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ParityError, match="cannot be decoded"):
        picture(saved(tmp_path, pixels()), NAIVE, SHAPE)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)
    with pytest.raises(ParityError, match="cannot be decoded"):
        picture(saved(tmp_path, pixels()), NAIVE, SHAPE)


# Folders.


def test_an_empty_folder_has_no_case(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / ".hidden.png").write_bytes(b"x")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "p.png").write_bytes(b"x")
    (tmp_path / "folder.png").mkdir()
    assert golden_files(tmp_path) == [] and load(tmp_path, contract()) == []


def test_cases_come_in_the_order_of_their_paths_with_their_labels(tmp_path: Path) -> None:
    for name in ("dog/b.png", "cat/z.png", "cat/a.jpg", "other/x.png"):
        saved(tmp_path, pixels(), name)
    cases = load(tmp_path, contract(labels=("cat", "dog")))
    assert [(c.id, c.label) for c in cases] == [("cat/a", 0), ("cat/z", 0), ("dog/b", 1), ("other/x", None)]


def test_two_files_that_differ_in_their_suffix_have_different_ids(tmp_path: Path) -> None:
    saved(tmp_path, pixels(), "a.png")
    saved(tmp_path, pixels(), "a.bmp")
    assert [c.id for c in load(tmp_path, contract())] == ["a.bmp", "a.png"]


def test_one_file_is_one_case(tmp_path: Path) -> None:
    (case,) = load(saved(tmp_path, pixels(), "a.png"), contract())
    assert case.id == "a" and case.label is None


# Tensors.

TENSORS = Contract((InputSpec("x", ("batch", 3)), InputSpec("n", ("batch",), "int64")), (OutputSpec("y"),))


def stored(folder: Path, **arrays: Any) -> Path:
    np.savez(folder / "t.npz", **arrays)
    return folder


X, N = np.arange(6, dtype=np.float32).reshape(2, 3), np.array([1, 2], np.int64)


def test_tensors_arrive_by_name_in_the_order_of_the_contract(tmp_path: Path) -> None:
    (case,) = load(stored(tmp_path, n=N, x=X, label=np.int64(4)), TENSORS)
    assert list(case.inputs) == ["x", "n"] and case.label == 4 and case.id == "t"
    np.testing.assert_array_equal(case.inputs["x"], X)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x": X}, "holds ['x'], the model's inputs are ['n', 'x']"),
        ({"x": X, "n": N, "z": N}, "holds ['n', 'x', 'z']"),
        ({}, "holds []"),
        ({"x": X[:, :2], "n": N}, "x is [2, 2], declared ['batch', 3]"),
        ({"x": X[0], "n": N}, "x is [3], declared"),
        ({"x": X[None], "n": N}, "x is [1, 2, 3], declared"),
        ({"x": X.astype(np.float64), "n": N}, "x is float64, declared float32"),
        ({"x": X, "n": N.astype(np.int32)}, "n is int32, declared int64"),
        ({"x": np.array([[None] * 3]), "n": N}, "not a readable .npz without pickles"),
        ({"x": X, "n": N, "label": np.array([1, 2])}, "label"),
        ({"x": X, "n": N, "label": np.array("cat")}, "label"),
    ],
)
def test_tensors_that_do_not_fit_are_one_line(arrays: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ParityError) as caught:
        load(stored(tmp_path, **arrays), TENSORS)
    assert words in str(caught.value) and "t.npz" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 truncated", b"\x93NUMPY", b"text"])
def test_a_broken_npz_is_one_line(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "t.npz").write_bytes(data)
    with pytest.raises(ParityError, match=r"t.npz: not a readable .npz"):
        load(tmp_path, TENSORS)


def test_pictures_for_a_model_without_a_picture_input_say_what_to_give(tmp_path: Path) -> None:
    saved(tmp_path, pixels())
    with pytest.raises(ParityError, match=r"give .npz files instead"):
        load(tmp_path, TENSORS)


# The digest.


def test_the_digest_sees_names_order_values_shapes_and_types() -> None:
    base = [Case("a", {"x": X}), Case("b", {"x": X + 1})]
    variants = [
        base,
        base[::-1],
        base[:1],
        [Case("c", {"x": X}), base[1]],
        [Case("a", {"y": X}), base[1]],
        [Case("a", {"x": X.T}), base[1]],
        [Case("a", {"x": X.astype(np.float64)}), base[1]],
        [Case("a", {"x": X.view(np.int32)}), base[1]],
        [Case("a", {"x": X + np.float32(1e-7)}), base[1]],
        [Case("a", {"x": X.reshape(3, 2)}), base[1]],
    ]
    assert len({digest(v) for v in variants}) == len(variants)
    assert digest(base) == digest([Case("a", {"x": np.asfortranarray(X)}, label=3), base[1]])
    assert digest([]) == digest(()) and digest([Case("e", {"x": np.zeros((0, 3))})])
