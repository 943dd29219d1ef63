"""What the processes of a run are doing now: each posts one note, the controller prints what takes long.

Notes are small files below the run's folder in the store, so that they cross process borders and vanish with the run.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from pathlib import Path

from parity.report.live import Terminal
from parity.store import atomic

PATIENCE = 5.0  # seconds after which a stage is worth a line
REPEAT = 15.0  # seconds between two lines about the same stage


class Board:
    """The notes of one run. `post` is called by whoever works, `read` by whoever watches."""

    def __init__(self, folder: Path):
        self.folder = folder

    def post(self, what: str, stage: str) -> None:
        """Say that this process is now at `stage` of `what`. Never fails: progress is not worth an error."""
        with contextlib.suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            atomic.write_text(self.folder / f"{os.getpid()}.note", json.dumps([what, stage, time.time()]))

    def clear(self) -> None:
        with contextlib.suppress(OSError):
            (self.folder / f"{os.getpid()}.note").unlink()

    def read(self) -> list[tuple[str, str, float]]:
        """(what, stage, since when) of every process that is at work."""
        notes = []
        for path in sorted(self.folder.glob("*.note")):
            with contextlib.suppress(OSError, ValueError):
                what, stage, since = json.loads(path.read_text(encoding="utf-8"))
                notes.append((str(what), str(stage), float(since)))
        return notes


class Watcher:
    """A thread that shows what is being done, until it is stopped: on a terminal as live lines, one a worker, elsewhere
    as a plain line for every stage that takes long."""

    def __init__(self, board: Board, terminal: Terminal):
        self.board, self.terminal = board, terminal
        self._stop = threading.Event()
        self._told: dict[tuple[str, str, float], float] = {}
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)
        self.terminal.close()

    def _watch(self) -> None:
        live = self.terminal.live
        while not self._stop.wait(1.0 if live is None else 0.25):
            if live is not None:
                live.draw(self.live_lines(time.time()))
                continue
            for line in self.lines(time.time()):
                self.terminal.say(line)

    def live_lines(self, now: float) -> list[str]:
        """One line a worker at `now` (epoch seconds): how long its stage has taken, its cell, its stage."""
        notes = self.board.read()
        wide = max((len(what) for what, _, _ in notes), default=0)
        return [
            f"  {int(max(now - since, 0)) // 60}:{int(max(now - since, 0)) % 60:02d}  {what:<{wide}}  {stage}"
            for what, stage, since in notes
        ]

    def lines(self, now: float) -> list[str]:
        """The lines that are due at `now` (epoch seconds)."""
        due = []
        for note in self.board.read():
            what, stage, since = note
            if now - since >= PATIENCE and now - self._told.get(note, 0.0) >= REPEAT:
                self._told[note] = now
                due.append(f"parity: {what}: {stage}, {now - since:.0f} s so far")
        return due


class Narrator:
    """Says on stderr what is being done, with the seconds since the start, and again while one step takes long."""

    def __init__(self, repeat: float = REPEAT):
        self.repeat, self.start = repeat, time.monotonic()
        self._now: tuple[str, str] | None = None
        self._since = self.start
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    def say(self, what: str, stage: str) -> None:
        if (what, stage) == self._now:
            return
        self._now, self._since = (what, stage), time.monotonic()
        self._print(f"{what}: {stage}")
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, daemon=True)
            self._thread.start()

    def stop(self) -> None:
        self._done.set()

    def _watch(self) -> None:
        told = self._since
        while not self._done.wait(min(1.0, self.repeat / 4)):
            told = max(told, self._since)
            now = time.monotonic()
            if self._now and now - told >= self.repeat:
                told = now
                self._print(f"{self._now[0]}: {self._now[1]}, {now - self._since:.0f} s so far")

    def _print(self, text: str) -> None:
        print(f"  {time.monotonic() - self.start:5.1f} s  {text}", file=sys.stderr, flush=True)
