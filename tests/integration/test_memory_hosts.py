"""Memory over real databases: written once, found, told apart, looked after."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
import pytest_asyncio
from memory_support import BRAND, House, asked, contact, memory, open_house, settings_for

from mesh.contracts.memory import (
    MemoryFilter,
    MemoryKind,
    MemoryPatch,
    MemoryState,
    Namespace,
    NamespaceKind,
    SearchMode,
    Statement,
)
from mesh.core.errors import IdempotencyMismatch, InvalidInput, NotFound

NOW = datetime.now(UTC)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def shared(
    database_dsn: str, valkey_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[House]:
    home = tmp_path_factory.mktemp("memory")
    async with open_house(settings_for(database_dsn, valkey_url, home, lease_s=30.0)) as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="session")
async def house(shared: House) -> House:
    """With a workspace of the test's own."""
    shared.workspace = await shared.new_workspace()
    shared.model.away = False
    return shared


async def test_what_was_remembered_is_found_and_cited(house: House) -> None:
    (item,) = await house.remember(memory("Our roses come from Kenya.", tags=["roses"]))
    await house.remember(memory("The office is closed on Sundays."))
    answer = await house.recall(asked("where do the roses come from", k=1))
    assert [hit.item.id for hit in answer.hits] == [item.id]
    assert answer.hits[0].citation == f"mem:{item.id}"
    assert answer.packed == "[1] Our roses come from Kenya."
    parts = answer.hits[0].parts
    assert (parts.dense_rank, parts.text_rank) == (1, 1)
    assert not answer.degraded


async def test_the_same_words_are_kept_once(house: House) -> None:
    first = await house.remember(memory("Ships within two days.", client_id="a"))
    again = await house.remember(memory("ships  within two days."))
    assert [item.id for item in again] == [item.id for item in first]
    other_kind = await house.remember(memory("Ships within two days.", kind=MemoryKind.PREFERENCE))
    assert other_kind[0].id != first[0].id
    elsewhere = await house.remember(memory("Ships within two days.", contact("anna")))
    assert elsewhere[0].id != first[0].id
    twice = await house.remember(memory("Twice in a batch."), memory("Twice in a batch."))
    assert twice[0].id == twice[1].id


async def test_a_client_id_names_one_memory(house: House) -> None:
    first = await house.remember(memory("Returns are free.", client_id="returns"))
    again = await house.remember(memory("Returns are free.", client_id="returns"))
    assert again[0].id == first[0].id
    with pytest.raises(IdempotencyMismatch):
        await house.remember(memory("Returns cost 5 euros.", client_id="returns"))
    answer = await house.recall(asked("returns"))
    assert [hit.item.text for hit in answer.hits] == ["Returns are free."]


async def test_a_refused_batch_leaves_nothing(house: House) -> None:
    await house.remember(memory("Returns are free.", client_id="returns"))
    with pytest.raises(IdempotencyMismatch):
        await house.remember(
            memory("A good one."), memory("Returns cost 5 euros.", client_id="returns")
        )
    (good,) = await house.remember(memory("A good one."))
    assert good.text == "A good one."
    assert (await house.client.stats(house.workspace)).items == 2


@pytest.mark.parametrize("text", ["…", " !? ", "-"])
async def test_what_says_nothing_is_refused(house: House, text: str) -> None:
    with pytest.raises(InvalidInput):
        await house.remember(memory(text))


async def test_another_workspace_sees_nothing(house: House) -> None:
    (item,) = await house.remember(memory("Our secret ingredient is cardamom."))
    stranger = await house.new_workspace()
    assert (await house.recall(asked("secret ingredient"), stranger)).hits == []
    with pytest.raises(NotFound):
        await house.client.get(stranger, item.id, timeout_s=5)
    with pytest.raises(NotFound):
        await house.client.patch(stranger, item.id, MemoryPatch(pinned=True), timeout_s=5)
    # The very ids of the other's namespace do not help either.
    partition = await house.hosts.hosts["memory-host-0"].keeper.get(
        stranger, house.client._parts.vault.namespace_id(house.workspace, BRAND)
    )
    assert partition is None
    assert await house.client.cited(stranger, [str(item.id)]) == {}


async def test_namespaces_meet_only_where_a_query_names_both(house: House) -> None:
    await house.remember(
        memory("Anna likes tulips.", contact("anna")),
        memory("Ben likes tulips.", contact("ben")),
        memory("We sell tulips."),
    )
    both = await house.recall(asked("tulips", contact("anna"), BRAND, diversity=0.0))
    assert {hit.item.text for hit in both.hits} == {"Anna likes tulips.", "We sell tulips."}


async def test_filters_hold_together(house: House) -> None:
    old = NOW - timedelta(days=30)
    await house.remember(
        memory("tulips one", tags=["a", "b"], metadata={"n": 1, "vip": True}),
        memory("tulips two", tags=["a"], metadata={"n": 2}, importance=0.9),
        memory("tulips three", kind=MemoryKind.PREFERENCE, tags=["a"], created_at=old),
        memory("tulips four", tags=["b"], metadata={"vip": 1}),
    )

    async def found(**wanted: object) -> set[str]:
        answer = await house.recall(
            asked("tulips", filter=MemoryFilter(**wanted))  # type: ignore[arg-type]
        )
        return {hit.item.text.split()[1] for hit in answer.hits}

    assert await found() == {"one", "two", "three", "four"}
    assert await found(tags=["a"]) == {"one", "two", "three"}
    assert await found(tags=["a", "b"]) == {"one"}
    assert await found(metadata={"n": 2}) == {"two"}
    assert await found(metadata={"n": 2.0}) == {"two"}
    assert await found(metadata={"vip": True}) == {"one"}, "true is not 1"
    assert await found(kinds=[MemoryKind.PREFERENCE]) == {"three"}
    assert await found(created_before=NOW - timedelta(days=1)) == {"three"}
    assert await found(created_after=NOW - timedelta(days=1), tags=["a"]) == {"one", "two"}
    assert await found(min_importance=0.8) == {"two"}
    assert await found(tags=["nobody"]) == set()


async def test_words_are_stemmed_and_stop_words_find_nothing(house: House) -> None:
    await house.remember(memory("Kunden kaufen gerne Blumensträuße.", language="de"))
    await house.remember(memory("She was running late."))
    text = {"mode": SearchMode.TEXT}
    german = await house.recall(asked("Blumenstrauß kauft Kunde", language="de", **text))
    assert len(german.hits) == 1
    english = await house.recall(asked("runs", **text))
    assert [hit.item.text for hit in english.hits] == ["She was running late."]
    assert (await house.recall(asked("was she the of", **text))).hits == []


async def test_without_the_model_words_alone_are_used(house: House) -> None:
    await house.remember(memory("Parcels leave at noon."))
    house.model.away = True
    answer = await house.recall(asked("when do parcels leave"))
    assert [hit.item.text for hit in answer.hits] == ["Parcels leave at noon."]
    assert answer.degraded
    assert answer.reason is not None
    assert "words alone" in answer.reason


async def test_a_newer_statement_ends_the_older(house: House) -> None:
    def lives(place: str, since: datetime) -> object:
        return memory(
            f"Anna lives in {place}.",
            contact("anna"),
            statement=Statement(subject="Anna", attribute="city", value=place),
            valid_from=since,
        )

    paris = NOW - timedelta(days=400)
    rome = NOW - timedelta(days=10)
    (old,) = await house.remember(lives("Paris", paris))  # type: ignore[arg-type]
    (new,) = await house.remember(lives("Rome", rome))  # type: ignore[arg-type]
    # What comes late is older all the same.
    (late,) = await house.remember(lives("Oslo", paris - timedelta(days=900)))  # type: ignore[arg-type]
    now = await house.recall(asked("Anna lives", contact("anna")))
    assert [hit.item.id for hit in now.hits] == [new.id]
    then = await house.recall(
        asked("Anna lives", contact("anna"), filter=MemoryFilter(valid_at=NOW - timedelta(days=99)))
    )
    assert [hit.item.id for hit in then.hits] == [old.id]
    kept = await house.client.get(house.workspace, old.id, timeout_s=5)
    assert (kept.state, kept.superseded_by) == (MemoryState.SUPERSEDED, new.id)
    assert kept.valid_to == rome
    assert late.state is MemoryState.SUPERSEDED
    assert (await house.client.get(house.workspace, new.id, timeout_s=5)).history == [old.id]


async def test_near_duplicates_become_one_and_opposites_do_not(house: House) -> None:
    texts = (
        "Anna really likes red tulips in spring",
        "In spring Anna really likes red tulips",
        "Anna really does not like red tulips in spring",
        "Anna really likes red tulips in spring 2025",
    )
    weights = (0.5, 0.9, 0.5, 0.5)
    items = await house.remember(
        *(
            memory(text, contact("anna"), importance=weight)
            for text, weight in zip(texts, weights, strict=True)
        )
    )
    done = await house.client.consolidate(house.workspace, contact("anna"), timeout_s=20)
    assert (done.merged, done.complete) == (1, True)
    found = await house.recall(asked("Anna tulips", contact("anna"), diversity=0.0))
    assert len(found.hits) == 3
    survivor, gone = items[1], items[0]
    assert {hit.item.id for hit in found.hits} == {survivor.id, items[2].id, items[3].id}
    kept = await house.client.get(house.workspace, survivor.id, timeout_s=5)
    assert kept.history == [gone.id]
    old = await house.client.get(house.workspace, gone.id, timeout_s=5)
    assert (old.text, old.state, old.merged_into) == (
        texts[0],
        MemoryState.MERGED,
        survivor.id,
    )
    again = await house.client.consolidate(house.workspace, contact("anna"), timeout_s=20)
    assert again.merged == 0


async def test_pins_and_weights_change_and_last(house: House) -> None:
    (item,) = await house.remember(memory("The logo is green.", kind=MemoryKind.TURN))
    assert item.expires_at is not None
    changed = await house.client.patch(
        house.workspace, item.id, MemoryPatch(pinned=True, importance=0.95), timeout_s=5
    )
    assert (changed.pinned, changed.importance) == (True, 0.95)
    read = await house.client.get(house.workspace, item.id, timeout_s=5)
    assert (read.pinned, read.importance, read.text) == (True, 0.95, item.text)


async def test_what_expires_is_erased_unless_it_is_pinned(house: House) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=0.3)
    gone, kept = await house.remember(
        memory("Sale ends today.", expires_at=soon),
        memory("Sale of the century.", expires_at=soon, pinned=True),
    )
    host = house.hosts.hosts["memory-host-0"]
    await house.context.clock.sleep(0.4)
    answer = await house.recall(asked("sale"))
    assert [hit.item.id for hit in answer.hits] == [kept.id], "before any pass has run"
    await host._passes.round()
    with pytest.raises(NotFound):
        await house.client.get(house.workspace, gone.id, timeout_s=5)
    assert (await house.client.stats(house.workspace)).items == 1


async def test_a_budget_of_tokens_is_kept(house: House) -> None:
    await house.remember(*(memory(f"tulip fact number {n} " + "word " * n) for n in range(1, 9)))
    answer = await house.recall(asked("tulip fact", token_budget=30, diversity=0.0))
    assert answer.tokens <= 30
    assert answer.hits
    assert answer.left_out == 8 - len(answer.hits)
    assert answer.packed.count("\n") == len(answer.hits) - 1


async def test_what_was_exported_can_be_imported_elsewhere_twice(house: House) -> None:
    campaign = Namespace(kind=NamespaceKind.CAMPAIGN, id="spring")
    await house.remember(
        memory("Opened by 41 %.", campaign, kind=MemoryKind.OUTCOME, metadata={"rate": 0.41}),
        memory("Anna likes tulips.", contact("anna"), tags=["x"], pinned=True),
    )
    lines = b"".join(
        [page async for page in house.client.export(house.workspace, None, vectors=True)]
    )
    other = await house.new_workspace()
    house.model.away = True  # the vectors came along
    report = await house.client.import_(other, lines, timeout_s=20)
    assert (report.stored, report.repeated) == (2, 0)
    report = await house.client.import_(other, lines, timeout_s=20)
    assert (report.stored, report.repeated) == (0, 2)
    house.model.away = False
    (hit,) = (await house.recall(asked("tulips", contact("anna")), other)).hits
    assert (hit.item.tags, hit.item.pinned, hit.item.contacts) == (["x"], True, ["anna"])
    only = [page async for page in house.client.export(house.workspace, campaign, vectors=False)]
    assert b"".join(only).count(b"\n") == 1


async def test_an_import_names_the_line_that_is_wrong(house: House) -> None:
    good = b'{"namespace":{"kind":"workspace"},"kind":"fact","text":"One."}'
    with pytest.raises(InvalidInput) as caught:
        await house.client.import_(
            house.workspace, good + b"\n\n" + good.replace(b"fact", b"fable"), timeout_s=20
        )
    assert caught.value.details == {"field": "kind", "line": 3}


async def test_stats_count_the_workspace_alone(house: House) -> None:
    await house.remember(memory("One."), memory("Two.", contact("anna"), pinned=True))
    stats = await house.client.stats(house.workspace)
    assert (stats.items, stats.namespaces, stats.pinned) == (2, 2, 1)
    assert stats.by_kind == {"fact": 2}
    assert stats.shards == {"memory-host-0": 64}
    assert stats.bytes > 2 * 4 * 32


async def test_vectors_of_other_dimensions_are_refused(house: House) -> None:
    await house.remember(memory("Thirty-two dimensions."))
    with pytest.raises(InvalidInput) as caught:
        await house.remember(memory("Three dimensions.", vector=[1.0, 2.0, 3.0]))
    assert caught.value.details["field"] == "vector"
