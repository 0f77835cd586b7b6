"""A headless Chromium for tests of pages, driven by the DevTools protocol over pipes."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests import engines

_SECONDS = 120.0  # for one answer: the machine may be busy


class Page:
    """One open page. What it logs, throws or asks the network for is in `messages` and `requests`."""

    def __init__(self, read: int, write: int):
        self._read, self._write = read, write
        self._pending = b""
        self._number = 0
        self._session = ""
        self._events: list[dict[str, Any]] = []
        self.messages: list[str] = []
        self.requests: list[str] = []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self._call(f"{domain}.enable")

    def open(self, path: Path, fragment: str = "") -> None:
        """Opens a file and waits until it is loaded; with a fragment, it must not be open already."""
        self._events.clear()
        self._call("Page.navigate", url=path.as_uri() + fragment)
        self._wait("Page.loadEventFired")

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression, awaited."""
        answer = self._call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def until(self, expression: str) -> None:
        """Waits until a JavaScript expression is true."""
        deadline = time.monotonic() + _SECONDS
        while not self.evaluate(f"Boolean({expression})"):
            assert time.monotonic() < deadline, f"never true: {expression}"
            time.sleep(0.02)

    def screen(self, width: int, height: int, dark: bool = False, touch: bool = False) -> None:
        """The size of the window in CSS pixels, and what the user prefers."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": touch}
        self._call("Emulation.setDeviceMetricsOverride", **metrics)
        self._call("Emulation.setTouchEmulationEnabled", enabled=touch)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])

    def press(self, key: str) -> None:
        """Presses and releases a key, such as 'ArrowRight' or 'Enter'."""
        text = {"text": "\r"} if key == "Enter" else {"text": key} if len(key) == 1 else {}
        codes = {"Enter": 13, "Escape": 27, "Tab": 9}
        for kind, more in (("keyDown", text), ("keyUp", {})):
            code = codes.get(key, 0)
            self._call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **more)

    def mouse(self, kind: str, x: float, y: float) -> None:
        """'mouseMoved', 'mousePressed' or 'mouseReleased' at a place in the window."""
        button = {} if kind == "mouseMoved" else {"button": "left", "clickCount": 1}
        self._call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **button)

    def click(self, x: float, y: float) -> None:
        """Moves the mouse to a place in the window and clicks there."""
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.mouse(kind, x, y)

    def screenshot(self, path: Path, whole: bool = False) -> None:
        """Writes what the window shows, or the whole page, as PNG."""
        shot = self._call("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._write, data) :]
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]

    def _wait(self, method: str) -> None:
        while not any(event["method"] == method for event in self._events):
            self._receive()

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._pending:
            assert select.select([self._read], [], [], _SECONDS)[0], "Chromium does not answer"
            data = os.read(self._read, 1 << 20)
            assert data, "Chromium has ended"
            self._pending += data
        line, self._pending = self._pending.split(b"\0", 1)
        message = json.loads(line)
        if "id" not in message:
            self._events.append(message)
            self._note(message["method"], message["params"])
        return message

    def _note(self, method: str, parameters: dict[str, Any]) -> None:
        if method == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        elif method == "Runtime.consoleAPICalled":
            self.messages.append(str([argument.get("value") for argument in parameters["args"]]))
        elif method == "Runtime.exceptionThrown":
            self.messages.append(str(parameters["exceptionDetails"]))
        elif method == "Log.entryAdded":
            self.messages.append(parameters["entry"]["text"])


@contextmanager
def chromium(profile: Path, flags: Sequence[str] = ()) -> Iterator[Page]:
    """A page in a browser of its own, whose profile is in the folder `profile`."""
    program = engines.require("chromium", "chromium")
    (commands, write), (read, answers) = os.pipe(), os.pipe()
    # Chromium reads commands from descriptor 3 and writes answers to descriptor 4, which must not be those already.
    to_browser, from_browser = (fcntl.fcntl(pipe, fcntl.F_DUPFD, 10) for pipe in (commands, answers))
    script = f'exec "$@" 3<&{to_browser} 4>&{from_browser}'
    command = [
        *("bash", "-c", script, "bash", program, "--headless", "--no-sandbox", "--disable-gpu"),
        *("--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking"),
        *("--remote-debugging-pipe", f"--user-data-dir={profile}", *flags),
    ]
    with open(profile.with_suffix(".log"), "wb") as log:
        process = subprocess.Popen(
            command, pass_fds=(to_browser, from_browser), stdout=log, stderr=log, env=dict(os.environ)
        )
    for pipe in (commands, answers, to_browser, from_browser):
        os.close(pipe)
    try:
        yield Page(read, write)
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        os.close(read)
        os.close(write)
