"""A headless Chromium, driven by the DevTools protocol over a pair of pipes."""

import base64
import contextlib
import fcntl
import itertools
import json
import os
import pathlib
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
"""Commands that may be there; Debian's package is `chromium`."""

FLAGS = (
    "--headless",
    "--no-sandbox",  # root, as in containers, can have none
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
    "--remote-debugging-pipe",
)

LAUNCH = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"
)
"""Chromium reads commands from descriptor 3 and answers on 4."""

PATIENCE = 120
"""Seconds for one answer: a limit for a browser that hangs, not a time to expect."""


def find_browser() -> str | None:
    """Returns the path of a browser, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class BrowserError(Exception):
    """The browser has ended, does not answer, or says that something went wrong."""


class Browser:
    """One browser with one page.

    Attributes:
      messages: what the page wrote to the console, and its uncaught errors.
      requests: addresses that the page asked for, data of its own excepted.
    """

    def __init__(self, to: int, back: int):
        self.to, self.back, self.rest = to, back, b""
        self.numbers = itertools.count(1)
        self.session = None
        self.messages: list[str] = []
        self.requests: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params) -> dict:
        """Returns the answer to a command."""
        number = next(self.numbers)
        command = {"id": number, "method": method, "params": params}
        if self.session is not None:
            command["sessionId"] = self.session
        os.write(self.to, json.dumps(command).encode() + b"\0")
        while True:
            answer = self.receive()
            if answer.get("id") == number:
                if "error" in answer:
                    raise BrowserError(f"{method}: {answer['error']['message']}")
                return answer["result"]
            self.note(answer)

    def receive(self) -> dict:
        """Returns the next message of the browser."""
        end = time.monotonic() + PATIENCE
        while b"\0" not in self.rest:
            if not select.select([self.back], [], [], max(0, end - time.monotonic()))[0]:
                raise BrowserError(f"no answer in {PATIENCE} s")
            part = os.read(self.back, 1 << 20)
            if not part:
                raise BrowserError("the browser has ended")
            self.rest += part
        message, self.rest = self.rest.split(b"\0", 1)
        return json.loads(message)

    def note(self, event: dict) -> None:
        """Keeps what an event tells of messages and requests."""
        params = event.get("params", {})
        if event["method"] == "Runtime.consoleAPICalled":
            self.messages.append(" ".join(str(part.get("value", part.get("description"))) for part in params["args"]))
        elif event["method"] == "Runtime.exceptionThrown":
            self.messages.append(json.dumps(params["exceptionDetails"]))
        elif event["method"] == "Log.entryAdded":
            self.messages.append(params["entry"]["text"])
        elif event["method"] == "Network.requestWillBeSent":
            address = params["request"]["url"]
            if not address.startswith(("data:", "blob:")):
                self.requests.append(address)

    def open(self, path: pathlib.Path) -> None:
        """Shows a file, and waits until it has drawn itself."""
        self.messages.clear()
        self.requests.clear()
        self.call("Page.navigate", url=path.as_uri())
        self.until("document.readyState === 'complete' && location.protocol === 'file:'")

    def until(self, condition: str) -> None:
        """Waits until an expression is true."""
        for _ in range(1000):
            if self.value(condition):
                return
            time.sleep(0.02)
        raise BrowserError(f"never became true: {condition}; the console says {self.messages}")

    def value(self, expression: str):
        """Returns the value of an expression of JavaScript, awaited if it is a promise."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise BrowserError(f"{expression}: {json.dumps(answer['exceptionDetails'])}")
        return answer["result"].get("value")

    def size(self, width: int, height: int, touch: bool = False) -> None:
        """Sets the size of the window, and whether it is a phone's."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if touch else 1,
            mobile=touch,
        )
        self.call("Emulation.setTouchEmulationEnabled", enabled=touch)

    def scheme(self, name: str) -> None:
        """Sets the colour scheme that the system asks for, `light` or `dark`."""
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def mouse(self, kind: str, x: float, y: float) -> None:
        """Moves, presses or releases the mouse: `mouseMoved`, `mousePressed`, `mouseReleased`."""
        button = {} if kind == "mouseMoved" else {"button": "left", "clickCount": 1}
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **button)

    def click(self, x: float, y: float) -> None:
        """Clicks."""
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.mouse(kind, x, y)

    def tap(self, x: float, y: float) -> None:
        """Touches and lets go."""
        self.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])
        self.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def key(self, key: str, shift: bool = False) -> None:
        """Presses a key and lets it go."""
        text = {"text": key} if len(key) == 1 else {}
        named = {"key": key, "code": key, "modifiers": 8 if shift else 0}
        self.call("Input.dispatchKeyEvent", type="keyDown", **named, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **named)

    def screenshot(self, path: pathlib.Path, whole: bool = False) -> None:
        """Writes a PNG file of what is seen, or of the whole page."""
        found = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(found["data"]))


@contextlib.contextmanager
def running_browser(profile: pathlib.Path) -> Iterator[Browser]:
    """Yields a browser that keeps its files in a folder, and ends it.

    Raises:
      BrowserError: there is none, or it does not start.
    """
    program = find_browser()
    if program is None:
        raise BrowserError(f"no browser: none of {', '.join(NAMES)} is on the PATH")
    to_read, to_write = map(_high, os.pipe())
    back_read, back_write = map(_high, os.pipe())
    command = [
        sys.executable,
        "-ISc",
        LAUNCH,
        str(to_read),
        str(back_write),
        program,
        *FLAGS,
        f"--user-data-dir={profile}",
    ]
    with open(profile / "browser.log", "wb") as log:
        process = subprocess.Popen(
            command, pass_fds=(to_read, back_write), stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    os.close(to_read)
    os.close(back_write)
    try:
        browser = Browser(to_write, back_read)
        yield browser
        browser.session = None
        with contextlib.suppress(BrowserError):  # it may end before it answers
            browser.call("Browser.close")
    finally:
        os.close(to_write)
        os.close(back_read)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _high(descriptor: int) -> int:
    """Returns a copy of a descriptor well above the two that the browser expects, in place of it."""
    copy = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 10)
    os.close(descriptor)
    return copy
