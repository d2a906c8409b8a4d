"""A browser without a window, to see what a page does: its errors, its requests, how it fits a screen."""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from PIL import Image


@dataclass(frozen=True)
class Screen:
    """Size in CSS pixels, device pixels to one of them, and whether a finger works it."""

    width: int
    height: int
    scale: int = 1
    mobile: bool = False


PLAIN = Screen(800, 900)
PHONE = Screen(390, 844, scale=2, mobile=True)
DESKTOP = Screen(1280, 900)

_OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--no-first-run", "--disable-quic",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
_COMPLAINTS = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
_AT_HOME = ("file", "data", "about", "blob")


class Browser:
    """Chromium, spoken to through a pipe in its DevTools protocol: a JSON message, a zero byte.

    `complaints` are script errors, the console and the log of the page that is open; `requests` the addresses that
    it asked the network for.
    """

    def __init__(self, program: str, profile: Path) -> None:
        (self._in, theirs_in), (theirs_out, self._out) = os.pipe(), os.pipe()
        pipes = f'exec "$@" 3<&{theirs_out} 4>&{theirs_in}'  # it reads from 3 and writes to 4
        self._process = subprocess.Popen(
            ["bash", "-c", pipes, "bash", program, *_OPTIONS, f"--user-data-dir={profile}"],
            pass_fds=(theirs_out, theirs_in),
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._read, self._calls, self._session = b"", 0, ""
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.screen = PLAIN
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(timeout=30)
        os.close(self._out)
        os.close(self._in)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._calls += 1
        message = {"id": self._calls, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._calls:
            pass
        assert "error" not in answer, answer
        return dict(answer["result"])

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._read:
            piece = os.read(self._in, 1 << 16)
            assert piece, "the browser is gone"
            self._read += piece
        message, _, self._read = self._read.partition(b"\0")
        answer: dict[str, Any] = json.loads(message)
        if answer.get("method") in _COMPLAINTS:
            self.complaints.append(str(answer["params"]))
        if answer.get("method") == "Network.requestWillBeSent":
            address = str(answer["params"]["request"]["url"])
            self.requests += [address] if urlsplit(address).scheme not in _AT_HOME else []
        return answer

    def open(self, page: Path, motion: str = "reduce", screen: Screen = PLAIN) -> None:
        """Load a page on a screen and wait until it has been drawn."""
        self.complaints.clear()
        self.requests.clear()
        self.screen = screen
        self.call(
            "Emulation.setEmulatedMedia", features=[{"name": "prefers-reduced-motion", "value": motion}]
        )
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=screen.width, height=screen.height, deviceScaleFactor=screen.scale, mobile=screen.mobile,
        )  # fmt: skip
        self.call("Page.navigate", url=page.as_uri())
        while self._next().get("method") != "Page.loadEventFired":
            pass
        self.ask("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done())))")

    def ask(self, expression: str) -> Any:
        """The value of an expression in the page, waited for if it is a promise."""
        answer = self.call(
            "Runtime.evaluate",
            expression=f"(async () => {{{_HELPERS}return {expression};}})()",
            awaitPromise=True,
            returnByValue=True,
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def mouse(self, kind: str, x: float, y: float) -> None:
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)

    def press(self, key: str) -> None:
        code = {"ArrowRight": 39, "ArrowLeft": 37, " ": 32, "Tab": 9}[key]
        for kind in ("keyDown", "keyUp"):
            text = {"text": key} if key == " " and kind == "keyDown" else {}
            self.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **text)

    def picture(self) -> Image.Image:
        """What the canvas shows."""
        return self._shot(self.ask(f"({_BOX})(canvas.getBoundingClientRect())"))

    def whole_page(self) -> Image.Image:
        """What the whole page looks like, beyond the lower edge of the screen too."""
        height = self.ask("document.scrollingElement.scrollHeight")
        return self._shot({"x": 0, "y": 0, "width": self.screen.width, "height": height})

    def _shot(self, box: dict[str, float]) -> Image.Image:
        shot = self.call("Page.captureScreenshot", clip={**box, "scale": 1}, captureBeyondViewport=True)
        return Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("RGB")

    def overflow(self) -> list[str]:
        """The elements that stick out to the right or left of the screen; what lies in a `.scroll` may.

        A phone shrinks a page that is too wide, and calls itself wider: the screen's own width counts.
        """
        return list(self.ask(f"sticking_out({self.screen.width})"))

    def small_text(self, least: float) -> list[str]:
        """Words on the page that are smaller than `least` CSS pixels, each with its size."""
        return list(self.ask(f"small_text({least})"))

    def small_text_in_pictures(self, least: float) -> list[str]:
        """The same for what is written in SVG pictures, at the size at which they are shown."""
        return list(self.ask(f"small_text_in_pictures({least})"))

    def bad_pictures(self) -> list[str]:
        """The pictures that did not load or have no size, and the canvases on which nothing was drawn."""
        return list(self.ask("bad_pictures()"))


_BOX = "({x, y, width, height}) => ({x, y, width, height})"

_HELPERS = r"""
const find = selector => document.querySelector(selector);
const canvas = find("canvas"), button = find("button"), time = find("[name=frame]"), turn = find("[name=turn]");
const changes = async (value, seconds) => {
  const before = value(), end = performance.now() + 1000 * seconds;
  while (value() === before && performance.now() < end) await new Promise(resolve => setTimeout(resolve, 20));
  return value() !== before;
};
const cut = text => text.trim().slice(0, 40);
const told = element => `${element.tagName.toLowerCase()}.${element.className} "${cut(element.textContent)}"`;
const seen = element => element.getClientRects().length > 0 && getComputedStyle(element).visibility === "visible";

function sticking_out(width) {
  const outside = ({left, right}) => right > width + 0.5 || left < -0.5;
  const free = element => !element.parentElement.closest(".scroll");
  const wide = [...document.body.querySelectorAll("*")].filter(
    element => seen(element) && outside(element.getBoundingClientRect()) && free(element)).map(told);
  const page = document.scrollingElement.scrollWidth;
  return page > width ? [`the page is ${page} wide`, ...wide] : wide;
}

function small_text(least) {
  const found = [], walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const parent = walk.currentNode.parentElement, words = walk.currentNode.data.trim();
    const size = parseFloat(getComputedStyle(parent).fontSize);
    if (words && seen(parent) && size < least) found.push(`${size} px: ${cut(words)}`);
  }
  return found;
}

function small_text_in_pictures(least) {
  const found = [], prefix = "data:image/svg+xml;base64,";
  for (const image of [...document.images].filter(image => image.src.startsWith(prefix) && seen(image))) {
    const bytes = Uint8Array.from(atob(image.src.slice(prefix.length)), letter => letter.charCodeAt(0));
    const svg = new DOMParser().parseFromString(new TextDecoder().decode(bytes), "image/svg+xml").documentElement;
    const scale = image.getBoundingClientRect().width / svg.viewBox.baseVal.width;
    for (const text of svg.querySelectorAll("text")) {
      const size = scale * parseFloat(text.style.fontSize);
      if (size < least) found.push(`${size.toFixed(1)} px: ${text.textContent} in ${cut(image.alt)}`);
    }
  }
  return found;
}

async function bad_pictures() {
  const bad = [];
  for (const image of document.images) {
    const fine = await image.decode().then(() => image.naturalWidth > 0, () => false);
    if (!fine) bad.push(`not loaded: ${image.src.slice(0, 60)}`);
    else if (seen(image) && image.getBoundingClientRect().width < 8) bad.push(`without size: ${image.alt}`);
  }
  for (const one of document.querySelectorAll("canvas")) {
    const {data} = one.getContext("2d").getImageData(0, 0, one.width, one.height);
    if (!data.some(value => value)) bad.push(`empty canvas: ${one.getAttribute("aria-label")}`);
  }
  return bad;
}
"""
