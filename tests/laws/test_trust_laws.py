"""Laws of the tree, the leaf, the canonical form and the forms of a certificate."""

from __future__ import annotations

import hashlib
import random
from itertools import pairwise

import cbor2
import dkim.canonicalization
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.core.errors import InvalidInput
from mesh.trust import jcs, leaf, merkle
from mesh.trust.attach import compact_in, part_in, with_header, with_part
from mesh.trust.canonical import canonicalise, headers, tokens
from mesh.trust.certificate import read_cbor, read_json
from mesh.trust.leaf import Columns, DkimKey, hash_columns, make_leaf
from mesh.trust.merkle import Range, Tree, check_consistency, root_from_inclusion, split
from mesh.trust.standalone import maily_verify
from tests.trust_support import batch, both, mail

SIZES = st.integers(1, 300)


def leaves(size: int) -> bytes:
    return b"".join(hashlib.sha256(str(at).encode()).digest() for at in range(size))


def naive_root(hashes: list[bytes]) -> bytes:
    """RFC 9162 §2.1.1, word for word."""
    if len(hashes) == 1:
        return hashes[0]
    k = 1
    while 2 * k < len(hashes):
        k *= 2
    return hashlib.sha256(b"\1" + naive_root(hashes[:k]) + naive_root(hashes[k:])).digest()


@given(SIZES)
def test_root_is_the_rfcs(size: int) -> None:
    data = leaves(size)
    assert Tree(data).root == naive_root([data[at : at + 32] for at in range(0, len(data), 32)])


@given(SIZES, st.lists(st.integers(0, 300), max_size=12), st.randoms())
def test_any_split_gives_the_same_root(size: int, cuts: list[int], rng: random.Random) -> None:
    """Aligned or not, and joined in any order that brings neighbours together."""
    data = leaves(size)
    edges = sorted({0, size, *(at % (size + 1) for at in cuts)})
    ranges = [Range.of(low, data[32 * low : 32 * high]) for low, high in pairwise(edges)]
    while len(ranges) > 1:
        at = rng.randrange(len(ranges) - 1)
        ranges[at : at + 2] = [ranges[at].join(ranges[at + 1])]
    assert ranges[0].root == Tree(data).root


@given(SIZES, st.integers(1, 17))
def test_workers_ranges_cover_all_and_give_the_same_root(size: int, workers: int) -> None:
    parts = split(size, workers)
    assert len(parts) <= workers
    data = leaves(size)
    whole = Range(0, 0, ())
    for low, high in parts:
        whole = whole.join(Range.of(low, data[32 * low : 32 * high]))
    assert (whole.end, whole.root) == (size, Tree(data).root)


@given(SIZES, st.integers(1, 17))
def test_tree_of_workers_parts_is_the_tree(size: int, workers: int) -> None:
    data = leaves(size)
    parts = [merkle.levels(data[32 * low : 32 * high]) for low, high in split(size, workers)]
    whole, joined = Tree(data), Tree.from_parts(parts)
    assert (joined.size, joined.root) == (size, whole.root)
    assert all(joined.inclusion(at) == whole.inclusion(at) for at in range(size))


def test_parts_that_are_not_aligned_are_refused() -> None:
    data = leaves(9)
    for sizes in ((3, 4), (2, 4, 1), (4, 5)):
        edges = [sum(sizes[:at]) for at in range(len(sizes) + 1)]
        parts = [merkle.levels(data[32 * low : 32 * high]) for low, high in pairwise(edges)]
        with pytest.raises(InvalidInput):
            Tree.from_parts(parts)
    with pytest.raises(InvalidInput, match="twice"):
        Tree.from_parts([merkle.levels(data[:64]), merkle.levels(data[:64])])


@given(SIZES, st.data())
def test_inclusion_proofs_verify_and_prove_one_place(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    tree = Tree(leaves(size))
    path = tree.inclusion(index)
    assert len(path) == merkle.path_length(index, size)
    for walk in (root_from_inclusion, maily_verify.tree_root):
        assert walk(tree.leaf(index), index, size, path) == tree.root
    other = data.draw(st.integers(0, size + 5))
    for wrong_index, wrong_size in ((other, size), (index, other)):
        if (wrong_index, wrong_size) == (index, size):
            continue
        try:
            root = root_from_inclusion(tree.leaf(index), wrong_index, wrong_size, path)
        except InvalidInput:
            continue
        # A size is bound by the signed checkpoint; within one size, an index has one leaf.
        assert root != tree.root or wrong_size != size


@given(st.integers(1, 200), st.integers(1, 200))
def test_consistency_proofs_verify(one: int, two: int) -> None:
    old, new = sorted((one, two))
    data = leaves(new)
    tree, before = Tree(data), Tree(data[: 32 * old])
    proof = tree.consistency(old)
    assert check_consistency(old, new, before.root, tree.root, proof)
    assert not check_consistency(old, new, bytes(32), tree.root, proof)
    if old < new:
        assert not check_consistency(old, new, tree.root, before.root, proof)
        assert not check_consistency(old, new, before.root, tree.root, [*proof, bytes(32)])


@given(st.lists(st.integers(0, 5), min_size=2, max_size=9).filter(lambda x: len(x) > len({*x})))
def test_double_leaves_are_refused(numbers: list[int]) -> None:
    with pytest.raises(InvalidInput, match="twice"):
        Tree(b"".join(bytes([number]) * 32 for number in numbers))


def test_leaves_that_only_begin_alike_are_different() -> None:
    one, two = bytes(32), bytes(31) + b"\1"
    assert Tree(one + two).size == 2
    with pytest.raises(InvalidInput, match="1 leaves"):
        Tree(one + two + one)


def test_columns_of_many_give_the_leaves() -> None:
    """More than one step of the hashing, and a last one that is not full."""
    rng = random.Random(3)
    count = 2 * leaf._STEP + 7
    digests = [[rng.randbytes(32) for _ in range(count)] for _ in range(3)]
    ids = [f"<{at}@example.com>" for at in range(count)]
    people = [f"anna{at}@example.org" for at in range(count)]
    sizes = [at % 900 for at in range(count)]
    key = DkimKey("s1", rng.randbytes(16))
    columns = Columns(
        *("example.com", key, [one.encode() for one in ids], [one.encode() for one in people]),
        *(*digests, sizes),
    )
    salts, hashes = hash_columns(columns, rng.randbytes)
    for at in range(count):
        salt = salts[16 * at : 16 * at + 16]
        exact, links, text = (column[at] for column in digests)
        single = leaf.Leaf(
            *(salt, "example.com", ids[at], exact, text, sizes[at], links),
            *(leaf.recipient_commitment(salt, people[at]), key),
        )
        assert single.hash == hashes[32 * at : 32 * at + 32]


@given(st.integers(1, 12), st.booleans(), st.integers(0, 2**32))
def test_columns_give_the_leaves(count: int, signed: bool, seed: int) -> None:
    rng = random.Random(seed)
    raws = [mail(f"<p>Offer {rng.random()}</p>", number=at) for at in range(count)]
    messages = [canonicalise(raw) for raw in raws]
    key = DkimKey("s1", rng.randbytes(16)) if signed else None
    columns = Columns(
        domain="example.com",
        dkim=key,
        message_ids=[message.message_id.encode() for message in messages],
        recipients=[message.recipients[0].encode() for message in messages],
        exact=[message.exact for message in messages],
        links=[message.links_digest for message in messages],
        text=[message.text_digest for message in messages],
        text_bytes=[len(message.text.data) for message in messages],
    )
    salts, hashes = hash_columns(columns, rng.randbytes)
    assert hashes == b"".join(
        make_leaf(message, message.recipients[0], key, salts[16 * at : 16 * at + 16]).hash
        for at, message in enumerate(messages)
    )


@given(st.text("ab \t\r\n", max_size=60))
def test_relaxed_body_is_dkimpys(text: str) -> None:
    """dkimpy is the reference; its domain are bodies as SMTP carries them, ended by CRLF."""
    body = (text.replace("\r", "") + "\n").replace("\n", "\r\n").encode()
    theirs = dkim.canonicalization.Relaxed.canonicalize_body(body)
    if theirs == b"\r\n":
        theirs = b""  # RFC 6376 §3.4.4: a body of empty lines is empty
    assert headers.relaxed_body(body.replace(b"\r\n", b"\n")) == theirs


@given(st.binary(max_size=400))
def test_any_bytes_are_a_message(raw: bytes) -> None:
    ours, theirs = canonicalise(raw), maily_verify.Message(raw)
    assert (ours.exact, ours.text.data, ours.message_id) == (theirs.exact, theirs.text, theirs.id)


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_as_a_certificate(data: bytes) -> None:
    assert not both(data, mail()).holds


class SlowReader(tokens._Reader):
    """Looks at every attribute of every tag."""

    def _pointless(self, at: int) -> None:
        return None


PIECES = (
    *(*"<>='\"/ \n&x", "<a", "<b ", "</b", "href=", "href", "action", "<!--", "-->"),
    *("<style>", "</style>", "<title>", "</title>", "<plaintext>", "<svg>"),
)
SOUP = st.lists(st.sampled_from(PIECES), max_size=60)


@settings(max_examples=400)
@given(SOUP)
def test_tags_read_at_once_are_read_alike(pieces: list[str]) -> None:
    source = "".join(pieces)
    assert list(tokens.tokens(source)) == list(SlowReader(source).read())


@given(SOUP)
def test_any_soup_is_the_same_to_both(pieces: list[str]) -> None:
    raw = b"Content-Type: text/html\n\n" + "".join(pieces).encode()
    ours, theirs = canonicalise(raw), maily_verify.Message(raw)
    assert ours.text.data == theirs.text
    assert [tuple(link) for link in ours.text.links] == theirs.links


@given(
    st.lists(
        st.sampled_from([b"=", b"=3D", b"=\n", b"\n", b" ", b"\t", b"=c3", b"=A4", b"3", b"D"])
    )
)
def test_quoted_printable_is_the_same_to_both(pieces: list[bytes]) -> None:
    raw = b"Content-Transfer-Encoding: quoted-printable\n\n" + b"".join(pieces)
    assert canonicalise(raw).text.data == maily_verify.Message(raw).text


@given(st.lists(st.sampled_from([b"--x", b"--", b"-", b"x", b" ", b"\t", b"\n", b"\n\n", b"word"])))
def test_parts_are_the_same_to_both(pieces: list[bytes]) -> None:
    raw = b"Content-Type: multipart/mixed; boundary=x\n\n" + b"".join(pieces)
    assert canonicalise(raw).text.data == maily_verify.Message(raw).text


@given(st.text(max_size=40), st.text(max_size=40))
def test_white_space_and_tags_do_not_change_the_text(left: str, right: str) -> None:
    safe = [part.translate({ord(char): None for char in "<>&"}) for part in (left, right)]
    one = mail(f"<p>{safe[0]} {safe[1]}</p>")
    two = mail(f"<div>\n {safe[0]}\t<b>\n{safe[1]}</b>\u200b</div>")
    if "http" not in (left + right).lower():
        assert canonicalise(one).text_digest == canonicalise(two).text_digest


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(max_codepoint=127), max_size=6), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.text(st.characters(max_codepoint=127), max_size=6), JSON, max_size=4))
def test_quick_canonical_json_is_rfc8785s(value: dict[str, object]) -> None:
    written = jcs.write(value)
    assert written == jcs.canonical(value)
    assert jcs.read(written) == value
    assert maily_verify.canonical_json(written) == value


@settings(max_examples=30)
@given(st.integers(1, 40), st.integers(0, 2**32))
def test_forms_round_trip_and_hold(filler: int, seed: int) -> None:
    raw = mail(f"<p>Offer {seed}, and more words so that it may be found</p>", number=seed)
    certificate = batch([raw], filler=filler, seed=seed).certificates[0]
    json_form, cbor_form = certificate.to_json(), certificate.compact().to_cbor()
    assert read_json(json_form) == certificate
    assert read_cbor(cbor_form) == certificate.compact()
    assert cbor2.dumps(cbor2.loads(cbor_form), canonical=True) == cbor_form
    for form in (json_form, cbor_form):
        assert both(form, raw).level == "exact"


@given(st.integers(0, 2**32), st.booleans())
def test_certificate_in_its_own_message_changes_no_digest(seed: int, deep: bool) -> None:
    kind = 'multipart/mixed; boundary="b=1"'
    inner = "Content-Type: text/html\r\n\r\n<p>Offer</p>"
    if deep:
        inner = f"Content-Type: multipart/alternative; boundary=c\r\n\r\n--c\r\n{inner}\r\n--c--"
    raw = mail(f"--b=1\r\n{inner}\r\n--b=1--", **{"Content-Type": kind})
    certificate = batch([raw], filler=3, seed=seed).certificates[0]
    json_form, cbor_form = certificate.to_json(), certificate.compact().to_cbor()
    sent = with_part(with_header(raw, cbor_form), json_form)
    assert sent != raw
    assert (part_in(sent), compact_in(sent)) == (json_form, cbor_form)
    assert both(json_form, sent).level == "exact"
    assert both(cbor_form, sent).level == "exact"
