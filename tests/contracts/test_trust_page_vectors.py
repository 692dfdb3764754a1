"""The page's modules on published vectors, golden certificates, and the tables that they carry."""

from __future__ import annotations

import base64
import html
import random
import re
import struct
import unicodedata
from collections.abc import Iterator
from html.entities import html5
from pathlib import Path
from typing import Any

import pytest
from eth_hash.auto import keccak

from benchmarks.trustworks.papers import KEY, NEXT_KEY
from benchmarks.trustworks.vectors import FILES, KECCAK_SIZES, NUMBERS
from mesh.trust import merkle
from mesh.trust.canonical.charsets import _TABLE, decode_text
from tests.trust_page_support import Judge, b64, judges
from tests.trust_page_tables import FILES as TABLES
from tests.trust_page_tables import FOLDER, UNICODE

PAGE_HTML = (FOLDER / "page.html").read_text()
ORDER = 2**252 + 27742317777372353535851937790883648493


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    with judges() as found:
        if found is None:
            pytest.skip("neither node nor Chromium is here")
        yield found


@pytest.mark.skipif(unicodedata.unidata_version != UNICODE, reason="another Unicode")
@pytest.mark.parametrize("name", TABLES)
def test_tables_are_what_the_script_writes(name: str) -> None:
    assert (FOLDER / name).read_text() == TABLES[name]()


def test_page_loads_all_its_modules_at_once() -> None:
    """Else each import is found only when the one before has come. The large table waits."""
    named = set(re.findall(r'<link rel="modulepreload" href="assets/([\w.]+)">', PAGE_HTML))
    assert named == {path.name for path in FOLDER.glob("*.js")} - {"page.js", "table_double.js"}


@pytest.mark.parametrize("form", ["certificate.json", "certificate.cbor"])
@pytest.mark.parametrize("folder", sorted(FILES.glob("golden-*")), ids=lambda path: path.name)
def test_golden_certificates_verify(judge: Judge, folder: Path, form: str) -> None:
    key, block = (folder / "key.txt").read_text().split()
    question = {
        "op": "verify",
        "certificate": b64((folder / form).read_bytes()),
        "message": b64((folder / "message.eml").read_bytes()),
        "keys": [key],
        "blocks": [block],
        "receipt": b64((folder / "receipt.json").read_bytes()),
    }
    whole, unknown, inspected = judge(
        [question, question | {"blocks": []}, question | {"op": "inspect"}]
    )
    assert (whole["level"], whole["state"], whole["holds"]) == ("exact", "final", True)
    assert (unknown["failedStep"], unknown["holds"]) == (9, False)
    if form.endswith("json"):
        assert (inspected["state"], inspected["holds"]) == ("final", True)
    else:
        assert inspected["failedStep"] == 3


def test_rfc8785(judge: Judge) -> None:
    names = sorted(path.name for path in (FILES / "jcs" / "input").iterdir())
    texts = [(FILES / "jcs" / "input" / name).read_text() for name in names]
    wanted = [(FILES / "jcs" / "output" / name).read_bytes().rstrip(b"\n") for name in names]
    texts += [repr(struct.unpack(">d", bytes.fromhex(bits))[0]) for bits, _ in NUMBERS]
    wanted += [text.encode() for _, text in NUMBERS]
    found = judge([{"op": "json", "text": text} for text in texts])
    assert [base64.b64decode(one) for one in found] == wanted
    refused = judge([{"op": "json", "text": text} for text in ("NaN", "1e999", '"\\ud800"', "01")])
    assert all("error" in one for one in refused)


def test_keccak_and_sha256(judge: Judge) -> None:
    data = [bytes(at % 251 for at in range(size)) for size in (*KECCAK_SIZES, 63, 64, 119, 120)]
    assert judge([{"op": "keccak", "bytes": b64(one)} for one in data]) == [
        keccak(one).hex() for one in data
    ]
    assert judge([{"op": "sha256", "bytes": b64(one)} for one in data]) == [
        merkle._sha256(one).hexdigest() for one in data
    ]


def test_ed25519_of_browser_and_own_code_are_one(judge: Judge) -> None:
    """RFC 8032 §7.1 (TEST 2), our keys; signatures that are not theirs, or not in the one form."""
    rfc = (
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
        "r",
    )
    own, text = KEY.verifier.public.hex(), "a checkpoint\n"
    good = KEY.sign(text)
    s = (int.from_bytes(good[32:], "little") + ORDER).to_bytes(32, "little")
    flipped = bytes([good[0] ^ 1]) + good[1:]
    asked = [
        (rfc, True),
        ((own, good.hex(), text), True),
        ((own, good.hex(), text + "x"), False),
        ((own, (good[:32] + s).hex(), text), False),
        ((own, flipped.hex(), text), False),
        ((NEXT_KEY.verifier.public.hex(), good.hex(), text), False),
        ((own, good[:63].hex(), text), False),
        (("02" + "00" * 31, good.hex(), text), False),
    ]
    found = judge(
        [
            {"op": "ed25519", "key": key, "signature": signature, "text": words}
            for (key, signature, words), _ in asked
        ]
    )
    assert found == [[wanted, wanted] for _, wanted in asked]


def test_inclusion_proofs(judge: Judge) -> None:
    """Every leaf of trees of 1 to 40 leaves; a node more or less is refused."""
    questions: list[dict[str, Any]] = []
    wanted: list[str | None] = []
    for size in range(1, 41):
        tree = merkle.Tree(b"".join(merkle.data_hash(bytes([at])) for at in range(size)))
        for index in range(size):
            path = [node.hex() for node in tree.inclusion(index)]
            place = {
                "op": "inclusion",
                "leaf": tree.leaf(index).hex(),
                "index": index,
                "size": size,
            }
            questions += [place | {"path": path}, place | {"path": [*path, "00" * 32]}]
            wanted += [tree.root.hex(), None]
    for answer, root in zip(judge(questions), wanted, strict=True):
        assert answer == root if root else "error" in answer


def test_charsets(judge: Judge) -> None:
    """Each label on each byte, on all pairs of a few leads, and on random text and bytes."""
    rng = random.Random(3)
    asked: list[tuple[bytes, str]] = []
    for label, codec in [*_TABLE.items(), (" UTF-8\t", "utf-8"), ("nonsense", "utf-8")]:
        asked += [(bytes([byte]), label) for byte in range(256)]
        for _ in range(40):
            points = (0x20, 0xA0, 0x400, 0x3040, 0x4E00, 0xAC00, 0x1F300)
            text = "".join(chr(rng.choice(points) + rng.randrange(0x50)) for _ in range(8))
            data = bytearray(text.encode(codec, "ignore"))
            if data and rng.random() < 0.3:
                data[rng.randrange(len(data))] = rng.randrange(256)
            asked.append((bytes(data), label))
    for label in ("big5", "gbk", "shift_jis", "euc-kr", "euc-jp"):
        for lead in rng.sample(range(0x80, 0x100), 24):
            asked += [(bytes([lead, trail]), label) for trail in range(0x20, 0x100)]
    escapes = (
        *(b"\x1b$B", b"\x1b(B", b"\x1b(J", b"\x1b$@", b"\x1b$(B", b"\x1b)B", b"\x1b&@\x1b$B"),
        *(
            b"\x1b(I",
            b"\x1b[0m",
            b"\x1b",
            b"\n",
            b'$"',
            b"ab",
            b"\x0e",
            b"0!",
            b"\x80",
            b" ",
            b"~\\",
        ),
    )
    asked += [
        (b"".join(rng.choices(escapes, k=rng.randint(1, 6))), "iso-2022-jp") for _ in range(600)
    ]
    for _ in range(2_000):  # GB 18030's four bytes
        number = rng.choice((rng.randrange(39_420), rng.randrange(1_260_000)))
        first, rest = divmod(number, 12_600)
        tail = (rest // 1_260 + 0x30, rest // 10 % 126 + 0x81, rest % 10 + 0x30)
        asked.append((bytes([min(first + 0x81, 255), *tail]), "gb18030"))
    found = judge([{"op": "charset", "bytes": b64(data), "label": label} for data, label in asked])
    for (data, label), text in zip(asked, found, strict=True):
        assert text == decode_text(data, label), (data, label)


def test_character_references(judge: Judge) -> None:
    rng = random.Random(5)
    names = list(html5)
    texts = [f"&{name}x" for name in names]
    for _ in range(2_000):
        pieces = [
            *(
                "&",
                "&#;",
                "&#x;",
                "a",
                " ",
                "<",
                "é😀",
                "&" + "q" * 40,
                f"&#x{rng.randrange(0x110500):x};",
            ),
            *(f"&{rng.choice(names)}", "&" + rng.choice(names).rstrip(";") + rng.choice("x=;")),
            *(f"&#{rng.randrange(300)}", f"&#{rng.randrange(0x110500)};"),
        ]
        texts.append("".join(rng.choices(pieces, k=rng.randint(1, 5))))
    found = judge([{"op": "unescape", "text": text} for text in texts])
    assert found == [html.unescape(text) for text in texts]


@pytest.mark.skipif(unicodedata.unidata_version != UNICODE, reason="another Unicode")
def test_nfkc_is_of_unicode_14_in_any_browser(judge: Judge) -> None:
    """Each character of the first two planes among combining ones, those of later versions too."""
    points = [*range(0xD800), *range(0xE000, 0x20000), *range(0x2F800, 0x2FA20)]
    texts = [
        "a" + "\u0301b".join(map(chr, points[at : at + 64])) + "\u0301\u0323"
        for at in range(0, len(points), 64)
    ]
    found = judge([{"op": "nfkc", "text": text} for text in texts])
    assert found == [unicodedata.normalize("NFKC", text) for text in texts]


def test_one_verification_is_timed(judge: Judge) -> None:
    """The figure that is stated comes from this question."""
    folder = FILES / "golden-v1"
    question = {
        "op": "time",
        "certificate": b64((folder / "certificate.json").read_bytes()),
        "message": b64((folder / "message.eml").read_bytes()),
        "keys": [(folder / "key.txt").read_text().split()[0]],
        "times": 20,
    }
    (milliseconds,) = judge([question])
    assert milliseconds > 0
