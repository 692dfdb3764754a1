"""Mail through what mail systems do to it: the text survives, and is nobody else's.

Quick: 60 messages of every MIME shape, made here. Slow: the 6,046 of the SpamAssassin corpus.
"""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from email.message import EmailMessage
from email.policy import SMTP

import pytest

from benchmarks.trustworks.corpus import messages
from benchmarks.trustworks.rewriters import REWRITERS
from mesh.trust.canonical import canonicalise
from mesh.trust.levels import Level
from mesh.trust.standalone.maily_verify import Message
from mesh.trust.verify import verify
from tests.trust_support import Batch, batch, both, policy

WORDS = re.findall(
    r"\S+",
    "garden spring sale roses tulips watering can third off until Sunday delivery free seeds shop "
    "Frühling größer café naïve 花 園 春 скидка сад préférée order terrace compost",
)
SAME = (Level.EXACT, Level.TEXT, Level.EXTENDED)


def shapes(count: int) -> list[bytes]:
    """Messages in plain, HTML, both, with attachments and pictures, in several charsets."""
    rng = random.Random(8)
    out = []
    for number in range(count):
        words = " ".join(rng.choices(WORDS, k=rng.randint(20, 200)))
        link = f"https://shop.example.com/p/{number}?a=1&b=2"
        message = EmailMessage(policy=SMTP)
        message["From"], message["To"] = "Shop <news@example.com>", f"anna{number}@example.org"
        message["Subject"], message["Message-ID"] = f"Offer {number}", f"<{number}@example.com>"
        message["Date"] = "Fri, 20 Mar 2026 09:00:00 +0100"
        text = f"Hello,\n\n{words}\n\nSee {link} and reply.\nOffer {number}\n"
        markup = (
            f"<html><head><title>Offer</title></head><body><p>Hello,</p><p>{words}</p>"
            f'<p>See <a href="{link.replace("&", "&amp;")}">the <b>shop</b></a>'
            f'<img src="https://img.example.com/{number}.png" alt="roses"></p>Offer {number}'
            "</body></html>"
        )
        encoding = ("quoted-printable", "base64", "8bit")[number % 3]
        if number % 4 == 0:
            message.set_content(text, cte=encoding)
        elif number % 4 == 1:
            message.set_content(markup, subtype="html", cte=encoding)
        else:
            message.set_content(text, cte=encoding)
            message.add_alternative(markup, subtype="html", cte=encoding)
        if number % 4 == 3:
            message.add_attachment(b"%PDF-1.7", maintype="application", subtype="pdf")
        out.append(message.as_bytes())
    return out


def survivals(closed: Batch) -> dict[str, Counter[Level]]:
    trust = policy()
    papers = [certificate.to_json() for certificate in closed.certificates]
    return {
        name: Counter(
            verify(paper, rewrite(raw), trust).level
            for paper, raw in zip(papers, closed.mails, strict=True)
        )
        for name, rewrite in REWRITERS.items()
    }


def independent_text(raw: bytes) -> bytes:
    """The words of a message by the other implementation, to compare with."""
    return Message(raw).text


def test_text_survives_every_rewriter() -> None:
    closed = batch(shapes(60))
    assert len(REWRITERS) >= 8
    for name, levels in survivals(closed).items():
        assert sum(levels[level] for level in SAME) == 60, (name, levels)


@pytest.mark.parametrize("name", sorted(REWRITERS))
def test_rewriters_do_change_the_message(name: str) -> None:
    """Else the law above would say nothing."""
    assert any(REWRITERS[name](raw) != raw for raw in shapes(8))


def test_both_verifiers_agree_on_rewritten_mail() -> None:
    closed = batch(shapes(8))
    for certificate, raw in zip(closed.certificates, closed.mails, strict=True):
        for rewrite in REWRITERS.values():
            both(certificate.to_json(), rewrite(raw))
            both(certificate.compact().to_cbor(), rewrite(raw))


def test_no_certificate_fits_another_message() -> None:
    closed = batch(shapes(24))
    trust = policy()
    for at, certificate in enumerate(closed.certificates):
        for other, raw in enumerate(closed.mails):
            for paper in (certificate.to_json(), certificate.compact().to_cbor()):
                assert verify(paper, raw, trust).holds == (at == other)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_corpus() -> None:
    mails = list(dict.fromkeys(messages()))
    closed = batch(mails)
    for name, levels in survivals(closed).items():
        share = sum(levels[level] for level in SAME) / len(mails)
        print(f"{name}: {share:.4f} {dict(levels)}")
        assert share >= 0.99, (name, levels)
    # Another message matches only if its words are the same; the corpus has newsletters twice.
    by_text: dict[bytes, list[int]] = defaultdict(list)
    for at, certificate in enumerate(closed.certificates):
        if certificate.leaf.text_bytes:
            by_text[certificate.leaf.text].append(at)
    for group in by_text.values():
        assert len({independent_text(mails[at]) for at in group}) == 1
    rng = random.Random(5)
    trust = policy()
    for at in rng.sample(range(len(mails)), 20):
        leaf, words = closed.certificates[at].leaf, canonicalise(mails[at]).text.data
        for other in rng.sample(range(len(mails)), 500):
            verdict = verify(closed.certificates[at].to_json(), mails[other], trust)
            theirs = independent_text(mails[other])
            assert not verdict.holds or (leaf.text_bytes and words in theirs)
    # The two implementations give the same canonical form for each.
    for raw in mails:
        ours, theirs = canonicalise(raw), Message(raw)
        assert (ours.exact, ours.text.data, ours.origins) == (
            theirs.exact,
            theirs.text,
            tuple(sorted(theirs.origins, key=str.encode)),
        )


def test_any_bytes_have_a_canonical_form() -> None:
    """Broken on purpose, by both: nothing raises, and both say the same."""
    rng = random.Random(9)
    junk = [
        *(b"<!--", b"-->", b"--!>", b"<", b">", b'"', b"'", b"=", b"<svg>", b"<style>", b"<xmp>"),
        *(b"</style>", b"<title>", b"<plaintext>", b"=\n", b"=3D", b"\r", b"\n", b"\n\n", b"--"),
        *(
            b"&#1;",
            b"&amp;",
            b"\0",
            b"\xff",
            b"http://a.b",
            b"<a href=",
            b"</a ",
            b"<?",
            b"\xc2\xa0",
        ),
    ]
    for raw in shapes(30):
        for _ in range(12):
            broken = raw
            for _ in range(rng.randint(1, 12)):
                at = rng.randrange(len(broken) + 1)
                broken = broken[:at] + rng.choice(junk) + broken[at + rng.choice((0, 1, 5)) :]
            ours, theirs = canonicalise(broken), Message(broken)
            links = [tuple(link) for link in ours.text.links]
            assert (ours.exact, ours.text.data, links) == (theirs.exact, theirs.text, theirs.links)
            assert (ours.domain, ours.message_id) == (theirs.domain, theirs.id)


def test_corpus_free_of_white_space() -> None:
    """What folding is: no white space is left in any text."""
    for raw in shapes(12):
        assert not re.search(r"\s", canonicalise(raw).text.data.decode())
