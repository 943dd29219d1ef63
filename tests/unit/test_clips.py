"""Encoded clips: every frame arrives whole, upright and in RGB, or the clip is an error of one line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fixtures.scripts import make_line_clips
from parity.cases import video
from parity.core.contract import Contract, InputSpec, OutputSpec, Preprocess
from parity.core.errors import ParityError

cv2 = pytest.importorskip("cv2")

COUNT = 20
CODECS = {".avi": "MJPG", ".mp4": "mp4v"}
CONTRACT = Contract((InputSpec("image", (1, 3, 12, 12)),), (OutputSpec("y"),), Preprocess(scale=1.0))


def frames(height: int, width: int) -> list[Any]:
    """Red on the left, blue on the right, and a grey top that grows lighter: a turn, a swap or a shift shows."""
    made = []
    for number in range(COUNT):
        frame = np.zeros((height, width, 3), np.uint8)
        frame[:, : width // 2, 0] = frame[:, width // 2 :, 2] = 200
        frame[: height // 4] = 10 * number
        made.append(frame)
    return made


def encoded(folder: Path, suffix: str, height: int = 48, width: int = 32) -> Path:
    path = folder / f"clip{suffix}"
    make_line_clips.write(path, frames(height, width), CODECS[suffix])
    return path


@pytest.mark.parametrize(("suffix", "height", "width"), [(".avi", 33, 47), (".avi", 48, 32), (".mp4", 48, 32)])
def test_frames_come_back_at_their_size_in_order_and_in_rgb(
    tmp_path: Path, suffix: str, height: int, width: int
) -> None:
    found = video.decode(video.DecodeRequest(str(encoded(tmp_path, suffix, height, width))))
    assert (len(found.frames), found.total, found.fps) == (COUNT, COUNT, make_line_clips.FPS)
    assert found.indices == list(range(COUNT))
    for got, want in zip(found.frames, frames(height, width), strict=True):
        assert got.shape == want.shape and got.dtype == np.uint8
        assert np.abs(got.astype(int) - want).mean() < 12  # what the codec costs


def test_the_rotation_that_the_file_declares_is_applied(tmp_path: Path) -> None:
    path = encoded(tmp_path, ".mp4")
    plain = video.decode(video.DecodeRequest(str(path))).frames[3]
    make_line_clips.tag_rotation(path)
    turned = video.decode(video.DecodeRequest(str(path))).frames[3]
    np.testing.assert_array_equal(turned, np.rot90(plain))
    assert not np.array_equal(video.upright(turned), video.upright(turned, 180))
    np.testing.assert_array_equal(video.upright(turned, 90), plain)


def test_stride_maximum_and_crop_take_what_they_say(tmp_path: Path) -> None:
    path = encoded(tmp_path, ".avi", 33, 47)
    found = video.decode(video.DecodeRequest(str(path), stride=6, maximum=3))
    assert found.indices == [0, 6, 12]
    made = {crop: video.cases(path.name, found, CONTRACT, crop=crop) for crop in ("top", "bottom")}
    assert [c.id for c in made["top"]] == ["clip.avi#0", "clip.avi#6", "clip.avi#12"]
    assert made["top"][0].inputs["image"].shape == (1, 3, 12, 12)
    wide = video.upright(found.frames[0], 0, "center")
    assert wide.shape == (33, 33, 3)
    np.testing.assert_array_equal(wide, found.frames[0][:, 7:40])
    tall = np.rot90(found.frames[0])
    assert not np.array_equal(video.upright(tall, 0, "top"), video.upright(tall, 0, "bottom"))


@pytest.mark.parametrize("suffix", CODECS)
@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.8])
def test_a_clip_that_is_cut_off_is_an_error(tmp_path: Path, suffix: str, share: float) -> None:
    path = encoded(tmp_path, suffix)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    refused(path, "cannot be opened as a video|no frame can be decoded|frames can be decoded: the file is cut off")


def test_a_clip_that_ends_in_the_middle_says_how_far_it_goes(tmp_path: Path) -> None:
    path = encoded(tmp_path, ".avi")
    data = path.read_bytes()
    path.write_bytes(data[: int(0.6 * len(data))])
    refused(path, rf"^video clip.avi: \d+ of {COUNT} frames can be decoded: the file is cut off or damaged$")
    assert len(video.decode(video.DecodeRequest(str(path), maximum=3)).frames) == 3  # what was asked for is there


def test_what_is_no_clip_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("not a video")
    (tmp_path / "folder.mp4").mkdir()
    for name in ("text.mp4", "folder.mp4", "absent.avi"):
        refused(tmp_path / name, f"^video {name}: cannot be opened as a video$")
    empty = tmp_path / "empty.avi"
    cv2.VideoWriter(str(empty), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*"MJPG"), 12, (40, 30)).release()
    assert empty.stat().st_size > 0
    refused(empty, "^video empty.avi: no frame can be decoded$")
    make_line_clips.write(tmp_path / "one.avi", frames(33, 47)[:1], "MJPG")
    assert len(video.decode(video.DecodeRequest(str(tmp_path / "one.avi"))).frames) == 1


def refused(path: Path, words: str) -> None:
    with pytest.raises(ParityError, match=words) as raised:
        video.decode(video.DecodeRequest(str(path)))
    assert "\n" not in str(raised.value)


def test_where_opencv_is_missing_the_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)  # as if no distribution of it were here
    for ask in (
        lambda: video.decode(video.DecodeRequest(str(tmp_path / "clip.mp4"))),
        lambda: video.resize_opencv(video.ResizeRequest([], 2, 2)),
    ):
        with pytest.raises(ParityError, match="pip install opencv-python-headless"):
            ask()
