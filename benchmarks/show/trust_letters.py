"""Synthetic campaigns: personalised multipart mails of about 3 kB, made on the fly.

The same seed and number give the same bytes, so that a mail of a campaign of a million can be made
again when its certificate is looked at, and none has to be kept.
"""

from __future__ import annotations

import base64
import binascii
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape

_FIRST = (
    "Amira", "Bjørn", "Chloé", "Dmitri", "Eun-ji", "Fatoumata", "Gökçe", "Hồng", "Ignacio",
    "Jelena", "Kwame", "Łucja", "Mei", "Noor", "Oksana", "Priya", "Qiang", "Rósa", "Søren", "Tomás",
)  # fmt: skip
_LAST = (
    "Abara", "Bergström", "Castañeda", "Dvořák", "Eriksen", "Ferreira", "García", "Haddad",
    "Ivanova", "Jansen", "Kowalski", "Lindqvist", "Müller", "Nakamura", "O'Brien", "Petrović",
)  # fmt: skip
_GOODS = (
    "trail shoes", "rain jackets", "bicycle lamps", "espresso cups", "hand-bound notebooks",
    "garden chairs", "linen shirts", "field recorders", "wool blankets", "bread knives",
)  # fmt: skip
_SENTENCES = (
    "You looked at our {goods} last month, and we kept a pair of ideas for you.",
    "Everything in this letter is in stock and leaves our warehouse within a day.",
    "The workshop in {city} makes them by hand, about forty a week, and no two are the same.",
    "Prices are as in spring: {price} € including tax, and the delivery is on us.",
    "If it does not fit, send it back within {days} days; the label is in the box.",
    "Readers like you told us what was missing, so the new ones have two pockets more.",
    "We print what we know of materials and makers on every label, without small letters.",
    "Your points are worth {points} cents until the end of the month.",
    "The shop at the harbour is open on Sundays again, with coffee and a workbench.",
    "A repair costs less than a new one, and our bench repairs what others sold, too.",
    "This offer is for {name} alone; it can be used once, with the code {code}.",
    "Nothing here counts down, nothing is the last chance: take the time you need.",
)
_CITIES = ("Aarhus", "Gdańsk", "Kyōto", "León", "Malmö", "Oaxaca", "Porto", "Thiès", "Zürich")
_ENCODINGS = ("8bit", "quoted-printable", "base64")


@dataclass(frozen=True, slots=True)
class Mail:
    """One message of a campaign."""

    raw: bytes
    recipient: str

    def line(self, certificate: str | None = None) -> bytes:
        """As the batch stream wants it."""
        text: dict[str, str] = {"recipient": self.recipient}
        try:
            text["message"] = self.raw.decode("ascii")
        except UnicodeDecodeError:
            text["message_base64"] = base64.b64encode(self.raw).decode()
        if certificate is not None:
            text["certificate"] = certificate
        return json.dumps(text).encode() + b"\n"


@dataclass(frozen=True, slots=True)
class Campaign:
    """All mails of one seed."""

    seed: int
    domain: str = "news.example"

    def mail(self, number: int, html_more: str = "", text_more: str = "") -> Mail:
        """``html_more``, ``text_more``: what stands at the end of either part."""
        rng = random.Random(self.seed << 40 | number)
        name = f"{rng.choice(_FIRST)} {rng.choice(_LAST)}"
        goods, shop = rng.choice(_GOODS), f"https://shop{rng.randrange(40)}.example"
        recipient = f"reader{number}@mail{number % 97}.example"
        facts = {
            "name": name,
            "goods": goods,
            "city": rng.choice(_CITIES),
            "price": f"{rng.randrange(900, 19_900) / 100:.2f}",
            "days": rng.choice((14, 30, 60, 100)),
            "points": rng.randrange(10, 9_000),
            "code": f"{rng.getrandbits(40):010X}",
        }
        sentences = [s.format_map(facts) for s in rng.sample(_SENTENCES, 10)]
        link = f"{shop}/{goods.replace(' ', '-')}?customer={number}&letter={self.seed}"
        text = (
            f"Dear {name},\r\n\r\n"
            + "\r\n\r\n".join(sentences)
            + f"\r\n\r\nSee them: {link}\r\n{text_more}\r\n"
        )
        html = (
            '<!doctype html><html><head><meta charset="utf-8"><title>Letter</title>'
            "<style>p{font:16px/1.5 sans-serif;margin:0 0 1em}</style></head>\r\n<body>"
            f"<h1>Dear {escape(name)},</h1>\r\n"
            + "\r\n".join(f"<p>{escape(sentence)}</p>" for sentence in sentences)
            + f'\r\n<p><a href="{escape(link)}">See the {escape(goods)}</a></p>\r\n'
            f"{html_more}</body></html>\r\n"
        )
        encoding = rng.choice(_ENCODINGS)
        boundary = f"=_{rng.getrandbits(64):016x}"
        subject = base64.b64encode(f"{name}: {goods} for you".encode()).decode()
        head = (
            f"From: The Letter <letter@{self.domain}>\r\nTo: {recipient}\r\n"
            f"Subject: =?utf-8?b?{subject}?=\r\n"
            f"Date: Tue, 24 Nov 2026 {number // 3600 % 24:02}:{number // 60 % 60:02}:"
            f"{number % 60:02} +0000\r\n"
            f"Message-ID: <{self.seed}.{number}@{self.domain}>\r\nMIME-Version: 1.0\r\n"
            f'Content-Type: multipart/alternative; boundary="{boundary}"\r\n\r\n'
        ).encode()
        parts = b"".join(
            f"--{boundary}\r\nContent-Type: text/{kind}; charset=utf-8\r\n"
            f"Content-Transfer-Encoding: {encoding}\r\n\r\n".encode()
            + _encoded(content.encode(), encoding)
            for kind, content in (("plain", text), ("html", html))
        )
        return Mail(head + parts + f"--{boundary}--\r\n".encode(), recipient)

    def pieces(self, first: int, count: int, size: int = 65_536) -> Iterator[bytes]:
        """Lines ``first`` … as a body is sent, in pieces of about ``size`` bytes."""
        piece = bytearray()
        for number in range(first, first + count):
            piece += self.mail(number).line()
            if len(piece) >= size:
                yield bytes(piece)
                piece.clear()
        if piece:
            yield bytes(piece)


def _encoded(data: bytes, encoding: str) -> bytes:
    if encoding == "base64":
        return base64.encodebytes(data).replace(b"\n", b"\r\n")
    if encoding == "quoted-printable":
        quoted = binascii.b2a_qp(data.replace(b"\r\n", b"\n"), istext=True)
        return quoted.replace(b"\n", b"\r\n")
    return data
