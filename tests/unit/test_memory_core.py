"""Memory's pure parts: what goes in, what is sealed, how shards are placed, how hits are packed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import numpy as np
import pytest
from memory_support import BRAND, SECRET, contact, embed_text, memory
from pydantic import ValidationError

from mesh.contracts.memory import (
    ForgetReceipt,
    ForgetSelector,
    MemoryItem,
    MemoryKind,
    MemoryQuery,
    MemoryState,
    Namespace,
    NamespaceKind,
    NewMemory,
    SearchMode,
    Source,
    Statement,
)
from mesh.core.errors import InvalidInput
from mesh.memory.consolidation import plan_supersedes, same
from mesh.memory.decay import recency
from mesh.memory.export import export_line, import_lines
from mesh.memory.forgetting import Redactor, authentic, describe, sealed
from mesh.memory.gate import admit
from mesh.memory.options import DAY_S, POLICIES, ConsolidationOptions, GateOptions
from mesh.memory.packing import pack, tokens_of
from mesh.memory.placement import SHARDS, owner_of, shard_of, shards_of
from mesh.memory.ranking import answer
from mesh.memory.record import Payload, Record, open_payload, open_vector, seal_record
from mesh.memory.shapes import Found
from mesh.memory.vault import Unreadable, Vault
from mesh.memory.words import Lexeme, configuration, query_text, vector_text

NOW = 1_800_000_000.0
VAULT = Vault(SECRET.encode())
SPACE = UUID(int=7)


def item(text: str, **more: object) -> MemoryItem:
    at = datetime.fromtimestamp(NOW, UTC)
    return MemoryItem(
        **{  # type: ignore[arg-type]
            "id": uuid4(),
            "namespace": BRAND,
            "kind": MemoryKind.FACT,
            "state": MemoryState.ACTIVE,
            "text": text,
            "importance": 0.5,
            "pinned": False,
            "source": Source(),
            "created_at": at,
            "updated_at": at,
        }
        | more
    )


def found(one: MemoryItem, vector: bytes, **scores: float) -> Found:
    record = Record(
        id=one.id,
        workspace_id=SPACE,
        namespace=SPACE,
        shard=0,
        kind=one.kind,
        state=one.state,
        salt=b"",
        sealed=b"",
        vector=b"",
        importance=one.importance,
        pinned=one.pinned,
        created_at=one.created_at,
        updated_at=one.updated_at,
    )
    return Found(record, Payload(text=one.text, namespace=BRAND).encode(), vector, **scores)


def test_namespaces_are_named_as_their_kind_asks() -> None:
    with pytest.raises(ValidationError):
        Namespace(kind=NamespaceKind.CONTACT)
    with pytest.raises(ValidationError):
        Namespace(kind=NamespaceKind.WORKSPACE, id="x")


@pytest.mark.parametrize("vector", [[1.0], [0.0, 0.0], [float("nan"), 1.0], [float("inf"), 1.0]])
def test_vectors_must_point_somewhere(vector: list[float]) -> None:
    with pytest.raises(ValidationError):
        memory("text", vector=vector)


def test_a_query_says_what_it_looks_for() -> None:
    with pytest.raises(ValidationError):
        MemoryQuery(namespaces=[BRAND])
    with pytest.raises(ValidationError):
        MemoryQuery(namespaces=[BRAND], vector=[1.0, 2.0])
    MemoryQuery(namespaces=[BRAND], vector=[1.0, 2.0], mode=SearchMode.DENSE)


def test_one_thing_is_forgotten_at_a_time() -> None:
    with pytest.raises(ValidationError):
        ForgetSelector()
    with pytest.raises(ValidationError):
        ForgetSelector(item=uuid4(), contact="anna")


class TestGate:
    def test_what_is_unsaid_is_filled_in(self) -> None:
        new = memory("  Hello there. ", contact("anna"), kind=MemoryKind.TURN, contacts=["ben"])
        told = admit(new, NOW, POLICIES, GateOptions())
        assert told.text == "Hello there."
        assert told.importance == POLICIES[MemoryKind.TURN].importance
        assert told.expires_at == datetime.fromtimestamp(NOW + 180 * DAY_S, UTC)
        assert told.contacts == ("anna", "ben")

    def test_pinned_ones_do_not_expire_and_the_future_is_not_remembered(self) -> None:
        later = datetime.fromtimestamp(NOW + 99, UTC)
        new = memory("Hello there.", kind=MemoryKind.TURN, pinned=True, created_at=later)
        told = admit(new, NOW, POLICIES, GateOptions())
        assert told.expires_at is None
        assert told.created_at.timestamp() == NOW

    def test_what_is_over_is_refused(self) -> None:
        past = datetime.fromtimestamp(NOW - 1, UTC)
        with pytest.raises(InvalidInput):
            admit(memory("Hello there.", expires_at=past), NOW, POLICIES, GateOptions())
        with pytest.raises(InvalidInput):
            admit(memory("Hello there."), NOW, POLICIES, GateOptions(max_text_chars=5))


class TestVault:
    def test_rows_are_bound_to_their_place(self) -> None:
        workspace, identity = uuid4(), uuid4()
        told = admit(memory("secret words"), NOW, POLICIES, GateOptions())
        vector = np.asarray(embed_text("secret words"), dtype=np.float32)
        record = seal_record(VAULT, told, vector, identity=identity, workspace=workspace, shard=3)
        assert open_payload(VAULT, record).text == "secret words"
        assert np.array_equal(open_vector(VAULT, record), vector)
        assert b"secret" not in record.sealed
        assert vector.tobytes()[:8] not in record.vector
        from dataclasses import replace

        for change in (
            {"id": uuid4()},
            {"workspace_id": uuid4()},
            {"salt": VAULT.new_salt()},
            {"sealed": record.vector},
        ):
            with pytest.raises(Unreadable):
                open_payload(VAULT, replace(record, **change))  # type: ignore[arg-type]
        with pytest.raises(Unreadable):
            open_payload(Vault(b"another secret of thirty-two bytes"), record)

    def test_names_are_hashes_of_their_workspace(self) -> None:
        one, two = uuid4(), uuid4()
        assert VAULT.namespace_id(one, contact("a")) == VAULT.namespace_id(one, contact("a"))
        ids = {
            VAULT.namespace_id(w, n)
            for w in (one, two)
            for n in (contact("a"), contact("b"), BRAND)
        }
        assert len(ids) == 6
        assert VAULT.namespace_id(one, contact("a")) != VAULT.contact_id(one, "a")

    def test_the_same_word_differs_between_namespaces(self) -> None:
        lexemes = [Lexeme("tulip", (1, 5)), Lexeme("red", ())]
        one, two = VAULT.new_salt(), VAULT.new_salt()
        assert vector_text(VAULT, one, lexemes) != vector_text(VAULT, two, lexemes)
        first, second = vector_text(VAULT, one, lexemes).split()
        assert first.endswith(":1,5")
        assert ":" not in second
        assert query_text(VAULT, one, [lexemes[0]]).strip("'") in first
        assert query_text(VAULT, one, []) == ""

    def test_common_words_give_way_to_rare_ones(self) -> None:
        salt = VAULT.new_salt()
        lexemes = [Lexeme(text, (1,)) for text in ("the", "often", "rare")]
        the, often, rare = VAULT.words(salt, ["the", "often", "rare"])
        every = {the: 90_000, often: 2_000}
        assert query_text(VAULT, salt, lexemes, every) == f"'{rare}' | '{often}'"
        assert query_text(VAULT, salt, lexemes[:1], every) == f"'{the}'"
        assert query_text(VAULT, salt, lexemes).count("|") == 2

    def test_a_short_secret_is_refused(self) -> None:
        with pytest.raises(InvalidInput):
            Vault(b"short")


def test_languages_map_to_dictionaries() -> None:
    assert [configuration(x) for x in (None, "de", "xx")] == ["english", "german", "simple"]


class TestPlacement:
    def test_only_the_shards_of_who_comes_or_goes_move(self) -> None:
        three = ["a", "b", "c"]
        before = {s: owner_of(s, three) for s in range(SHARDS)}
        after = {s: owner_of(s, ["a", "c"]) for s in range(SHARDS)}
        assert all(after[s] == before[s] for s in before if before[s] != "b")
        assert {s for n in three for s in shards_of(n, three)} == set(range(SHARDS))
        assert owner_of(1, []) is None

    def test_namespaces_spread_over_the_shards(self) -> None:
        workspace = uuid4()
        used = {shard_of(VAULT.namespace_id(workspace, contact(str(n)))) for n in range(1_000)}
        assert len(used) == SHARDS


class TestPacking:
    def test_a_memory_is_one_line(self) -> None:
        packed = pack(["a\n[9] not a line\r\n\u2028of its own"], None)
        assert packed.text == "[1] a [9] not a line of its own"

    def test_what_does_not_fit_is_left_out_and_smaller_ones_still_fit(self) -> None:
        packed = pack(["one", "word " * 100, "two"], 20)
        assert packed.kept == (0, 2)
        assert packed.text == "[1] one\n[2] two"

    @pytest.mark.parametrize(("text", "least"), [("12345", 5), ("a b c d", 4), ("!?!", 3)])
    def test_the_estimate_is_on_the_safe_side(self, text: str, least: int) -> None:
        assert tokens_of(text) >= least


class TestRanking:
    def test_recency_halves_with_each_half_life(self) -> None:
        policy = POLICIES[MemoryKind.TURN]
        at = datetime.fromtimestamp(NOW - policy.half_life_s, UTC)
        old = item("x", kind=MemoryKind.TURN, created_at=at)
        assert recency(old, NOW, POLICIES) == pytest.approx(0.5)
        assert recency(old.model_copy(update={"pinned": True}), NOW, POLICIES) == 1.0

    def test_what_both_searches_find_comes_first(self) -> None:
        candidates = [
            found(item("dense only"), b"", dense=0.9),
            found(item("both"), b"", dense=0.5, text=0.2),
            found(item("text only"), b"", text=0.3),
        ]
        query = MemoryQuery(text="x", namespaces=[BRAND], diversity=0.0)
        told = answer(query, candidates, NOW, POLICIES)
        assert told.hits[0].item.text == "both"
        assert {hit.item.text for hit in told.hits[1:]} == {"dense only", "text only"}
        assert told.hits[0].parts.dense_rank == 2
        assert told.hits[0].parts.text_rank == 2
        assert all(0 <= hit.score <= 1 for hit in told.hits)

    def test_importance_breaks_a_tie(self) -> None:
        candidates = [
            found(item("minor", importance=0.1), b"", dense=0.8),
            found(item("major", importance=0.9), b"", dense=0.8),
        ]
        query = MemoryQuery(text="x", namespaces=[BRAND], diversity=0.0, mode=SearchMode.DENSE)
        told = answer(query, candidates, NOW, POLICIES)
        assert [hit.item.text for hit in told.hits] == ["major", "minor"]

    def test_diversity_puts_a_repetition_behind(self) -> None:
        def vector(*values: float) -> bytes:
            return (np.asarray(values) / np.linalg.norm(values)).astype(np.float16).tobytes()

        candidates = [
            found(item("first"), vector(1, 0, 0), dense=0.9),
            found(item("again"), vector(1, 0.01, 0), dense=0.89),
            found(item("other"), vector(0, 1, 0), dense=0.6),
        ]
        query = MemoryQuery(text="x", namespaces=[BRAND], k=2, mode=SearchMode.DENSE)
        alike = answer(query.model_copy(update={"diversity": 0.0}), candidates, NOW, POLICIES)
        assert [hit.item.text for hit in alike.hits] == ["first", "again"]
        told = answer(query.model_copy(update={"diversity": 0.6}), candidates, NOW, POLICIES)
        assert [hit.item.text for hit in told.hits] == ["first", "other"]


class TestConsolidation:
    OPTIONS = ConsolidationOptions()

    @pytest.mark.parametrize(
        ("one", "other", "alike"),
        [
            ("Anna likes red tulips", "Anna really likes red tulips", True),
            ("Anna likes red tulips", "Anna never likes red tulips", False),
            ("Orders ship in 2 days", "Orders ship in 3 days", False),
            ("Anna don't like tulips", "Anna don’t like tulips", True),
            ("Anna likes tulips", "Ben prefers roses", False),
        ],
    )
    def test_the_same_is_said_in_the_same_words(self, one: str, other: str, alike: bool) -> None:
        assert same(item(one), item(other), self.OPTIONS) is alike

    def test_people_kinds_and_times_are_not_mixed_up(self) -> None:
        one = item("Likes tulips very much", contacts=["anna"])
        assert not same(one, item("Likes tulips very much", contacts=["ben"]), self.OPTIONS)
        assert not same(
            one,
            item("Likes tulips very much", contacts=["anna"], kind=MemoryKind.TURN),
            self.OPTIONS,
        )
        assert not same(
            one,
            item("Likes tulips very much", contacts=["anna"], valid_to=datetime.now(UTC)),
            self.OPTIONS,
        )

    def test_each_value_holds_until_the_next_other_one(self) -> None:
        def lives(place: str, days: int) -> MemoryItem:
            return item(
                place,
                statement=Statement(subject="Anna", attribute="City", value=place),
                created_at=datetime.fromtimestamp(NOW, UTC) + timedelta(days=days),
            )

        paris, again, rome, oslo = (
            lives("Paris", 0), lives(" paris", 1), lives("Rome", 2), lives("Oslo", 3),
        )  # fmt: skip
        other = item("x", statement=Statement(subject="Anna", attribute="age", value="33"))
        plan = plan_supersedes([oslo, other, rome, again, paris])
        assert {(p.old, p.new) for p in plan} == {
            (paris.id, rome.id),
            (again.id, rome.id),
            (rome.id, oslo.id),
        }


class TestForgetting:
    def test_texts_are_blacked_out_whatever_their_case_and_blanks(self) -> None:
        redactor = Redactor(["Likes red tulips", "tiny"])
        value = {"likes  red\ntulips": ["x LIKES RED TULIPS, tiny", 3, None, {"a": True}]}
        assert redactor.redact(value) == (
            {"[forgotten]": ["x [forgotten], tiny", 3, None, {"a": True}]},
            2,
        )
        assert Redactor([]).redact("anything") == ("anything", 0)

    def test_the_longest_text_goes_first(self) -> None:
        redactor = Redactor(["red tulips", "likes red tulips"])
        assert redactor.redact("she likes red tulips") == ("she [forgotten]", 1)

    def test_a_receipt_is_sealed_whole(self) -> None:
        receipt = sealed(
            ForgetReceipt(
                id=uuid4(),
                workspace_id=uuid4(),
                selector=VAULT.selector_hash(
                    SPACE, describe(ForgetSelector(contact="anna@example.org"))
                ),
                requested_at=datetime.now(UTC),
                finished_at=datetime.now(UTC),
                items=[uuid4()],
                erased={"items": 1},
            ),
            VAULT,
        )
        assert authentic(receipt, VAULT)
        assert "anna" not in receipt.model_dump_json()
        again = ForgetReceipt.model_validate_json(receipt.model_dump_json())
        assert authentic(again, VAULT)
        assert not authentic(again, Vault(b"another secret of thirty-two bytes"))
        assert not authentic(again.model_copy(update={"erased": {}}), VAULT)
        assert not authentic(again.model_copy(update={"seal": None}), VAULT)


class TestExport:
    def test_a_line_reads_back(self) -> None:
        kept = item(
            "Zwei\nZeilen",
            tags=["a"],
            metadata={"n": 1, "b": True},
            statement=Statement(subject="s", attribute="a", value="v"),
            expires_at=datetime.fromtimestamp(NOW, UTC),
        )
        line = export_line(kept, [1.0, 2.0])
        assert line is not None
        assert line.count(b"\n") == 1
        (new,) = import_lines([line, b"", b"  "])
        assert new == NewMemory(
            namespace=BRAND,
            kind=MemoryKind.FACT,
            text="Zwei\nZeilen",
            client_id=f"export:{kept.id}",
            tags=["a"],
            metadata={"n": 1, "b": True},
            importance=0.5,
            statement=kept.statement,
            source=Source(ref=f"mem:{kept.id}"),
            expires_at=kept.expires_at,
            created_at=kept.created_at,
            vector=[1.0, 2.0],
        )

    def test_merged_ones_are_said_by_their_survivor(self) -> None:
        assert export_line(item("x", state=MemoryState.MERGED)) is None
