"""The verification page's verifier, in plain JavaScript, asked through node line by line."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from eth_hash.auto import keccak

from benchmarks.trustworks.corpus import ROOT, STORE
from benchmarks.trustworks.mutants import Answer, Case
from benchmarks.trustworks.papers import CHAIN, CONTRACT, KEY
from mesh.llm.store import NODE_SOURCE, ModelStore
from mesh.trust.receipt import Anchor

NAME = "the page's"
RUNNER = Path(__file__).with_name("page_verify.mjs")


def node() -> str:
    """The machine's node, else the one that the store fetches from PyPI (with its checksum)."""
    found = shutil.which("node")
    if found is None:
        folder = ModelStore(STORE, environ=os.environ).fetch(NODE_SOURCE)
        found = str(folder / "bin" / "node")
    return found


class Page:
    """A verifier: give it cases. Raises RuntimeError when node ends."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._in: IO[str] = process.stdin
        self._out: IO[str] = process.stdout
        self.last_ms = 0.0
        """What the last verification took by node's own clock."""

    def trust(
        self, anchors: tuple[Anchor, ...], keys: tuple[str, ...] = (str(KEY.verifier),)
    ) -> None:
        self.ask(
            keys=list(keys),
            blocks=[f"{anchor.chain_id}:{keccak(anchor.header).hex()}" for anchor in anchors],
            contracts=[f"{CHAIN}:{CONTRACT.hex()}"],
        )

    def __call__(self, case: Case, parsed: bool = False) -> Answer:
        """``parsed``: the message is canonicalised before the clock runs."""
        papers = {
            "certificate": case.certificate,
            "message": case.message,
            "receipt": case.receipt,
            "revocation": case.revocation,
        }
        found = self.ask(
            parsed=parsed,
            **{
                name: base64.b64encode(data).decode()
                for name, data in papers.items()
                if data is not None
            },
        )
        self.last_ms = found["ms"]
        return Answer(found["holds"], found["level"], found["state"], found["step"])

    def ask(self, **question: Any) -> dict[str, Any]:
        self._in.write(json.dumps(question) + "\n")
        self._in.flush()
        line = self._out.readline()
        if not line:
            raise RuntimeError("node ended; what it said stands above")
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextmanager
def opened(anchors: tuple[Anchor, ...] = ()) -> Iterator[Page]:
    """One node for as many cases as one likes. Trusts the papers' key and the anchors' blocks."""
    process = subprocess.Popen(
        [node(), "--no-warnings", str(RUNNER)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    try:
        page = Page(process)
        page.trust(anchors)
        yield page
    finally:
        process.kill()
        process.communicate()
