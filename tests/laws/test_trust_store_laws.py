"""Laws of what trust stores: ids, pages, marks, trees in parts, records, states."""

from __future__ import annotations

import hashlib
import random
from dataclasses import replace
from struct import unpack
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.contracts.networks import AnchorState
from mesh.contracts.trust import BatchState
from mesh.core.errors import Conflict, InvalidInput, NotFound
from mesh.trust.canonical.headers import normal_address
from mesh.trust.ids import CertificateIds
from mesh.trust.leaf import DkimKey
from mesh.trust.marks import MarkIndex, keys_of
from mesh.trust.merkle import HASH_BYTES, Tree, root_from_inclusion
from mesh.trust.pages import PAGE_BYTES, PAGE_LEAVES, Prepared, pages_of
from mesh.trust.record import Record, masked
from mesh.trust.states import state_of
from mesh.trust.stored import (
    UNIT,
    Distinct,
    StoredTree,
    fold_units,
    proof,
    unit_of,
    upper_places,
)
from mesh.trust.vault import MARK_BYTES, TrustVault

SECRET = b"a secret of more than thirty-two bytes for tests"
IDS = CertificateIds(SECRET)
WORKSPACE = UUID(int=7)


def hashes(count: int) -> bytes:
    return b"".join(hashlib.sha256(n.to_bytes(8, "big")).digest() for n in range(count))


@given(st.integers(0, 2**48 - 1), st.integers(0, 2**32 - 1))
def test_ids_are_read_back_and_look_like_ids(serial: int, index: int) -> None:
    text = IDS.make(serial, index)
    assert len(text) == 32
    assert text == text.lower()
    assert IDS.read(text) == IDS.read(text.upper()) == (serial, index)
    with pytest.raises(NotFound):
        CertificateIds(SECRET + b"!").read(text)


@given(st.integers(0, 2**20), st.integers(0, 2**20), st.integers(0, 31), st.integers(1, 31))
def test_a_changed_id_is_none(serial: int, index: int, at: int, shift: int) -> None:
    alphabet = "abcdefghijklmnopqrstuvwxyz234567"
    text = IDS.make(serial, index)
    other = alphabet[(alphabet.index(text[at]) + shift) % 32]
    with pytest.raises(NotFound):
        IDS.read(text[:at] + other + text[at + 1 :])


@given(st.text(max_size=40))
def test_anything_else_is_no_id(text: str) -> None:
    with pytest.raises(NotFound):
        IDS.read(text)


cells = st.binary(max_size=40)


@st.composite
def prepared(draw: st.DrawFn, most: int = 60) -> Prepared:
    sealed = draw(st.lists(cells, min_size=1, max_size=most))
    seed = draw(st.integers(0, 2**32))
    rng = random.Random(seed)
    count = len(sealed)
    return Prepared(
        salts=rng.randbytes(16 * count),
        leaves=rng.randbytes(32 * count),
        marks=rng.randbytes(MARK_BYTES * count),
        people=rng.randbytes(8 * count),
        sealed=tuple(sealed),
        message_ids=tuple(str(n) for n in range(count)),
        documents=tuple(rng.choice([None, b"d" * 16]) for _ in range(count)),
    )


@given(prepared(), st.integers(0, 10**6))
def test_pages_hold_every_leaf_at_its_place(rows: Prepared, first: int) -> None:
    found = []
    for page in pages_of(first, rows):
        offsets = unpack(f">{page.count + 1}I", page.offsets)
        for at in range(page.count):
            place = page.first + at - first
            assert page.sealed[offsets[at] : offsets[at + 1]] == rows.sealed[place]
            assert page.leaves[at * 32 : at * 32 + 32] == rows.leaves[place * 32 : place * 32 + 32]
            assert page.marks[at * 24 : at * 24 + 24] == rows.mark(place)
            found.append(page.first + at)
    assert found == list(range(first, first + len(rows)))


def test_pages_are_full_but_the_last() -> None:
    count = 2 * PAGE_LEAVES + 5
    rows = Prepared(
        bytes(16 * count),
        hashes(count),
        bytes(24 * count),
        bytes(8 * count),
        (b"x",) * count,
        ("",) * count,
        (None,) * count,
    )
    assert [page.count for page in pages_of(0, rows)] == [PAGE_LEAVES, PAGE_LEAVES, 5]
    large = replace(rows.take(range(10)), sealed=(bytes(PAGE_BYTES // 2),) * 10)
    assert [(page.first, page.count) for page in pages_of(7, large)] == [
        (7 + at, 2) for at in range(0, 10, 2)
    ]


@given(st.lists(prepared(8), min_size=1, max_size=4), st.data())
def test_taking_and_joining_keep_rows_whole(parts: list[Prepared], data: st.DataObject) -> None:
    whole = Prepared.join(parts)
    assert len(whole) == sum(map(len, parts))
    rows = sorted(data.draw(st.sets(st.integers(0, len(whole) - 1), min_size=1)))
    some = whole.take(rows)
    for at, row in enumerate(rows):
        assert some.mark(at) == whole.mark(row)
        assert some.sealed[at] == whole.sealed[row]
        assert some.salts[at * 16 : at * 16 + 16] == whole.salts[row * 16 : row * 16 + 16]
    count = sum(mark is not None for mark in some.documents)
    assert sum(some.by_document().values()) == count


@given(st.lists(st.lists(st.integers(0, 2**64 - 1), max_size=40), max_size=12))
def test_marks_are_found_where_they_were_put_last(groups: list[list[int]]) -> None:
    index, truth, size = MarkIndex(), dict[int, int](), 0
    for group in groups:
        keys = np.array(group, dtype=np.uint64)
        index.add(keys, size)
        truth |= {key: size + at for at, key in enumerate(group)}
        size += len(group)
    assert len(index) == size
    wanted = [*truth, 3, 5, 2**64 - 1]
    found = index.find(np.array(wanted, dtype=np.uint64))
    assert [int(at) for at in found] == [truth.get(key, -1) for key in wanted]


def test_marks_of_a_million_are_small_and_quick_to_find() -> None:
    rng = np.random.default_rng(7)
    index = MarkIndex()
    columns = [rng.bytes(24 * 1_000) for _ in range(50)]
    for at, column in enumerate(columns):
        index.add(keys_of(column), at * 1_000)
    assert index.bytes == 12 * 50_000
    found = index.find(keys_of(columns[17]))
    assert [int(at) for at in found] == list(range(17_000, 18_000))


SIZES = [1, 2, 3, 1_000, 1_023, 1_024, 1_025, 2_047, 2_048, 2_049, 3_333, 5 * 1_024 + 1]


@pytest.mark.parametrize("size", SIZES)
def test_a_stored_tree_has_the_root_and_the_proofs_of_the_whole(size: int) -> None:
    leaves = hashes(size)
    whole = Tree(leaves)
    stored = StoredTree.build(size, fold_units(leaves))
    assert stored.root == whole.root
    rng = random.Random(size)
    for index in {0, size - 1, size // 2, *(rng.randrange(size) for _ in range(20))}:
        first, end = unit_of(index, size)
        upper = [
            stored.nodes[at * HASH_BYTES : (at + 1) * HASH_BYTES]
            for at in upper_places(index, size)
        ]
        made = proof(index, size, leaves[first * HASH_BYTES : end * HASH_BYTES], upper)
        assert list(made.path) == whole.inclusion(index)
        assert root_from_inclusion(whole.leaf(index), index, size, made.path) == whole.root


@settings(max_examples=30)
@given(st.integers(1, 6_000), st.lists(st.integers(1, 4), max_size=6))
def test_the_root_is_the_same_however_the_leaves_are_split(size: int, steps: list[int]) -> None:
    leaves = hashes(size)
    parts, at = [], 0
    for step in [*steps, 10]:
        end = min(size, at + step * UNIT)
        parts.append(fold_units(leaves[at * HASH_BYTES : end * HASH_BYTES]))
        at = end
    assert StoredTree.build(size, b"".join(parts)).root == Tree(leaves).root


def test_a_tree_with_nodes_missing_is_none() -> None:
    with pytest.raises(InvalidInput):
        StoredTree.build(1_025, fold_units(hashes(1_024)))


def test_a_leaf_that_is_there_twice_is_suspected() -> None:
    leaves = hashes(500)
    distinct = Distinct()
    distinct.add(leaves[: 100 * 32])
    distinct.add(leaves[100 * 32 :])
    assert distinct.suspects() == frozenset()
    distinct.add(leaves[32:64])
    assert distinct.suspects() == {leaves[32:40]}


@given(
    st.text(max_size=20),
    st.tuples(st.text(max_size=9), st.text(max_size=9)) | st.none(),
    st.lists(st.text(max_size=9), max_size=4),
    st.binary(min_size=16, max_size=16),
)
def test_records_are_read_back_and_sealed_under_their_salt_alone(
    text: str, document: tuple[str, str] | None, origins: list[str], salt: bytes
) -> None:
    dkim = DkimKey("s1", b"k" * 16) if document else None
    record = Record(
        text, text, b"e" * 32, b"t" * 32, 7, tuple(origins), b"r" * 32, dkim, text, "", "", document
    )
    assert Record.unpack(record.pack()) == record
    vault = TrustVault.of(SECRET)
    sealed = vault.seal(salt, WORKSPACE, record.pack())
    assert Record.unpack(vault.open(salt, WORKSPACE, sealed)) == record
    wrong = bytes([salt[0] ^ 1]) + salt[1:]
    for other, workspace in ((wrong, WORKSPACE), (salt, UUID(int=8))):
        with pytest.raises(Conflict):
            vault.open(other, workspace, sealed)
    with pytest.raises(Conflict):
        TrustVault.of(SECRET + b"!").open(salt, WORKSPACE, sealed)


@given(st.emails())
def test_a_masked_address_gives_nothing_away(address: str) -> None:
    local, _, domain = normal_address(address).rpartition("@")
    shown = masked(address)
    assert shown.startswith(local[:1])
    if len(local) > 1:
        assert local not in shown
    assert domain not in shown
    assert masked("nonsense") == "…"


_KINDS = st.lists(st.sampled_from(list(AnchorState)), max_size=5)


@given(_KINDS, st.integers(1, 3))
def test_nothing_is_final_or_confirmed_before_enough_networks_say_so(
    anchors: list[AnchorState], needed: int
) -> None:
    state = state_of(anchors, needed)
    final = anchors.count(AnchorState.FINAL)
    on_chain = final + anchors.count(AnchorState.CONFIRMED)
    assert (state is BatchState.FINAL) == (final >= needed)
    if on_chain < needed:
        assert state not in (BatchState.FINAL, BatchState.CONFIRMED)
        assert (state is BatchState.ORPHANED) == (AnchorState.ORPHANED in anchors)
    # One network more that has it never takes a batch back.
    order = [BatchState.INCLUDED, BatchState.SUBMITTED, BatchState.CONFIRMED, BatchState.FINAL]
    if state in order:
        more = state_of([*anchors, AnchorState.FINAL], needed)
        assert order.index(more) >= order.index(state)
