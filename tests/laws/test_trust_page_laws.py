"""The page's verifier gives what the package gives: on mutants, rewritten, broken and real mail.

Quick: 1,500 mutants and a sample of the corpus. Slow: 100,000, and all of its 6,046 messages.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from benchmarks.trustworks.corpus import CORPUS, STORE, messages
from benchmarks.trustworks.mutants import Answer, Case, Cases, false_accept
from benchmarks.trustworks.papers import batch
from benchmarks.trustworks.rewriters import REWRITERS
from tests.laws.test_trust_rewriters import shapes
from tests.trust_page_questions import (
    canonical_of,
    canonical_question,
    differences,
    question_of,
    verdict_of,
)
from tests.trust_page_support import Judge, judges

JUNK = (
    *(b"<!--", b"-->", b"--!>", b"<", b">", b'"', b"'", b"=", b"<svg>", b"<style>", b"<xmp>"),
    *(b"</style>", b"<title>", b"<plaintext>", b"=\n", b"=3D", b"\r", b"\n", b"\n\n", b"--"),
    *(b"&#1;", b"&amp", b"&notit;", b"\0", b"\xff", b"http://a.b", b"<a href=", b"</a ", b"<?"),
    *(b"\xc2\xa0", b"\x1b$B", b"&#x80;", b"https://urldefense.com/v3/__http://a.b/*__;Lw", b"//"),
)


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    with judges() as found:
        if found is None:
            pytest.skip("neither node nor Chromium is here")
        yield found


@pytest.fixture(scope="module")
def cases() -> Cases:
    return Cases()


def compare(judge: Judge, cases: Cases, chosen: list[Case]) -> None:
    answers = judge([question_of(cases, case) for case in chosen])
    assert len(answers) == len(chosen)
    for case, theirs in zip(chosen, answers, strict=True):
        ours = verdict_of(cases, case)
        assert not differences(ours, theirs), (case, differences(ours, theirs))
        found = Answer(theirs["holds"], theirs["level"], theirs["state"], theirs["failedStep"])
        assert not false_accept(case, found), (case, theirs)


def test_originals_hold(judge: Judge, cases: Cases) -> None:
    """Else no mutant's refusal would say anything."""
    originals = cases.originals()
    compare(judge, cases, originals)
    for case, answer in zip(
        originals, judge([question_of(cases, case) for case in originals]), strict=True
    ):
        assert (answer["holds"], answer["level"]) == (True, "exact")
        assert answer["state"] == ("final" if case.receipt else "included")


def test_verdicts_on_mutants_are_the_packages(judge: Judge, cases: Cases) -> None:
    compare(judge, cases, list(cases.mutants(1_500, 3)))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_verdicts_on_many_mutants_are_the_packages(judge: Judge, cases: Cases) -> None:
    found = cases.mutants(100_000, 4)
    for _ in range(10):
        compare(judge, cases, [next(found) for _ in range(10_000)])


def test_verdicts_on_rewritten_mail_are_the_packages(judge: Judge, cases: Cases) -> None:
    """Windows in longer texts, links at their ends, other recipients: every level occurs."""
    closed = batch(shapes(8))
    chosen = [
        Case("message", paper, rewrite(raw), raw)
        for certificate, raw in zip(closed.certificates, closed.mails, strict=True)
        for rewrite in REWRITERS.values()
        for paper in (certificate.to_json(), certificate.compact().to_cbor())
    ]
    chosen += [
        Case("message", certificate.to_json(), raw, original)
        for certificate, original in list(zip(closed.certificates, closed.mails, strict=True))[:2]
        for raw in closed.mails
    ]
    compare(judge, cases, chosen)
    levels = {verdict_of(cases, case)["level"] for case in chosen}
    assert {"exact", "same text", "same text with additions", "different"} <= levels


def test_canonical_forms_of_broken_mail_are_the_packages(judge: Judge) -> None:
    rng = random.Random(11)
    raws = []
    for raw in shapes(24):
        raws += [rewrite(raw) for rewrite in REWRITERS.values()]
        for _ in range(12):
            broken = raw
            for _ in range(rng.randint(1, 12)):
                at = rng.randrange(len(broken) + 1)
                broken = broken[:at] + rng.choice(JUNK) + broken[at + rng.choice((0, 1, 5)) :]
            raws.append(broken)
    same(judge, raws)


def same(judge: Judge, raws: list[bytes]) -> None:
    for raw, theirs in zip(raws, judge([canonical_question(raw) for raw in raws]), strict=True):
        assert theirs == canonical_of(raw), raw


@pytest.mark.skipif(
    not (STORE / "npm").exists() or not list((STORE / "npm").glob("*spam*")),
    reason=f"{CORPUS} is not in the store",
)
def test_canonical_forms_of_real_mail_are_the_packages(judge: Judge) -> None:
    same(judge, messages(300))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_canonical_forms_of_all_real_mail_are_the_packages(judge: Judge) -> None:
    everything = messages()
    for at in range(0, len(everything), 1_000):
        same(judge, everything[at : at + 1_000])
