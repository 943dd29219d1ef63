"""The example model `skin` and its data are as `fixtures/README.md` says, and tell a good export from a bad.

A model whose answer hardly depends on its input, or pictures that all decode alike, would make every later
check blind; these tests keep the fixture discriminating.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")

from safetensors import safe_open  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

from fixtures.models.skin import skin  # noqa: E402
from fixtures.scripts.draw_skin import LABELS, draw  # noqa: E402
from fixtures.scripts.make_skin_golden import write_calibration, write_golden  # noqa: E402
from fixtures.scripts.preprocess_skin import load  # noqa: E402

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
WEIGHTS = FIXTURES / "weights" / "skin.safetensors"
GOLDEN = FIXTURES / "golden" / "skin"
CALIBRATION = FIXTURES / "calibration" / "skin"
PICTURES = sorted(path for path in GOLDEN.glob("*/*") if path.is_file())
EXIF_ORIENTATION = 0x0112


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    built = skin()
    built.load_state_dict(load_file(WEIGHTS), strict=True)
    return built.eval()


@pytest.fixture(scope="module")
def inputs() -> torch.Tensor:
    """Golden pictures, [48, 3, 96, 96]."""
    return torch.from_numpy(np.stack([load(path) for path in PICTURES]))


@pytest.fixture(scope="module")
def truth() -> torch.Tensor:
    return torch.tensor([LABELS.index(path.parent.name) for path in PICTURES])


@pytest.fixture(scope="module")
def logits(model: torch.nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(inputs)


def opened(name: str) -> list[tuple[Path, Image.Image]]:
    """Golden pictures whose encoding is `name`, decoded but not converted."""
    found = []
    for path in PICTURES:
        if path.stem.endswith(f"_{name}"):
            with Image.open(path) as image:
                image.load()
                found.append((path, image))
    assert found, f"no golden picture is encoded as {name}"
    return found


def test_every_data_file_has_its_recorded_hash() -> None:
    lines = (FIXTURES / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    recorded = {path: digest for digest, path in (line.split("  ", 1) for line in lines)}
    files = [WEIGHTS, *(p for folder in (GOLDEN, CALIBRATION) for p in folder.rglob("*") if p.is_file())]
    names = {path.relative_to(FIXTURES).as_posix(): path for path in files}
    assert {name for name in recorded if name.startswith(("golden/skin/", "calibration/skin/"))} == (
        names.keys() - {"weights/skin.safetensors"}
    )
    for name, path in names.items():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == recorded[name], name


def test_files_are_small() -> None:
    assert WEIGHTS.stat().st_size < 1_000_000
    assert sum(path.stat().st_size for path in PICTURES) < 1_000_000
    assert sum(path.stat().st_size for path in CALIBRATION.iterdir()) < 600_000


def test_weights_say_where_they_come_from() -> None:
    with safe_open(WEIGHTS, "numpy") as file:
        about = json.loads(file.metadata()["fixture"])
    assert about["script"] == "fixtures/scripts/train_skin.py"
    assert about["held_out_accuracy"] >= 0.95


def test_parameter_names_follow_torchvision(model: torch.nn.Module) -> None:
    names = set(model.state_dict())
    assert {"features.0.0.weight", "features.2.0.block.2.fc1.weight", "classifier.1.weight"} <= names


def test_size_of_picture_and_batch_are_free(model: torch.nn.Module) -> None:
    with torch.no_grad():
        assert model(torch.zeros(2, 3, 96, 96)).shape == (2, len(LABELS))
        assert model(torch.zeros(1, 3, 65, 131)).shape == (1, len(LABELS))


def test_golden_set_is_balanced_and_its_sizes_differ() -> None:
    assert (GOLDEN / "labels.txt").read_text(encoding="utf-8").split() == list(LABELS)
    assert Counter(path.parent.name for path in PICTURES) == dict.fromkeys(LABELS, 6)
    assert len({path.stem for path in PICTURES}) == len(PICTURES)
    sizes = []
    for path in PICTURES:
        with Image.open(path) as image:
            sizes.append(image.size)
    assert len(set(sizes)) == len(sizes)
    assert min(map(min, sizes)) < 96 < max(map(min, sizes))


def test_accuracy_on_golden(logits: torch.Tensor, truth: torch.Tensor) -> None:
    assert (logits.argmax(1) == truth).double().mean() >= 0.95


def test_outputs_depend_on_inputs(logits: torch.Tensor) -> None:
    assert logits.std(0).min() > 0.5
    assert set(logits.argmax(1).tolist()) == set(range(len(LABELS)))


def test_margins_are_neither_all_wide_nor_all_thin(logits: torch.Tensor) -> None:
    first, second = logits.topk(2).values.T
    margins = first - second
    assert margins.median() > 1.0
    assert margins.min() < 0.5 * margins.median()


@pytest.mark.parametrize(
    ("fault", "hits"),
    [
        (lambda x: x.flip(1), {"hemangioma", "blue_nevus"}),
        (lambda x: x.flip(3), {"linear_rising", "linear_falling"}),
        (lambda x: x.flip(2), {"eccentric_upper", "eccentric_lower"}),
    ],
    ids=["bgr", "mirrored", "upside_down"],
)
def test_a_faulty_input_changes_decisions(
    model: torch.nn.Module, inputs: torch.Tensor, logits: torch.Tensor, fault, hits: set[str]
) -> None:
    with torch.no_grad():
        faulty = model(fault(inputs))
    aimed = torch.tensor([path.parent.name in hits for path in PICTURES])
    changed = (faulty.argmax(1) != logits.argmax(1)).double()
    assert changed[aimed].mean() >= 0.5
    assert (faulty - logits).abs().max() > 2.0


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_exif_pictures_are_stored_rotated(model: torch.nn.Module, tmp_path: Path, orientation: int) -> None:
    moved = []
    for path, image in opened(f"exif{orientation}"):
        assert image.getexif()[EXIF_ORIENTATION] == orientation
        bare = tmp_path / path.with_suffix(".png").name
        image.convert("RGB").save(bare, exif=b"")
        with torch.no_grad():
            turned, upright = (model(torch.from_numpy(load(p))[None])[0] for p in (bare, path))
        moved.append(float((turned - upright).abs().max()))
    assert max(moved) > 1.0, "ignoring the orientation must show"


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("rgb", "RGB"),
        ("rgba", "RGBA"),
        ("palette", "P"),
        ("grey", "L"),
        ("greyjpeg", "L"),
        ("greyalpha", "LA"),
    ],
)
def test_modes_are_as_named(name: str, mode: str) -> None:
    assert {image.mode for _, image in opened(name)} == {mode}


def test_alpha_hides_pixels() -> None:
    for _, image in [*opened("rgba"), *opened("greyalpha")]:
        assert image.getchannel("A").getextrema() == (0, 255)


def test_jpegs_differ_in_subsampling() -> None:
    # of the luma component: (horizontal, vertical) sampling factors
    wanted = {"q95_444": (1, 1), "q85_422": (2, 1), "q75_420": (2, 2), "q60_420": (2, 2)}
    for name, factors in wanted.items():
        assert {image.layer[0][1:3] for _, image in opened(name)} == {factors}
    assert all("progressive" in image.info for _, image in opened("progressive"))


def test_calibration_pictures_are_not_golden_ones() -> None:
    calibration = sorted(CALIBRATION.iterdir())
    assert len(calibration) == 64
    inputs = [load(path) for path in [*calibration, *PICTURES]]
    assert len({array.tobytes() for array in inputs}) == len(inputs)


def test_drawing_is_deterministic() -> None:
    first, again = (draw("keratosis", 7, 3) for _ in range(2))
    assert first.size == again.size
    assert first.tobytes() == again.tobytes()
    assert draw("keratosis", 7, 4).tobytes() != first.tobytes()


def test_pictures_are_written_with_equal_bytes(tmp_path: Path) -> None:
    for run in ("first", "again"):
        write_golden(tmp_path / run / "golden")
        write_calibration(tmp_path / run / "calibration")
    contents = [
        {p.relative_to(tmp_path / run): p.read_bytes() for p in (tmp_path / run).rglob("*") if p.is_file()}
        for run in ("first", "again")
    ]
    assert len(contents[0]) == len(PICTURES) + 64 + 1
    assert contents[0] == contents[1]
