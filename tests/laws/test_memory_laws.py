"""Laws of memory: whatever is put in, changed and erased, in whatever order."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule
from memory_support import DIMENSIONS, SECRET, contact, embed_text, memory

from mesh.contracts.memory import MemoryFilter, MemoryKind, MemoryState, Statement
from mesh.core.ids import uuid7
from mesh.memory.consolidation import plan_merges, plan_supersedes
from mesh.memory.fusion import fuse
from mesh.memory.gate import admit
from mesh.memory.mmr import diversify
from mesh.memory.options import POLICIES, ConsolidationOptions, GateOptions
from mesh.memory.packing import pack, tokens_of
from mesh.memory.partition import Partition
from mesh.memory.record import Record, item_of, open_payload, seal_record
from mesh.memory.shapes import Head
from mesh.memory.snapshot import SnapshotInfo, read_snapshot, write_snapshot
from mesh.memory.vault import Vault

NOW = 1_800_000_000.0
VAULT = Vault(SECRET.encode())
WORKSPACE = UUID(int=1)
SPACE = contact("anna")
NAMESPACE = VAULT.namespace_id(WORKSPACE, SPACE)
HEAD = Head(WORKSPACE, NAMESPACE, 0, VAULT.new_salt(), SPACE, DIMENSIONS)
WORDS = ("tulips", "roses", "red", "blue", "likes", "never", "spring", "three", "anna", "ben")
texts = st.lists(st.sampled_from(WORDS), min_size=1, max_size=5).map(" ".join)
ranks = st.lists(st.integers(0, 20), unique=True).map(
    lambda names: {name: rank for rank, name in enumerate(names, start=1)}
)


def record_of(text: str, change: int, **more: object) -> Record:
    told = admit(memory(text, SPACE, **more), NOW, POLICIES, GateOptions())
    vector = np.asarray(embed_text(text), dtype=np.float32)
    record = seal_record(VAULT, told, vector, identity=uuid7(), workspace=WORKSPACE, shard=0)
    return replace(record, change=change)


@given(st.lists(st.text(max_size=60), max_size=12), st.integers(0, 60))
def test_a_pack_never_exceeds_its_budget(said: list[str], budget: int) -> None:
    packed = pack(said, budget)
    assert packed.tokens <= budget
    assert tokens_of(packed.text) <= packed.tokens
    assert len(packed.text.split("\n")) == max(1, len(packed.kept))
    for number, index in enumerate(packed.kept, start=1):
        assert f"[{number}] {' '.join(said[index].split())}" in packed.text


@given(st.lists(ranks, min_size=1, max_size=3))
def test_fusion_is_fair(lists: list[dict[int, int]]) -> None:
    fused = fuse(lists)
    assert set(fused) == {name for found in lists for name in found}
    assert all(0 < score <= 1 + 1e-12 for score in fused.values())
    assert fuse(lists[::-1]) == pytest.approx(fused)
    # Better in every list is better in all.
    for one in fused:
        for other in fused:
            if all(one in f and (other not in f or f[one] < f[other]) for f in lists):
                assert fused[one] > fused[other]


@given(
    st.lists(st.floats(0, 1), max_size=15).map(lambda s: sorted(s, reverse=True)),
    st.integers(0, 20),
    st.floats(0, 1),
    st.integers(0, 2**32 - 1),
)
def test_diversity_chooses_each_once_and_the_best_first(
    scores: list[float], k: int, diversity: float, seed: int
) -> None:
    rows = np.random.default_rng(seed).standard_normal((len(scores), 8))
    vectors = [(row / np.linalg.norm(row)).astype(np.float16).tobytes() for row in rows]
    chosen = diversify(vectors, scores, k, diversity)
    indices = [index for index, _ in chosen]
    assert len(indices) == min(k, len(scores)) == len(set(indices))
    if indices and diversity < 1:
        assert scores[indices[0]] == scores[0]
    assert diversify(vectors, scores, k, 0.0) == [(n, 0.0) for n in range(len(indices))]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 30)), min_size=1, max_size=8))
def test_of_contradicting_statements_one_value_holds_and_none_is_lost(
    said: list[tuple[str, int]],
) -> None:
    items = []
    for number, (value, day) in enumerate(said):
        record = record_of(
            f"value {value} {number}",
            number,
            statement=Statement(subject="s", attribute="a", value=value),
            valid_from=datetime.fromtimestamp(NOW + day, UTC),
        )
        items.append(item_of(record, open_payload(VAULT, record)))
    plan = plan_supersedes(items)
    over = {p.old for p in plan}
    values = {i.statement.value for i in items if i.id not in over and i.statement}
    assert len(values) == 1
    assert len(over) == len(plan), "each is superseded once"
    by_id = {i.id: i for i in items}
    for p in plan:
        old, new = by_id[p.old], by_id[p.new]
        assert old.statement != new.statement
        assert old.valid_from is not None
        assert new.valid_from == p.at
        assert old.valid_from <= p.at
    # Applied, it is finished.
    after = [
        i.model_copy(
            update={
                "state": MemoryState.SUPERSEDED if i.id in over else i.state,
                "superseded_by": next((p.new for p in plan if p.old == i.id), None),
                "valid_to": next((p.at for p in plan if p.old == i.id), None),
            }
        )
        for i in items
    ]
    assert plan_supersedes(after) == []


class Memories(RuleBasedStateMachine):
    """A partition beside a plain dictionary of what it should hold."""

    ids = Bundle("ids")

    def __init__(self) -> None:
        super().__init__()
        self.partition = Partition(HEAD, VAULT)
        self.rows: dict[UUID, Record] = {}
        self.merged: dict[UUID, UUID] = {}
        self.change = 0

    def next(self) -> int:
        self.change += 1
        return self.change

    def write(self, *records: Record) -> None:
        self.partition.put(records)
        self.rows |= {record.id: record for record in records}

    @rule(target=ids, said=st.lists(texts, min_size=1, max_size=4), tag=st.sampled_from("xy"))
    def remember(self, said: list[str], tag: str) -> object:
        records = [record_of(text, self.next(), tags=[tag]) for text in said]
        self.write(*records)
        return multiple(*(record.id for record in records))

    @rule(identity=ids)
    def forget(self, identity: UUID) -> None:
        there = identity in self.rows
        assert self.partition.erase([identity]) == there
        self.rows.pop(identity, None)

    @rule(identity=ids, importance=st.sampled_from([0.25, 0.75]), pinned=st.booleans())
    def patch(self, identity: UUID, importance: float, pinned: bool) -> None:
        if identity in self.rows:
            self.write(
                replace(
                    self.rows[identity], importance=importance, pinned=pinned, change=self.next()
                )
            )

    @rule()
    def consolidate(self) -> None:
        options = ConsolidationOptions()
        plan = plan_merges(self.partition, 0, NOW, options)
        gone = [identity for merge in plan.merges for identity in merge.merged]
        survivors = [merge.survivor for merge in plan.merges]
        assert len(gone) == len(set(gone)), "each is merged once"
        assert not set(gone) & set(survivors)
        for merge in plan.merges:
            for identity in merge.merged:
                assert not self.rows[identity].pinned
                self.write(
                    replace(
                        self.rows[identity],
                        state=MemoryState.MERGED,
                        merged_into=merge.survivor,
                        change=self.next(),
                    )
                )
        for merge in plan.merges:
            history = self.partition.history(merge.survivor)
            assert set(merge.merged) <= set(history), "history is kept"

    @rule()
    def restart(self) -> None:
        """From a snapshot and the rows since: the same as before."""
        info = SnapshotInfo(uuid7(), NAMESPACE, VAULT.new_salt())
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "s"
            write_snapshot(path, self.partition, info, VAULT)
            data = path.read_bytes()
            assert not any(word.encode() in data for word in WORDS)
            self.partition = read_snapshot(path, info, HEAD, VAULT)

    @invariant()
    def it_holds_what_it_should(self) -> None:
        assert set(self.partition.ids()) == set(self.rows)
        for identity, row in self.rows.items():
            found = self.partition.record(identity)
            assert found is not None
            assert found == replace(row, vector=b"", client_hash=None, content_hash=b"",
                                    contacts=())  # fmt: skip

    @invariant()
    def it_finds_what_is_active_and_nothing_else(self) -> None:
        active = {i for i, row in self.rows.items() if row.state is MemoryState.ACTIVE}
        query = embed_text("anna likes red tulips")
        found = self.partition.dense(query, 1_000, MemoryFilter(), NOW)
        assert {identity for identity, _ in found} == active
        assert [score for _, score in found] == sorted((s for _, s in found), reverse=True)
        for tag in "xy":
            wanted = MemoryFilter(tags=[tag], kinds=[MemoryKind.FACT])
            tagged = {i for i in active if tag in open_payload(VAULT, self.rows[i]).tags}
            told = self.partition.dense(query, 1_000, wanted, NOW)
            assert {identity for identity, _ in told} == tagged
            assert set(self.partition.few(wanted, NOW, 10_000) or []) == tagged


Memories.TestCase.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
TestMemories = Memories.TestCase
