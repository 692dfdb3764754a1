"""QR codes: whatever certificate and address, a scanner reads back just the link."""

from __future__ import annotations

import random
import string
from io import BytesIO

import zxingcpp
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from mesh.trust.certificate import Compact, Proof, read_cbor
from mesh.trust.present import links, qr

IDS = st.text(alphabet=string.ascii_lowercase + "234567", min_size=32, max_size=32)
HOSTS = st.from_regex(r"https://[a-z0-9]{1,30}\.example(:[1-9][0-9]{1,3})?(/[a-z0-9]{1,20})?",
                      fullmatch=True)  # fmt: skip


def certificate(depth: int, seed: int, signed: bool) -> bytes:
    """A compact one of a tree so deep, of any bytes."""
    rng = random.Random(seed)
    path = tuple(rng.randbytes(32) for _ in range(depth))
    proof = Proof(rng.randrange(2**32), rng.randrange(2**40), path)
    key = rng.randbytes(16) if signed else bytes(16)
    size = rng.randrange(2**32)
    return Compact(
        rng.randbytes(16), rng.randbytes(32), key, size, proof, rng.randbytes(68)
    ).to_cbor()


def scanned(png: bytes) -> list[str]:
    found = zxingcpp.read_barcodes(
        Image.open(BytesIO(png)).convert("L"), formats=zxingcpp.BarcodeFormat.QRCode
    )
    return [code.text for code in found]


@settings(max_examples=15, deadline=None)
@given(HOSTS, IDS, st.integers(0, 40), st.integers(0, 2**32), st.booleans())
@example("https://a.example", "a" * 32, 40, 1, True)
@example("https://a.example", "a" * 32, 20, 1, True)
def test_every_proof_is_one_code_that_reads_back(
    base: str, id: str, depth: int, seed: int, signed: bool
) -> None:
    proof = certificate(depth, seed, signed)
    (text,) = scanned(qr.qr_png(links.verify_url(base, id, proof), qr.WHOLE))
    read = links.read_link(text)
    assert (read.base, read.id, read.proof) == (base, id, proof)
    assert read_cbor(proof).to_cbor() == read.proof


@settings(max_examples=25, deadline=None)
@given(HOSTS, IDS, st.integers(qr.MIN_PIXELS, 600))
def test_every_size_of_a_link_reads_back(base: str, id: str, pixels: int) -> None:
    url = links.verify_url(base, id)
    png = qr.qr_png(url, qr.QrOptions(pixels=pixels))
    assert scanned(png) == [url]
    side = qr.qr_code(url).side
    assert Image.open(BytesIO(png)).width <= max(pixels, side * qr.MIN_MODULE)
