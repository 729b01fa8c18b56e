"""A real browser without a window: Chromium, driven over its own protocol (DevTools) through two pipes, so that no port is open.

What a page asks for, what it says on the console and what its policy forbids are kept as the browser tells them.
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

from parts.images import need

PATIENCE = 60  # seconds for one answer of the browser
OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-default-apps", "--disable-extensions",
)  # fmt: skip
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
KEYS = {"Tab": 9, "Enter": 13}


def program() -> str:
    """Return the browser of this machine; without one the test is skipped, or fails in CI."""
    found = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if found is None:
        need(PROGRAMS[0])
    return str(found)


class Browser:
    """One running browser; ``events`` is everything it told without being asked."""

    def __init__(self, folder: Path) -> None:
        to_read, self._to = os.pipe()
        self._from, to_write = os.pipe()
        high = [fcntl.fcntl(number, fcntl.F_DUPFD, 20) for number in (to_read, to_write)]  # out of the way of 3 and 4
        line = f'exec "$0" "$@" 3<&{high[0]} 4>&{high[1]}'
        command = ["bash", "-c", line, program(), *OPTIONS, f"--user-data-dir={folder}", "about:blank"]
        home = {**os.environ, "HOME": str(folder)}
        self.process = subprocess.Popen(command, pass_fds=high, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=home)
        for number in (*high, to_read, to_write):
            os.close(number)
        self.events: list[dict[str, Any]] = []
        self._rest, self._count = b"", 0

    def ask(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """Ask the browser something and return its answer; what it tells meanwhile is kept."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": params} | ({"sessionId": session} if session else {})
        os.write(self._to, json.dumps(message).encode() + b"\0")
        until = time.monotonic() + PATIENCE
        while True:
            told = self._next(until)
            if told.get("id") == self._count:
                assert "error" not in told, f"{method}: {told['error']}"
                return told["result"]
            self.events.append(told)

    def wait(self, method: str, session: str) -> None:
        """Wait until the browser has told of ``method``."""
        until = time.monotonic() + PATIENCE
        while not any(event.get("method") == method and event.get("sessionId") == session for event in self.events):
            self.events.append(self._next(until))

    def _next(self, until: float) -> dict[str, Any]:
        while b"\0" not in self._rest:
            assert select.select([self._from], [], [], max(0, until - time.monotonic()))[0], "the browser does not answer"
            data = os.read(self._from, 1 << 20)
            assert data, "the browser has ended"
            self._rest += data
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def open(self, path: Path, *, width: int = 1280, height: int = 800, script: bool = True, dark: bool = False) -> Page:
        """Open a file in a window of this size and return it once it has loaded."""
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime", "Audits"):
            self.ask(f"{domain}.enable", session)
        self.ask("Emulation.setDeviceMetricsOverride", session, width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.ask("Emulation.setScriptExecutionDisabled", session, value=not script)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", session, media="", features=[scheme])
        self.events.clear()
        began = time.monotonic()
        self.ask("Page.navigate", session, url=path.as_uri())
        self.wait("Page.loadEventFired", session)
        return Page(self, session, target, time.monotonic() - began)

    def end(self) -> None:
        """End the browser, by force where it does not go."""
        with contextlib.suppress(AssertionError, OSError):
            self.ask("Browser.close")
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self._to)
        os.close(self._from)


class Page:
    """One open page; ``seconds`` is how long it took to load."""

    def __init__(self, browser: Browser, session: str, target: str, seconds: float) -> None:
        self.browser, self.session, self.target, self.seconds = browser, session, target, seconds

    def told(self, method: str) -> list[dict[str, Any]]:
        """Return what the browser told of this page under ``method``."""
        found = [event for event in self.browser.events if event.get("sessionId") == self.session]
        return [event["params"] for event in found if event.get("method") == method]

    @property
    def requests(self) -> list[str]:
        """Return the addresses that the page asked for, its own among them."""
        return [told["request"]["url"] for told in self.told("Network.requestWillBeSent")]

    @property
    def complaints(self) -> list[str]:
        """Return what the console, the policy of the page and its script complain of."""
        logged = [told["entry"]["text"] for told in self.told("Log.entryAdded")]
        thrown = [str(told["exceptionDetails"]) for told in self.told("Runtime.exceptionThrown")]
        said = [str(told["args"]) for told in self.told("Runtime.consoleAPICalled")]
        issues = [told["issue"]["code"] for told in self.told("Audits.issueAdded")]
        return logged + thrown + said + [code for code in issues if "Security" in code]

    def run(self, code: str) -> Any:
        """Return what an expression yields in the page; a promise is waited for."""
        done = self.browser.ask("Runtime.evaluate", self.session, expression=code, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    def press(self, key: str) -> None:
        """Press one key, as a person would."""
        for kind in ("rawKeyDown", "keyUp"):
            self.browser.ask("Input.dispatchKeyEvent", self.session, type=kind, key=key, code=key, windowsVirtualKeyCode=KEYS[key])

    def type(self, text: str) -> None:
        """Type a text where the focus is."""
        self.browser.ask("Input.insertText", self.session, text=text)

    def picture(self) -> bytes:
        """Return a PNG of what is in the window."""
        return base64.b64decode(self.browser.ask("Page.captureScreenshot", self.session)["data"])

    def printed(self) -> bytes:
        """Return the page as it is printed: a PDF of A4 pages."""
        done = self.browser.ask("Page.printToPDF", self.session, paperWidth=8.27, paperHeight=11.69, preferCSSPageSize=True)
        return base64.b64decode(done["data"])

    def close(self) -> None:
        """Close the page."""
        self.browser.ask("Target.closeTarget", targetId=self.target)


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """Run a browser with a profile of its own that is gone afterwards."""
    program()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        running = Browser(Path(folder))
        try:
            yield running
        finally:
            running.end()
