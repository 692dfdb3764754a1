"""A campaign: letters as a sender writes them, and columns of a million of them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from email.message import EmailMessage
from email.policy import SMTP

from benchmarks.trustworks.papers import DKIM, KEY
from mesh.trust import checkpoint
from mesh.trust.canonical import canonicalise
from mesh.trust.certificate import Certificate, certify
from mesh.trust.leaf import Columns, Leaf, hash_columns, make_leaf
from mesh.trust.merkle import HASH_BYTES, Tree

DOMAIN = "news.example.com"
_WORDS = """
    garden spring sale roses tulips watering can third off until Sunday delivery free seeds shop
    Frühling größer café naïve order terrace compost bench lantern herbs basil thyme early late
    """.split()  # noqa: SIM905 - a list is harder to read


def letter(number: int) -> bytes:
    """About 8 kB, quoted-printable text and HTML; the same bytes for the same number."""
    rng = random.Random(number)
    blocks = [" ".join(rng.choices(_WORDS, k=40)) for _ in range(8)]
    links = [f"https://shop.example.com/p/{rng.randrange(10**6)}?c=7&m={number}" for _ in blocks]
    message = EmailMessage(policy=SMTP)
    message["From"] = f"Garden Shop <hello@{DOMAIN}>"
    message["To"] = f"Anna {number} <{person(number)}>"
    message["Subject"] = "Spring has begun, a third off until Sunday"
    message["Date"] = "Fri, 20 Mar 2026 09:00:00 +0100"
    message["Message-ID"] = message_id(number)
    message["List-Unsubscribe"] = f"<https://{DOMAIN}/u/{number}>"
    message["DKIM-Signature"] = f"v=1; a=ed25519-sha256; d={DOMAIN}; s={DKIM.selector}; bh=; b="
    message.set_content(
        "\n\n".join(f"{block}\n{link}" for block, link in zip(blocks, links, strict=True)),
        cte="quoted-printable",
    )
    rows = "".join(
        f'<tr><td style="padding:12px;font-family:Arial"><h2>{block[:30]}</h2><p>{block}</p>'
        f'<a href="{link.replace("&", "&amp;")}" style="color:#176d2c">Look at it</a>'
        f'<img src="https://img.example.com/{at}.jpg" alt="" width="560"></td></tr>'
        for at, (block, link) in enumerate(zip(blocks, links, strict=True))
    )
    message.add_alternative(
        f"<html><head><title>Spring</title></head><body><table>{rows}</table></body></html>",
        subtype="html",
        cte="quoted-printable",
    )
    message.set_boundary(f"part-{number}")
    return message.as_bytes()


def message_id(number: int) -> str:
    return f"<{number:x}.7f3a9c1e@{DOMAIN}>"


def person(number: int) -> str:
    return f"anna.{number}@example.org"


def columns(low: int, high: int) -> Columns:
    """Of the messages ``low`` … ``high``: digests are made up, all else is as of a campaign."""
    rng = random.Random(low)
    count = high - low
    return Columns(
        domain=DOMAIN,
        dkim=DKIM,
        message_ids=[message_id(number).encode() for number in range(low, high)],
        recipients=[person(number).encode() for number in range(low, high)],
        exact=_digests(rng, count),
        links=_digests(rng, count),
        text=_digests(rng, count),
        text_bytes=[1_800 + number % 400 for number in range(low, high)],
    )


def _digests(rng: random.Random, count: int) -> list[bytes]:
    data = rng.randbytes(HASH_BYTES * count)
    return [data[at : at + HASH_BYTES] for at in range(0, len(data), HASH_BYTES)]


@dataclass(frozen=True)
class Closed:
    """A closed campaign of which some letters are at hand."""

    tree: Tree
    letters: Sequence[bytes]
    certificates: Sequence[Certificate]


def closed(size: int, letters: int, seed: int = 1) -> Closed:
    """A tree of ``size`` leaves; so many of them, anywhere in it, are of real letters."""
    places = sorted(random.Random(seed).sample(range(size), letters))
    hashes = bytearray(hash_columns(columns(0, size))[1])
    raws = [letter(place) for place in places]
    messages = [canonicalise(raw) for raw in raws]
    leaves: list[Leaf] = [make_leaf(one, one.recipients[0], DKIM) for one in messages]
    for place, leaf in zip(places, leaves, strict=True):
        hashes[HASH_BYTES * place : HASH_BYTES * (place + 1)] = leaf.hash
    tree = Tree(bytes(hashes))
    note = checkpoint.sign(checkpoint.Checkpoint.of(KEY.name, size, tree.root), (KEY,))
    certificates = [
        certify(leaf, message.origins, tree, place, note)
        for leaf, message, place in zip(leaves, messages, places, strict=True)
    ]
    return Closed(tree, raws, certificates)
