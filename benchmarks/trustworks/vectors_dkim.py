"""RFC 6376 and 8463: our relaxed form is the one that their sample signatures signed."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from mesh.trust.canonical import headers

Check = tuple[str, str, Callable[[], bool]]

SIGNED = b"""\
DKIM-Signature: v=1; a=ed25519-sha256; c=relaxed/relaxed;
 d=football.example.com; i=@football.example.com;
 q=dns/txt; s=brisbane; t=1528637909; h=from : to :
 subject : date : message-id : from : subject : date;
 bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;
 b=/gCrinpcQOoIfuHNQIbq4pgh9kyIK3AQUdt9OdqQehSwhEIug4D11Bus
 Fa3bT3FY5OsU7ZbnKELq+eXdp1Q1Dw==
DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed;
 d=football.example.com; i=@football.example.com;
 q=dns/txt; s=test; t=1528637909; h=from : to : subject :
 date : message-id : from : subject : date;
 bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;
 b=F45dVWDfMbQDGHJFlXUNB2HKfbCeLRyhDXgFpEL8GwpsRe0IeIixNTe3
 DhCVlUrSjV4BwcVcOF6+FF3Zo9Rpo1tFOeS9mPYQTnGdaSGsgeefOsk2Jz
 dA+L10TeYt9BgDfQNZtKdN1WO//KgIqXP7OdEFE4LjFYNcUxZQ4FADY+8=
From: Joe SixPack <joe@football.example.com>
To: Suzie Q <suzie@shopping.example.net>
Subject: Is dinner ready?
Date: Fri, 11 Jul 2003 21:00:37 -0700 (PDT)
Message-ID: <20030712040037.46341.5F8J@football.example.com>

Hi.

We lost the game.  Are you hungry yet?

Joe.
"""


RSA = (
    "MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDkHlOQoBTzWRiGs5V6NpP3idY6Wk08a5qhdR6wy5bdOKb2jLQiY/"
    "J16JYi0Qvx/byYzCNb3W91y3FutACDfzwQ/BC/e/8uBsCR+yz1Lxj+PL6lHvqMKrM3rG4hstT5QjvHO9PzoxZyVYLzBf"
    "O2EeC3Ip3G+2kryOTIKT+l/K4w3QIDAQAB"
)
ED25519 = "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="
BODY_HASH = "2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8="
SELECTORS = ["brisbane", "test"]
NO_BODY = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="


def checks() -> Iterator[Check]:
    yield "RFC 6376 samples", "3.4.5: relaxed header", lambda: _example()[0] == b"a:X\r\nb:Y Z\r\n"
    yield "RFC 6376 samples", "3.4.5: relaxed body", lambda: _example()[1] == b" C\r\nD E\r\n"
    for body in (b"", b"\n", b"\n\n"):
        yield "RFC 6376 samples", f"3.4.4: empty body {body!r}", lambda b=body: _hash(b) == NO_BODY
    yield "RFC 8463 samples", "body hash", lambda: _hash(_sample().body) == BODY_HASH
    yield "RFC 8463 samples", "Ed25519 signature", _ed25519
    yield "RFC 8463 samples", "RSA signature", _rsa
    yield "RFC 8463 samples", "selectors", lambda: headers.selectors_of(_sample()) == SELECTORS


def _example() -> tuple[bytes, bytes]:
    message = headers.split_message(b"A: X\r\nB : Y\t\r\n\tZ  \r\n\r\n C \r\nD \t E\r\n\r\n\r\n")
    relaxed = b"".join(map(headers.relaxed_field, message.fields))
    return relaxed, headers.relaxed_body(message.body)


def _hash(body: bytes) -> str:
    return base64.b64encode(headers.body_hash(body)).decode()


def _sample() -> headers.Message:
    return headers.split_message(SIGNED)


def _signed_data(at: int) -> tuple[bytes, bytes]:
    """What signature ``at`` signs (RFC 6376 §3.7), and its value."""
    message = _sample()
    signature = message.all("dkim-signature")[at]
    unsigned, _, value = signature.relaxed.rpartition(b"b=")
    names = ["from", "to", "subject", "date", "message-id"]
    signed = b"".join(headers.relaxed_field(message.all(name)[0]) for name in names)
    own = headers.relaxed_field(signature._replace(raw=unsigned + b"b="))
    return signed + own.removesuffix(b"\r\n"), base64.b64decode(value)


def _ed25519() -> bool:
    signed, value = _signed_data(0)
    key = Ed25519PublicKey.from_public_bytes(base64.b64decode(ED25519))
    try:
        key.verify(value, hashlib.sha256(signed).digest())
    except InvalidSignature:
        return False
    return True


def _rsa() -> bool:
    signed, value = _signed_data(1)
    public = serialization.load_der_public_key(base64.b64decode(RSA))
    assert isinstance(public, rsa.RSAPublicKey)
    try:
        public.verify(value, signed, padding.PKCS1v15(), hashes.SHA256())
    except InvalidSignature:
        return False
    return True
