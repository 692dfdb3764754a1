"""How long proofs and verifications take, one by one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from benchmarks.report import percentile
from benchmarks.trustworks.campaign import Closed
from benchmarks.trustworks.mutants import Case
from benchmarks.trustworks.page import opened
from benchmarks.trustworks.papers import STANDALONE_KEYS, policy
from mesh.trust.canonical import Canonical, canonicalise
from mesh.trust.certificate import Proof
from mesh.trust.standalone import maily_verify
from mesh.trust.verify import verify

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Times:
    """Milliseconds of CPU, so that what else runs on the machine does not count; the page's are by
    node's clock."""

    p50: float
    p99: float


def timed(items: Iterable[Item], act: Callable[[Item], object]) -> Times:
    """Each by itself, after one that does not count."""
    rows = list(items)
    act(rows[0])
    found = []
    for item in rows:
        began = time.thread_time()
        act(item)
        found.append((time.thread_time() - began) * 1_000)
    return Times(percentile(found, 0.5), percentile(found, 0.99))


def proofs(closed: Closed) -> Times:
    """Path out of the tree, and the certificate's JSON around it."""

    def give(number: int) -> bytes:
        certificate = closed.certificates[number]
        path = Proof.of(closed.tree, certificate.proof.index)
        assert path == certificate.proof
        return certificate.to_json()

    return timed(range(len(closed.certificates)), give)


def verifications(closed: Closed) -> dict[str, Times]:
    """By what is verified; each must hold, as exact."""
    trust = policy()
    papers = {
        "JSON": [certificate.to_json() for certificate in closed.certificates],
        "CBOR": [certificate.compact().to_cbor() for certificate in closed.certificates],
    }
    parsed = [canonicalise(raw) for raw in closed.letters]
    found = {}

    def ours(pair: tuple[bytes, bytes | Canonical]) -> None:
        assert verify(*pair, trust).level == "exact"

    def alone(pair: tuple[bytes, bytes]) -> None:
        assert maily_verify.verify(*pair, STANDALONE_KEYS)["level"] == "exact"

    for form, some in papers.items():
        found[f"{form}, message parsed"] = timed(zip(some, parsed, strict=True), ours)
        found[f"{form}, whole"] = timed(zip(some, closed.letters, strict=True), ours)
        found[f"{form}, whole, stand-alone"] = timed(zip(some, closed.letters, strict=True), alone)
        for whole in (False, True):
            words = f"{form}, {'whole' if whole else 'message parsed'}, page's in node"
            found[words] = _in_page(some, closed.letters, whole)
    return found


def _in_page(papers: Sequence[bytes], letters: Sequence[bytes], whole: bool) -> Times:
    times = []
    with opened() as page:
        for paper, raw in zip(papers, letters, strict=True):
            answer = page(Case("original", paper, raw, raw), parsed=not whole)
            assert answer.level == "exact", answer
            times.append(page.last_ms)
    return Times(percentile(times, 0.5), percentile(times, 0.99))


def canonical_rate(mails: Sequence[bytes]) -> float:
    """Messages a second of CPU on one core."""
    began = time.process_time()
    for raw in mails:
        canonicalise(raw)
    return len(mails) / (time.process_time() - began)
