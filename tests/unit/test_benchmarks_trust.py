"""What the demonstrations and benchmarks of trust count, and that they would notice a fault."""

from __future__ import annotations

import asyncio
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.show import trust_mail, trust_offline, trust_vectors
from benchmarks.show.trust_offline import Done, Place
from benchmarks.trustworks import hashing, survival
from benchmarks.trustworks.campaign import closed, columns, letter
from benchmarks.trustworks.mutants import Answer, Case, Cases, false_accept, verifiers
from benchmarks.trustworks.papers import mail, plain
from benchmarks.trustworks.survival import UNTOUCHED, Found, Mailbag
from benchmarks.trustworks.tampered import Desk, Paper
from benchmarks.trustworks.vectors import Vector
from mesh.trust.canonical import canonicalise
from mesh.trust.receipt import HeaderPolicy
from mesh.trust.standalone import maily_verify

YES = Answer(True, "exact", "included", None)
NO = Answer(False, "different", "included", 4)
TEXT = "same text"


@pytest.fixture(scope="module")
def cases() -> Cases:
    return Cases()


@pytest.fixture(scope="module")
def desk() -> Desk:
    return Desk(leaves=50)


# --- what counts as a false accept ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "answer", "is_false"),
    [
        ("certificate", YES, True),
        ("certificate", NO, False),
        ("receipt", YES, True),
        ("receipt", NO, False),
        ("revocation", YES, False),
        ("revocation", NO, True),
        ("original", YES, False),
    ],
)
def test_mutant_papers(kind: str, answer: Answer, is_false: bool) -> None:
    case = Case(kind, b"", mail(), mail())  # type: ignore[arg-type]
    assert false_accept(case, answer) is is_false


@pytest.mark.parametrize(
    ("change", "level", "is_false"),
    [
        ((b"", b""), "exact", False),
        ((b"Spring has", b"Autumn has"), "exact", True),
        ((b"Spring has", b"Autumn has"), TEXT, False),
        ((b"<p>Hello", b"<p> Hello"), TEXT, False),
        ((b"a third", b"all"), TEXT, True),
        ((b"shop.example.com", b"shop.example.net"), TEXT, True),
        ((b"</p>", b"</p><p>Footer</p>"), "same text with additions", False),
        ((b"a third", b"all"), "same text with additions", True),
    ],
)
def test_mutant_messages(change: tuple[bytes, bytes], level: str, is_false: bool) -> None:
    case = Case("message", b"", mail().replace(*change), mail())
    assert false_accept(case, replace(YES, level=level)) is is_false


def test_mutants_are_as_many_as_asked_and_always_the_same(cases: Cases) -> None:
    some = list(cases.mutants(200, 7))
    assert len(some) == 200
    assert some == list(cases.mutants(200, 7))
    assert {case.kind for case in some} == {"certificate", "message", "receipt", "revocation"}
    originals = {case.certificate for case in cases.originals()}
    for case in some:
        assert (case.certificate in originals) == (case.kind != "certificate")
        assert (case.message != case.original) == (case.kind == "message")


def test_careless_verifier_is_found_out(cases: Cases) -> None:
    known = {**verifiers(cases), "careless": lambda case: YES}
    found = trust_vectors.judged(cases.mutants(60, 3), known)
    assert sum(found.cases.values()) == 60 == found.asked["careless"]
    assert found.false["ours"] == found.false["stand-alone"] == 0
    assert found.false["careless"] >= found.cases["certificate"] + found.cases["receipt"]
    assert found.apart > 0
    assert len(found.examples) == 3


def test_tallies_add_up(cases: Cases) -> None:
    both = verifiers(cases)
    one, two = (trust_vectors.judged(cases.mutants(20, seed), both) for seed in (1, 2))
    whole = one + two
    assert sum(whole.cases.values()) == 40
    assert whole.asked == {"ours": 40, "stand-alone": 40}


def test_vector_that_fails_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    given = [Vector("RFC", "one", lambda: True), Vector("RFC", "two", lambda: False)]
    monkeypatch.setattr(trust_vectors, "published", lambda: given)
    (claim,) = trust_vectors.vectors()
    assert (claim.holds, claim.figure) == (False, "1 of 2; not two")


# --- real mail -----------------------------------------------------------------------------------

LONG = "<p>We have moved to the old mill by the river; come and see it on Sunday.</p>"


def test_foreign_certificates_that_could_fit_are_found() -> None:
    mails = [
        mail(LONG, number=1),
        mail(LONG, number=2),
        mail(f"<p>Forwarded by Bert:</p>{LONG}<p>Bye</p>", number=3),
        mail("<p>Something else, long enough to be found within another message.</p>", number=4),
    ]
    bag = Mailbag(mails)
    assert [bag.fitting(canonicalise(raw)) for raw in mails] == [{0, 1}, {0, 1}, {0, 1, 2}, {3}]


def test_same_words_are_no_false_match_and_other_words_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bag = Mailbag([mail(LONG, number=1), mail(LONG, number=2), mail(plain(), number=3)])
    found = bag.examine([0])
    assert found.same_words > 0
    assert found.false == []
    monkeypatch.setattr(bag, "fitting", lambda message: {2})
    genuine = survival.verify

    class Careless:
        level, holds = "exact", True

    monkeypatch.setattr(survival, "verify", lambda *_: Careless)
    assert len(bag.examine([0]).false) == len(survival.REWRITERS) + 1
    monkeypatch.setattr(survival, "verify", genuine)
    assert bag.examine([0]).false == []


def test_crashes_are_counted_and_the_rest_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(raw: bytes) -> bytes:
        raise ValueError("boom")

    monkeypatch.setattr(survival, "REWRITERS", {"broken": broken, "none": bytes})
    found = Mailbag([mail()]).examine([0])
    assert len(found.crashes) == 1
    assert "boom" in found.crashes[0]
    assert found.levels["none"] == {"exact": 1} == found.levels[UNTOUCHED]


def test_real_mail_claims_fall_short_where_they_must() -> None:
    bag = Mailbag([mail(number=at) for at in range(3)])
    good = bag.examine(range(3))
    assert all(claim.holds for claim in trust_mail.claims(good, 3))
    assert not trust_mail.claims(good, 4)[0].holds  # one was not looked at
    worse = Found()
    worse.levels["outlook"]["different"] = 1
    worse.changed["outlook"] = 1
    held = {claim.claim: claim.holds for claim in trust_mail.claims(good + worse, 4)}
    assert held["… after outlook"] is False
    broken = Found(crashes=["x"], apart=1, false=["y"])
    names = [claim.claim for claim in trust_mail.claims(good + broken, 3) if not claim.holds]
    assert len(names) == 3


# --- the stand-alone verifier alone --------------------------------------------------------------


def answer(paper: Paper) -> dict[str, object]:
    """As the stand-alone verifier's command line asks it."""
    return maily_verify.verify(
        paper.certificate,
        paper.message,
        [maily_verify.Key(paper.key)],
        revocations=[paper.revocation] if paper.revocation else [],
        receipt=paper.receipt,
        blocks={maily_verify.pair(block) for block in paper.blocks},
    )


def test_papers_are_what_they_say(desk: Desk) -> None:
    papers = [*desk.genuine(), *desk.tampered()]
    assert len({paper.name for paper in papers}) == len(papers)
    assert {paper.step for paper in papers} == {None, 1, 2, 4, 5, 6, 7, 8, 9}
    for paper in papers:
        found = answer(paper)
        assert (found.get("failedStep"), found["state"]) == (paper.step, paper.state), paper.name
        assert paper.step or found["level"] == paper.level, paper.name


def test_wrong_step_falls_short(desk: Desk) -> None:
    paper = next(desk.tampered())
    right = Done(1, answer(paper), frozenset({"json"}), 0.1)
    assert trust_offline._papers("x", [(paper, right)]).holds
    for wrong in (
        replace(right, code=0),
        replace(right, verdict={**right.verdict, "failedStep": 7}),
        replace(right, verdict={"reason": "Traceback"}),
    ):
        assert not trust_offline._papers("x", [(paper, wrong)]).holds


def test_project_or_sockets_within_reach_fall_short() -> None:
    def reach(*modules: str) -> bool | None:
        return trust_offline._reach([Done(0, {}, frozenset(modules), 0.1)], ["pip"]).holds

    assert reach("json", "meshing")
    assert not reach("json", "mesh.core")
    assert not reach("json", "_socket")
    assert not reach()


async def test_place_runs_the_one_file(desk: Desk, tmp_path: Path) -> None:
    """With this interpreter, and a network: what is tried is the act's own hands."""
    await asyncio.to_thread(shutil.copy, maily_verify.__file__, tmp_path / "maily_verify.py")
    place = Place(tmp_path, Path(sys.executable), ())
    genuine = await place.verify(next(desk.genuine()))
    assert (genuine.code, genuine.verdict["holds"]) == (0, True)
    assert {"json", "cryptography"} <= genuine.modules
    assert not {name for name in genuine.modules if name.split(".")[0] in ("mesh", "socket")}
    tampered = await place.verify(next(desk.tampered()))
    assert (tampered.code, tampered.verdict["failedStep"]) == (1, 4)


# --- the benchmark's campaign --------------------------------------------------------------------


def test_campaign_is_of_real_letters_that_verify() -> None:
    campaign = closed(300, 4)
    assert campaign.tree.size == 300
    for certificate, raw in zip(campaign.certificates, campaign.letters, strict=True):
        for paper in (certificate.to_json(), certificate.compact().to_cbor()):
            found = answer(Paper("", paper, raw, None, "exact"))
            assert (found["holds"], found["level"]) == (True, "exact")
    assert letter(3) == letter(3) != letter(4)


def test_workers_hash_the_tree_that_one_hashes() -> None:
    assert hashing.same_root(1_001, (1, 2, 5))
    hashing.prepare(64, 128)
    part = hashing.hashed(64, 128)
    assert (part.begin, part.end, len(part.nodes)) == (64, 128, 1)
    assert len(columns(5, 9)) == 4


def test_policy_of_papers_pins_blocks_alone(desk: Desk) -> None:
    """A receipt is judged by what the reader knows, not by what it says."""
    assert HeaderPolicy("pinned").depth(1, bytes(32)) == "unknown"
    paper = next(paper for paper in desk.genuine() if paper.receipt)
    assert answer(replace(paper, blocks=()))["failedStep"] == 9
