"""The verification page's modules under test: a judge in node, or in a browser where node lacks."""

from __future__ import annotations

import base64
import functools
import http.server
import json
import shutil
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Protocol

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "serve_apps" / "trust_page"
JUDGE = "tests/trust_page_judge.mjs"
CHROMIUM = "/usr/bin/chromium"
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--no-first-run"),
]


class Judge(Protocol):
    """Answers each question with its answer, or ``{"error": …}``."""

    def __call__(self, questions: Sequence[dict[str, Any]]) -> list[Any]: ...


class NodeJudge:
    """One process for all questions of a call."""

    def __init__(self, node: str) -> None:
        self._node = node

    def __call__(self, questions: Sequence[dict[str, Any]]) -> list[Any]:
        lines = "".join(json.dumps(question) + "\n" for question in questions)
        run = subprocess.run(
            [self._node, "--no-warnings", str(ROOT / JUDGE)],
            input=lines,
            capture_output=True,
            text=True,
            timeout=1200,
        )
        assert run.returncode == 0, run.stderr
        return [_answer(json.loads(line)) for line in run.stdout.split("\n") if line]


class BrowserJudge:
    """The same in a page of Chromium, for machines that have no node."""

    def __init__(self, page: Any) -> None:
        self._page = page

    def __call__(self, questions: Sequence[dict[str, Any]]) -> list[Any]:
        script = f"""async (questions) => {{
            const {{ judge }} = await import("/{JUDGE}");
            const out = [];
            for (const question of questions) out.push(await judge(question));
            return out;
        }}"""
        out: list[Any] = []
        for at in range(0, len(questions), 500):
            found = self._page.evaluate(script, [*questions[at : at + 500]])
            out += [_answer(item) for item in found]
        return out


def _answer(found: dict[str, Any]) -> Any:
    return found.get("answer", found)


class Files(http.server.SimpleHTTPRequestHandler):
    extensions_map: ClassVar[dict[str, str]] = {
        **http.server.SimpleHTTPRequestHandler.extensions_map,
        ".js": "text/javascript",
        ".mjs": "text/javascript",
    }

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@contextmanager
def served(folder: Path = ROOT, handler: type[Files] = Files) -> Iterator[str]:
    """The address of a server of the folder, on loopback."""
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(handler, directory=str(folder))
    )
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def why_no_browser() -> str | None:
    """A reason to skip, or None."""
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        return "playwright is not installed"
    return None if Path(CHROMIUM).exists() else f"there is no {CHROMIUM}"


@contextmanager
def browser() -> Iterator[Any]:
    """Chromium. Where an event loop runs in this thread, call it from another one."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            yield chromium
        finally:
            chromium.close()


@contextmanager
def judges() -> Iterator[Judge | None]:
    """The judge that this machine can have; None if neither node nor Chromium is there."""
    node = shutil.which("node")
    if node:
        yield NodeJudge(node)
    elif why_no_browser() is None:
        with served() as address, browser() as chromium:
            page = chromium.new_page()
            page.goto(f"{address}/serve_apps/trust_page/package.json")
            yield BrowserJudge(page)
    else:
        yield None


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()
