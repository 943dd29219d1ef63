"""Live lines on a terminal: one a worker, below whatever else is printed, rewritten in place and gone at the end.

Printing and drawing come from different threads and go to the same screen, so everything that the test runner prints
passes `Shared`, which takes the block away first. The block is drawn with four sequences that every ANSI terminal has:
index (ESC D, one line down in the same column, scrolling at the bottom), cursor up, and save and restore.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any

_SAVE, _RESTORE, _INDEX = "\x1b7", "\x1b8", "\x1bD"
_BELOW = "\x1b[B\r\x1b[J"  # to the line below, its start, and clear from there on


class Live:
    """A block of lines below the cursor of `screen`. Methods may be called from any thread."""

    def __init__(self, screen: IO[str], size: Callable[[], os.terminal_size] = shutil.get_terminal_size):
        self._screen, self._size = screen, size
        self._shown = 0
        self._closed = False
        self.lock = threading.RLock()

    def draw(self, lines: Sequence[str]) -> None:
        """Show `lines` in place of those that are shown; at most a third of the screen, each cut to its width."""
        columns, rows = self._size()
        most = max(1, rows // 3)
        shown = [_cut(line, columns - 1) for line in lines[:most]]
        if len(lines) > most:
            shown[-1] = _cut(f"  and {len(lines) - most + 1} more", columns - 1)
        with self.lock:
            if self._closed:
                return
            text = self._erased()
            if shown:
                text += _INDEX * len(shown) + f"\x1b[{len(shown)}A" + _SAVE
                text += "".join(f"\x1b[B\r\x1b[2K{line}" for line in shown) + _RESTORE
            self._shown = len(shown)
            self._write(text)

    def erase(self) -> None:
        """Take the block away; the cursor stays where it was."""
        with self.lock:
            self._write(self._erased())
            self._shown = 0

    def close(self) -> None:
        """Take the block away for good."""
        with self.lock:
            self.erase()
            self._closed = True

    def _erased(self) -> str:
        return _SAVE + _BELOW + _RESTORE if self._shown else ""

    def _write(self, text: str) -> None:
        if text:
            with contextlib.suppress(OSError, ValueError):  # a screen that went away is no reason to fail a run
                self._screen.write(text)
                self._screen.flush()


class Shared:
    """A file that others print to: `live` is taken away before each write."""

    def __init__(self, file: Any, live: Live):
        self._file, self._live = file, live

    def write(self, text: str) -> Any:
        with self._live.lock:
            self._live.erase()
            return self._file.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _cut(line: str, columns: int) -> str:
    plain = "".join(c if c.isprintable() else " " for c in line)
    return plain if len(plain) <= columns else plain[: max(columns - 1, 0)] + "…"


class Terminal:
    """The test runner's terminal, as progress needs it: a place for live lines, or for plain ones where it is none.

    `reporter` is pytest's terminal reporter. While a test runs, pytest sends what is printed to a file: so the screen
    is duplicated here, before that. Where the reporter does not print to a real file, plain lines go through it.
    """

    def __init__(self, reporter: Any, environ: Mapping[str, str] = os.environ):
        self._reporter = reporter
        self._screen: IO[str] | None = None
        self.live: Live | None = None
        writer = getattr(reporter, "_tw", None)
        file = getattr(writer, "_file", None)
        try:
            descriptor = os.dup(file.fileno())  # type: ignore[union-attr]
        except (AttributeError, OSError, ValueError):
            return
        self._screen = screen = os.fdopen(descriptor, "w", encoding="utf-8", errors="replace")
        if file is not None and file.isatty() and environ.get("TERM", "dumb") != "dumb":
            self.live = Live(screen)
            writer._file = Shared(file, self.live)  # type: ignore[union-attr]

    def say(self, line: str) -> None:
        """One plain line, on a line of its own."""
        if self._screen is None:
            self._reporter.ensure_newline()
            self._reporter.write_line(line)
            return
        begun = getattr(self._reporter, "currentfspath", None)
        with contextlib.suppress(OSError, ValueError):
            self._screen.write(("\n" if begun else "") + line + "\n")
            self._screen.flush()

    def close(self) -> None:
        """Take live lines away, and give the reporter its own file back."""
        if self.live is not None:
            self.live.close()
            writer = self._reporter._tw
            if isinstance(writer._file, Shared):
                writer._file = writer._file._file
        if self._screen is not None:
            with contextlib.suppress(OSError, ValueError):
                self._screen.close()
