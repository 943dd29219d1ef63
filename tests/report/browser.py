"""Headless Chromium driven over its debugging pipe with the standard library alone.

Messages are JSON, ended by a NUL byte, on file descriptors 3 (to the browser) and 4 (from it).
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

INSTALL = "no Chromium found: apt-get install chromium"
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--remote-debugging-pipe",
)


def executable() -> str | None:
    """The path of an installed Chromium or Chrome, or None."""
    return next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None)


class Page:
    """One tab: what it logged, what it asked the network for, and hands to use it."""

    def __init__(self, browser: Browser, session: str, target: str) -> None:
        self._browser, self._session, self._target = browser, session, target
        self.patience = 180.0  # seconds that one command may take
        self.problems: list[str] = []
        self.requests: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One DevTools command in this tab."""
        return self._browser.call(method, params, self._session, self.patience)

    def hear(self, method: str, params: dict[str, Any]) -> None:
        """Take an event of this tab."""
        if method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.problems.append(details.get("exception", {}).get("description") or details["text"])
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.problems.append(json.dumps(params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.problems.append(params["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            url = params["request"]["url"]
            if not url.startswith(("file:", "data:", "about:")):
                self.requests.append(url)

    def view(self, width: int = 1280, height: int = 900, theme: str = "light", js: bool = True) -> Page:
        """Size of the window, colour scheme asked for, whether scripts run."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        features = [{"name": "prefers-color-scheme", "value": theme}]
        self.call("Emulation.setEmulatedMedia", features=features)
        self.call("Emulation.setScriptExecutionDisabled", value=not js)
        return self

    def open(self, path: Path, fragment: str = "") -> Page:
        """Load a file from scratch and wait until it is complete."""
        self.call("Page.navigate", url="about:blank")
        self.call("Page.navigate", url=path.as_uri() + fragment)
        self.wait("location.protocol === 'file:' && document.readyState === 'complete'")
        return self

    def wait(self, ready: Any, seconds: float = 15) -> None:
        """Poll until `ready()` or a JavaScript expression holds."""
        test = (lambda: self(ready)) if isinstance(ready, str) else ready
        end = time.monotonic() + seconds
        while not test():
            if time.monotonic() > end:
                raise AssertionError(f"not reached within {seconds} s: {ready}")
            self._browser.listen(0.02)

    def __call__(self, expression: str) -> Any:
        """The value of a JavaScript expression (promises are awaited)."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise AssertionError(found["exceptionDetails"].get("exception", {}).get("description"))
        return found["result"].get("value")

    def press(self, *keys: str) -> None:
        """Key presses, by name of the key or as one character."""
        codes = {"Escape": 27, "Enter": 13, "Tab": 9}
        for key in keys:
            params: dict[str, Any] = {
                "key": key,
                "windowsVirtualKeyCode": codes.get(key, ord(key[0].upper())),
            }
            if len(key) == 1 or key == "Enter":
                params["text"] = "\r" if key == "Enter" else key
            self.call("Input.dispatchKeyEvent", type="keyDown", **params)
            self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    def click(self, selector: str) -> None:
        """Click the first element that the selector finds, as a user's click."""
        self(f"document.querySelector({json.dumps(selector)}).click()")

    def screenshot(self, path: Path, most: int = 0, top: float = 0) -> None:
        """Write what is seen as PNG, or with `most` the page from `top` on, at most so many pixels high."""
        params: dict[str, Any] = {"format": "png"}
        if most:
            size = self.call("Page.getLayoutMetrics")["cssContentSize"]
            box = {"x": 0, "y": top, "scale": 1, "width": size["width"], "height": min(size["height"] - top, most)}
            params |= {"captureBeyondViewport": True, "clip": box}
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", **params)["data"]))

    def close(self) -> None:
        """Close the tab."""
        self._browser.call("Target.closeTarget", {"targetId": self._target})


class Browser:
    """A running browser; `with browser() as b: page = b.page()`."""

    def __init__(self, profile: str) -> None:
        command = executable()
        if command is None:
            raise FileNotFoundError(INSTALL)
        ours_in, theirs_out = os.pipe()
        theirs_in, ours_out = os.pipe()
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 20) for fd in (theirs_in, theirs_out)]

        def connect() -> None:
            os.dup2(high[0], 3)
            os.dup2(high[1], 4)

        self._process = subprocess.Popen(
            [command, *FLAGS, f"--user-data-dir={profile}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            close_fds=False,
            preexec_fn=connect,
            start_new_session=True,
        )
        for fd in (theirs_in, theirs_out, *high):
            os.close(fd)
        self._in, self._out = ours_in, ours_out
        self._buffer, self._next = b"", 0
        self._answers: dict[int, dict[str, Any]] = {}
        self._pages: dict[str, Page] = {}

    def listen(self, seconds: float) -> None:
        """Take what the browser says within `seconds`, until it pauses."""
        while select.select([self._in], [], [], seconds)[0]:
            data = os.read(self._in, 1 << 20)
            if not data:
                raise AssertionError("the browser went away")
            *messages, self._buffer = (self._buffer + data).split(b"\0")
            for message in map(json.loads, messages):
                if "id" in message:
                    self._answers[message["id"]] = message
                elif message.get("sessionId") in self._pages:
                    self._pages[message["sessionId"]].hear(message["method"], message["params"])
            seconds = 0

    def call(
        self, method: str, params: dict[str, Any] | None = None, session: str | None = None, seconds: float = 60
    ) -> dict[str, Any]:
        """One DevTools command; its result."""
        self._next += 1
        message = {"id": self._next, "method": method, "params": params or {}}
        if session:
            message["sessionId"] = session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._out, data) :]
        end = time.monotonic() + seconds
        while message["id"] not in self._answers:
            if time.monotonic() > end:
                raise AssertionError(f"no answer to {method} within {seconds:.0f} s")
            self.listen(0.5)
        answer = self._answers.pop(message["id"])
        if "error" in answer:
            raise AssertionError(f"{method}: {answer['error']}")
        return dict(answer["result"])

    def page(self) -> Page:
        """A new tab."""
        target = self.call("Target.createTarget", {"url": "about:blank"})["targetId"]
        session = self.call("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        page = Page.__new__(Page)
        self._pages[session] = page
        page.__init__(self, session, target)  # type: ignore[misc]
        return page

    def close(self) -> None:
        """End the browser that this object started."""
        with contextlib.suppress(AssertionError, OSError):
            self.call("Browser.close")
        for fd in (self._in, self._out):
            with contextlib.suppress(OSError):
                os.close(fd)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """A browser with a fresh profile, closed and forgotten at the end."""
    with tempfile.TemporaryDirectory(prefix="parity-browser-", ignore_cleanup_errors=True) as profile:
        running = Browser(profile)
        try:
            yield running
        finally:
            running.close()
