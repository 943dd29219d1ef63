"""Live lines never disturb what is printed above them, wherever the cursor is and however writes meet."""

from __future__ import annotations

import io
import os
import re
import threading
import time
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from parity.report.live import Live, Shared, Terminal
from parity.report.progress import Board, Watcher

COLUMNS, ROWS = 40, 8
_PART = re.compile(r"\x1b\[(\d*)([A-Z])|\x1b([78D])|\r|\n|[^\x1b\r\n]+")


class Screen:
    """A terminal of COLUMNS x ROWS: text, line feeds, and the sequences that `live` uses, with scrolling."""

    def __init__(self) -> None:
        self.lines = [""] * ROWS
        self.row = self.column = 0
        self.saved = (0, 0)
        self.history: list[str] = []

    def _down(self) -> None:
        if self.row == ROWS - 1:
            self.history.append(self.lines.pop(0))
            self.lines.append("")
        else:
            self.row += 1

    def write(self, text: str) -> int:
        assert "".join(m[0] for m in _PART.finditer(text)) == text, f"unknown sequence in {text!r}"
        for found in _PART.finditer(text):
            count, letter, single = found[1], found[2], found[3]
            if letter == "A":
                self.row = max(0, self.row - int(count or 1))
            elif letter == "B":
                self.row = min(ROWS - 1, self.row + int(count or 1))
            elif letter == "J":
                self.lines[self.row] = self.lines[self.row][: self.column]
                self.lines[self.row + 1 :] = [""] * (ROWS - self.row - 1)
            elif letter == "K":
                self.lines[self.row] = ""
            elif single == "7":
                self.saved = (self.row, self.column)
            elif single == "8":
                self.row, self.column = self.saved
            elif single == "D":
                self._down()
            elif found[0] == "\r":
                self.column = 0
            elif found[0] == "\n":
                self._down()
                self.column = 0
            else:
                line = self.lines[self.row].ljust(self.column)
                self.lines[self.row] = line[: self.column] + found[0] + line[self.column + len(found[0]) :]
                self.column += len(found[0])
                assert self.column <= COLUMNS
        return len(text)

    def flush(self) -> None:
        pass

    @property
    def text(self) -> str:
        return "\n".join(line.rstrip() for line in [*self.history, *self.lines]).rstrip("\n")


def live_on(screen: Screen) -> Live:
    return Live(screen, lambda: os.terminal_size((COLUMNS, ROWS)))  # type: ignore[arg-type]


STEPS = st.lists(st.one_of(st.sampled_from([".", "s", "..F", "\n", "\nfile.py "]), st.integers(0, 4)), max_size=60)


@settings(max_examples=200, deadline=None)
@given(STEPS)
def test_what_is_printed_is_what_it_would_be_without_live_lines(steps: list[Any]) -> None:
    screen, alone = Screen(), Screen()
    live = live_on(screen)
    file, column = Shared(screen, live), 0
    for step in steps:
        if isinstance(step, int):
            live.draw([f"  0:0{i}  skin-tflite-int8  convert {'x' * 60}" for i in range(step)])
            continue
        column = 0 if "\n" in step else column + len(step)
        if column < COLUMNS - 10:
            file.write(step)
            alone.write(step)
    live.close()
    assert screen.text == alone.text


def test_lines_stand_below_what_is_printed_and_are_cut_to_the_screen() -> None:
    screen = Screen()
    live = live_on(screen)
    file = Shared(screen, live)
    file.write("tests/test_parity.py ..")
    live.draw(["  0:07  skin-tflite-int8  onnx2tf: convert", "  0:01  hand  " + "long " * 20])
    assert screen.lines[0] == "tests/test_parity.py .."
    assert screen.lines[1] == "  0:07  skin-tflite-int8  onnx2tf: con…"
    assert screen.lines[2].endswith("…")
    assert (screen.row, screen.column) == (0, 23)
    live.draw([f"line {i}" for i in range(9)])
    assert screen.lines[1:3] == ["line 0", "  and 8 more"]
    live.close()
    live.draw(["never again"])
    assert screen.text == "tests/test_parity.py .."


def test_many_threads_at_once_lose_nothing() -> None:
    screen = Screen()
    live = live_on(screen)
    file = Shared(screen, live)

    def draw() -> None:
        for i in range(200):
            live.draw([f"{i}"] * (i % 3))

    threads = [threading.Thread(target=draw) for _ in range(3)]
    for thread in threads:
        thread.start()
    for i in range(200):
        file.write(f"{i}\n")
    for thread in threads:
        thread.join()
    live.close()
    assert screen.text.split() == [str(i) for i in range(200)]


def test_a_screen_that_went_away_fails_nothing() -> None:
    stream = io.StringIO()
    live = Live(stream)
    stream.close()
    live.draw(["a"])
    live.close()


class Reporter:
    """As much of pytest's terminal reporter as progress uses."""

    def __init__(self, file: Any) -> None:
        self._tw = type("Writer", (), {"_file": file})()
        self.currentfspath: str | None = None
        self.said: list[str] = []

    def ensure_newline(self) -> None:
        self.said.append("")

    def write_line(self, line: str) -> None:
        self.said.append(line)


def test_plain_lines_reach_the_real_output_while_the_runner_captures_it(tmp_path: Path) -> None:
    with (tmp_path / "out").open("w") as out:
        reporter = Reporter(out)
        terminal = Terminal(reporter, {"TERM": "xterm"})
        assert terminal.live is None
        terminal.say("one")
        reporter.currentfspath = "test_parity.py"
        terminal.say("two")
        terminal.close()
    assert (tmp_path / "out").read_text() == "one\n\ntwo\n"


def test_where_the_reporter_has_no_real_file_lines_go_through_it() -> None:
    reporter = Reporter(io.StringIO())
    terminal = Terminal(reporter, {"TERM": "xterm"})
    terminal.say("one")
    terminal.close()
    assert reporter.said == ["", "one"]


def test_a_terminal_gets_live_lines_and_its_own_file_back() -> None:
    main, other = os.openpty()
    with os.fdopen(other, "w") as file:
        reporter = Reporter(file)
        terminal = Terminal(reporter, {"TERM": "xterm"})
        assert terminal.live is not None
        assert isinstance(reporter._tw._file, Shared)
        terminal.live.draw(["  0:07  skin  convert"])
        terminal.close()
        assert reporter._tw._file is file
        dumb = Terminal(Reporter(file), {"TERM": "dumb"})
        assert dumb.live is None
        dumb.close()
    assert b"skin  convert" in os.read(main, 4096)
    os.close(main)


def test_the_watcher_shows_a_line_a_worker_with_cell_stage_and_time(tmp_path: Path) -> None:
    board = Board(tmp_path)
    board.post("skin-tflite-int8", "onnx2tf: convert")
    (tmp_path / "99999.note").write_text('["m-onnx-fp32", "run", %f]' % (time.time() - 67))
    watcher = Watcher(board, Terminal(Reporter(io.StringIO()), {}))
    assert sorted(watcher.live_lines(time.time())) == [
        "  0:00  skin-tflite-int8  onnx2tf: convert",
        "  1:07  m-onnx-fp32       run",
    ]
    assert watcher.lines(time.time()) == ["parity: m-onnx-fp32: run, 67 s so far"]
    assert watcher.lines(time.time()) == []
