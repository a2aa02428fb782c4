"""A headless Chromium that is told what to do over two pipes, in its own protocol."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_WIRE = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3]]
os.dup2(ends[0], 3)
os.dup2(ends[1], 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
"""The browser reads its commands from descriptor 3 and tells its news to descriptor 4."""


def require_chromium() -> str:
    """The browser's path; skips the test when there is none, fails it when the environment insists on it."""
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None and os.environ.get("FORERUN_REQUIRE_BROWSER") != "1":
        pytest.skip("needs a browser")
    assert found is not None, "FORERUN_REQUIRE_BROWSER=1, but there is no chromium"
    return found


class Browser:
    """One tab. ``requests``: the addresses that it asked for; ``complaints``: what its console said."""

    def __init__(self, read: int, write: int) -> None:
        self._read, self._write = os.fdopen(read, "rb"), os.fdopen(write, "wb")
        self._buffer, self._number, self._session = b"", 0, ""
        self.requests: list[str] = []
        self.complaints: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> Any:
        """Have a command of the protocol done."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        self._write.write(json.dumps(message).encode() + b"\0")
        self._write.flush()
        while True:
            told = self._next()
            if told.get("id") == self._number:
                assert "error" not in told, told
                return told["result"]
            self._note(told)

    def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        done = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    def until(self, script: str, seconds: float = 60.0) -> Any:
        """Wait until an expression in the page holds."""
        end = time.monotonic() + seconds
        while (value := self.run(script)) in (None, False, "", 0):  # an element is {}
            assert time.monotonic() < end, f"never: {script}; {self.complaints}; {self.run('document.body.innerText')}"
            time.sleep(0.02)
        return value

    def open(self, url: str) -> None:
        """Go to an address; returns when the page is there."""
        self.call("Page.navigate", url=url)
        self.until(f"location.href.startsWith('{url}') && document.readyState == 'complete'")

    def key(self, name: str, text: str = "", *, shift: bool = False) -> None:
        """Press a key."""
        codes = {"Tab": 9, "Enter": 13, "Escape": 27, "ArrowLeft": 37, "ArrowRight": 39}
        for kind in ("keyDown", "keyUp"):
            typed = {"text": text} if text and kind == "keyDown" else {}
            pressed = {"type": kind, "key": name, "windowsVirtualKeyCode": codes[name], "modifiers": 8 * shift}
            self.call("Input.dispatchKeyEvent", **pressed, **typed)

    def look(self, width: int, height: int, theme: str = "light") -> None:
        """Take another size and theme."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])

    def shot(self, path: Path) -> None:
        """Write what is seen as WebP."""
        found = self.call("Page.captureScreenshot", format="webp", quality=80)
        path.write_bytes(base64.b64decode(found["data"]))

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            more = os.read(self._read.fileno(), 1 << 16)
            assert more, "the browser has ended"
            self._buffer += more
        text, _, self._buffer = self._buffer.partition(b"\0")
        told: dict[str, Any] = json.loads(text)
        return told

    def _note(self, told: dict[str, Any]) -> None:
        params = told.get("params", {})
        if told["method"] == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif told["method"] == "Log.entryAdded":
            self.complaints.append(str(params["entry"].get("text")))
        elif told["method"] in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled"):
            self.complaints.append(json.dumps(params)[:500])


@contextmanager
def chromium(profile: Path) -> Iterator[Browser]:
    """Start a browser with a profile of its own, and end it."""
    to_browser, from_browser = os.pipe(), os.pipe()
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--disable-dev-shm-usage"]
    flags += ["--no-first-run", "--disable-background-networking", f"--user-data-dir={profile}"]
    ends = (to_browser[0], from_browser[1])
    process = subprocess.Popen(
        [sys.executable, "-c", _WIRE, *map(str, ends), require_chromium(), *flags],
        pass_fds=ends,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    for end in ends:
        os.close(end)
    try:
        yield Browser(from_browser[0], to_browser[1])
    finally:
        process.terminate()
        process.wait()
