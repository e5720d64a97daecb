"""Drive headless Chromium by its DevTools protocol over two pipes.

No port is opened. Problems of a page (console errors, exceptions, requests) are recorded for the
tests.
"""

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
LONGEST_S = 120.0  # longest wait
ROUND_S = 0.2  # between two polls of a page
SIZE = (1280, 900)


def chromium() -> str | None:
    """Return the path of the browser, or None if it is not installed."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Chromium:
    """The browser, with a temporary profile."""

    def __init__(self) -> None:
        program = chromium()
        assert program, "check chromium() first"
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        command = [
            program,
            "--headless",
            "--remote-debugging-pipe",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--hide-scrollbars",
            f"--user-data-dir={self._profile.name}",
        ]
        # as root it cannot start with a sandbox
        command += ["--no-sandbox"] if os.geteuid() == 0 else []
        (its_in, self._out), (self._in, its_out) = os.pipe(), os.pipe()
        high = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (its_in, its_out)]  # not 3 and 4
        os.close(its_in)
        os.close(its_out)

        def pipes() -> None:
            os.dup2(high[0], 3)
            os.dup2(high[1], 4)

        self.process = subprocess.Popen(
            command,
            preexec_fn=pipes,
            pass_fds=(3, 4),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for end in high:
            os.close(end)
        self._last_id, self._rest = 0, b""
        self._answers: dict[int, dict[str, Any]] = {}
        self.pages: dict[str, Page] = {}

    def __enter__(self) -> "Chromium":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(LONGEST_S)
        os.close(self._out)
        os.close(self._in)
        self._profile.cleanup()

    def page(self, size: tuple[int, int] = SIZE, dark: bool = False, online: bool = True) -> "Page":
        """Open an empty page of the given size in pixels; without `online` it has no network."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self.pages[session] = Page(self, session)
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.call(f"{domain}.enable")
        width, height = size
        page.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        page.call("Emulation.setEmulatedMedia", features=[scheme])
        if not online:
            page.call(
                "Network.emulateNetworkConditions",
                offline=True,
                latency=0,
                downloadThroughput=0,
                uploadThroughput=0,
            )
        return page

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Return the result of a protocol command.

        Raises:
            RuntimeError: The command fails; the message is that of the browser.
        """
        self._last_id += 1
        request: dict[str, Any] = {"id": self._last_id, "method": method, "params": parameters}
        line = json.dumps(request | ({"sessionId": session} if session else {})).encode() + b"\0"
        while line:
            line = line[os.write(self._out, line) :]
        deadline = time.monotonic() + LONGEST_S
        while self._last_id not in self._answers:
            self.process_messages(max(deadline - time.monotonic(), 0.0))
            assert time.monotonic() < deadline, f"no answer to {method}"
        answer = self._answers.pop(self._last_id)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        result: dict[str, Any] = answer["result"]
        return result

    def process_messages(self, wait_s: float) -> None:
        """Process the messages that arrive within `wait_s` seconds."""
        if not select.select([self._in], [], [], wait_s)[0]:
            return
        read = os.read(self._in, 2**20)
        assert read, "the browser has ended"
        *messages, self._rest = (self._rest + read).split(b"\0")
        for message in map(json.loads, messages):
            if "id" in message:
                self._answers[message["id"]] = message
            elif page := self.pages.get(message.get("sessionId", "")):
                page.happened(message["method"], message["params"])


class Page:
    """One page, with the `errors` of its console and the addresses of its `requests`."""

    def __init__(self, browser: Chromium, session: str) -> None:
        self.browser, self.session = browser, session
        self.errors: list[str] = []
        self.requests: list[str] = []

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a protocol command for this page."""
        return self.browser.call(method, self.session, **parameters)

    def happened(self, method: str, parameters: dict[str, Any]) -> None:
        """Record errors and requests."""
        if method == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "assert"):
            self.errors.append(
                " ".join(
                    str(part.get("value", part.get("description"))) for part in parameters["args"]
                )
            )
        elif method == "Runtime.exceptionThrown":
            details = parameters["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description") or details["text"])
        elif method == "Log.entryAdded" and parameters["entry"]["level"] == "error":
            self.errors.append(
                f"{parameters['entry']['text']} {parameters['entry'].get('url', '')}"
            )
        elif method == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])

    def open(self, address: str) -> None:
        """Open an address, and wait until the page is loaded."""
        result = self.call("Page.navigate", url=address)
        assert not result.get("errorText"), f"{address}: {result['errorText']}"
        self.wait("document.readyState === 'complete'")

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression; a promise is awaited."""
        result = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in result, f"{expression}: {result}"
        return result["result"].get("value")

    def wait(self, expression: str) -> None:
        """Wait until the expression is truthy.

        Raises:
            AssertionError: It does not become truthy in time; the message holds the page's text.
        """
        deadline = time.monotonic() + LONGEST_S
        while not self.evaluate(f"!!({expression})"):
            assert time.monotonic() < deadline, (
                f"not true: {expression}\n{self.errors}\n{self.text()[-3000:]}"
            )
            self.browser.process_messages(ROUND_S)

    def text(self) -> str:
        """Return the visible text of the page."""
        return str(self.evaluate("document.body ? document.body.innerText : ''"))

    def picture(self, whole: bool = False) -> bytes:
        """Return a PNG of the visible part, or of the `whole` page."""
        clip = {"x": 0, "y": 0, "scale": 1, **self._size()} if whole else None
        more = {"clip": clip, "captureBeyondViewport": True} if clip else {}
        return base64.b64decode(self.call("Page.captureScreenshot", format="png", **more)["data"])

    def _size(self) -> dict[str, float]:
        found = self.call("Page.getLayoutMetrics")["cssContentSize"]
        return {"width": found["width"], "height": found["height"]}

    def keep(self, file: Path, whole: bool = False) -> None:
        """Write the picture to a file."""
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(self.picture(whole))


def without_assistant(page: Page) -> Page:
    """Return a page of MLflow on which the assistant panel does not open."""
    closed = "localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true')"
    page.call(
        "Page.addScriptToEvaluateOnNewDocument",
        source=f"if (location.protocol === 'http:') {closed}",
    )
    return page
