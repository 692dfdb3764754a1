"""Personal data, preferences from the memory, and the agents that use them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from agents_memory import BRAND, WORKSPACE, ListedMemory, contact, hit
from agents_support import GOOD, MemoryJournal, Recorder, ScriptedModel, run_kind, shown, write

from mesh.agents.guard.check import content_problems
from mesh.agents.guard.facts import Facts
from mesh.agents.guard.personal import foreign, is_card, is_iban, known_keys, mask, personal_data
from mesh.agents.personaliser.second_person import sensitive, to_reader
from mesh.agents.preferences import Remembered, sort_out
from mesh.agents.samples import load_brief
from mesh.agents.services import AgentServices
from mesh.contracts.memory import MemoryKind
from mesh.contracts.tasks import TaskKind
from mesh.core.errors import InvalidInput, Unavailable

FACT, WISH = MemoryKind.FACT, MemoryKind.PREFERENCE
ANNA = contact("anna")
EMAIL = {
    "subject": "Spring sale at Fern & Oak",
    "preheader": "20% off all house plants",
    "blocks": [
        {"kind": "heading", "text": "Spring sale"},
        {"kind": "paragraph", "text": "Hi {{ first_name | there }},"},
        {"kind": "paragraph", "text": "House plants are cheap now. They cost 20% less."},
        {"kind": "button", "text": "See the plants", "url": "https://fernandoak.example/s"},
    ],
    "merge_tags": [{"name": "first_name", "fallback": "there"}],
}


class Lines:
    """A model that answers each question with the next line."""

    def __init__(self, *lines: str) -> None:
        self.lines = list(lines)
        self.asked: list[str] = []

    async def stream_chat(
        self, body: dict[str, Any], *, timeout_s: float, traceparent: str | None = None
    ) -> AsyncIterator[dict[str, Any]]:
        self.asked.append(body["messages"][-1]["content"])
        text = json.dumps({"text": self.lines.pop(0) if self.lines else "…"})
        yield {"choices": [{"delta": {"content": text}, "finish_reason": "stop"}]}


def test_personal_data_is_found_by_form_and_check_digits() -> None:
    text = (
        "Anna, anna@shop.example, +49 170 1234567, IBAN DE89 3704 0044 0532 0130 00 and card "
        "4111-1111-1111-1111; order 4111111111111112 of 12.05.2026, 1,299.00 euros"
    )
    assert [(x.kind, x.key) for x in personal_data(text)] == [
        ("email", "anna@shop.example"),
        ("phone", "491701234567"),
        ("iban", "DE89370400440532013000"),
        ("card", "4111111111111111"),
    ]
    assert is_card("5500005555555559")
    assert not is_card("0000000000000000")
    assert is_iban("GB29NWBK60161331926819")
    assert not is_iban("GB29NWBK60161331926818")


def test_masking_leaves_what_is_known_but_never_a_card() -> None:
    known = known_keys("Call +49 170 1234567, pay to DE89370400440532013000 or 4111111111111111")
    text = "Call +49 1701234567 or +49 170 7654321. DE89 3704 0044 0532 0130 00, 4111111111111111"
    masked, hidden = mask(text, known)
    assert [x.kind for x in hidden] == ["phone", "card"]
    assert "7654321" not in masked
    assert "4111" not in masked
    assert "1701234567" in masked
    assert mask(masked, known) == (masked, [])
    assert foreign("nothing here", known) == []


def test_a_text_may_hold_no_card_and_no_foreign_iban() -> None:
    facts = Facts(load_brief())
    for text in ("Pay 4111 1111 1111 1111.", "Send it to DE89 3704 0044 0532 0130 00."):
        assert "personal_data" in {x.kind for x in content_problems(text, facts)}


def test_memory_vouches_for_claims_but_never_for_addresses() -> None:
    facts = Facts(load_brief(), memory=("Free delivery from 30 euros", "Ask boss@evil.example"))
    assert not content_problems("Delivery is free from 30 euros.", facts)
    assert content_problems("Delivery is free from 40 euros.", facts)
    assert content_problems("Write to boss@evil.example.", facts)
    assert content_problems("Delivery is free from 30 euros.", Facts(load_brief()))


def test_preferences_are_read_by_closed_patterns() -> None:
    known = sort_out(
        [
            hit("Greeting: Servus", WISH),
            hit('Sign off with "Your Fern & Oak team"', WISH),
            hit("Never use the words 'cheap' and 'bargain'", WISH),
            hit("Avoid: hurry, last chance", WISH),
            hit("Tone: formal", WISH),
            hit("Prefers emails in German", WISH),
            hit("Likes long walks", WISH),
            hit("Free delivery from 30 euros", FACT),
        ],
        [BRAND],
    )
    assert known.greeting is not None
    assert known.greeting.value == "Servus"
    assert known.sign_off is not None
    assert known.sign_off.value == "Your Fern & Oak team"
    assert {c.value for c in known.banned} == {"cheap", "bargain", "hurry", "last chance"}
    assert known.tone is not None
    assert known.tone.value == "formal"
    assert known.language is not None
    assert known.language.value == "de"
    assert [c.value for c in known.facts] == ["Free delivery from 30 euros"]
    assert len(known.refused) == 1
    assert (
        Remembered.from_output(json.loads(json.dumps(known.to_output()))).cites() == known.cites()
    )
    assert all(cite.startswith("mem:") for cite in known.cites())


def test_a_contact_wins_over_the_brand_and_strangers_are_refused() -> None:
    known = sort_out(
        [
            hit("Greeting: Hello", WISH, score=0.9),
            hit("Greeting: Hey", WISH, ANNA, score=0.1),
            hit("Likes ferns", FACT, contact("bob")),
            hit("Bob likes roses", FACT, BRAND, contacts=["bob"]),
        ],
        [ANNA, BRAND],
    )
    assert known.greeting is not None
    assert known.greeting.value == "Hey"
    assert known.facts == ()
    assert [r.split(": ")[1] for r in known.refused] == [
        "about another contact",
        "of another namespace",
    ]


@pytest.mark.parametrize(
    ("fact", "said"),
    [
        ("Bought a monstera in March", "You bought a monstera in March."),
        ("The customer likes succulents.", "You like succulents."),
        (
            "Anna has two cats and her balcony is sunny",
            "You have two cats and your balcony is sunny.",
        ),
        ("She prefers evening classes", "You prefer evening classes."),
        ("You like tea", "You like tea."),
        ("Tall, friendly", ""),
        ("Likes tea. Hates coffee.", ""),
        ("is", ""),
    ],
)
def test_a_fact_is_said_to_the_reader_or_not_at_all(fact: str, said: str) -> None:
    assert to_reader(fact) == said


def test_delicate_facts_are_known() -> None:
    assert sensitive("Was diagnosed with diabetes")
    assert sensitive("Goes to church on Sundays")
    assert not sensitive("Likes ferns")


async def test_the_brand_s_memory_shapes_an_email_and_is_cited() -> None:
    wishes = (
        hit("Greeting: Servus", WISH),
        hit("Sign off with 'Your plant people'", WISH),
        hit("Never use the word 'lovely'", WISH),
        hit("Tone: warm", WISH),
        hit("House plants come with free repotting", FACT),
    )
    memory = ListedMemory(*wishes)
    answers = {**GOOD, "closing": "Have a lovely look at the spring plants."}
    model = ScriptedModel(
        lambda piece, n: answers[piece] if n == 0 else GOOD[piece]  # the banned word is refused
    )
    journal, writer = MemoryJournal(), Recorder()
    result = await write(
        model, services=AgentServices(memory=memory), journal=journal, writer=writer
    )
    texts = [b.text for b in result.email.blocks]
    assert "Servus {{ first_name | there }}," in texts
    assert texts[-2] == "Your plant people"
    assert result.email.blocks[-1].kind == "button"
    assert "lovely" not in result.text
    bullets = next(b for b in result.email.blocks if b.kind == "bullets")
    assert "House plants come with free repotting" in bullets.items
    assert not result.degraded
    steps = await journal.finished()
    recalled = next(d for d in steps["strategy"].decisions if d.what == "memory")
    assert set(recalled.cites) == {h.citation for h in wishes}
    used = next(d for d in steps["body"].decisions if d.what == "from_memory")
    assert set(used.cites) == {wishes[0].citation, wishes[1].citation, wishes[4].citation}
    assert any("warm" in b["messages"][0]["content"] for b in model.bodies)
    assert all(workspace == WORKSPACE for workspace, _ in memory.queries)
    assert shown(writer.events)["body"].endswith("See the spring plants")


async def test_memory_is_not_read_against_the_task_s_will_and_its_failure_is_said() -> None:
    memory = ListedMemory(hit("Greeting: Servus", WISH))
    services = AgentServices(memory=memory)
    plain = await write(ScriptedModel(), services=services, use_memory=False)
    assert memory.queries == []
    journal = MemoryJournal()
    away = AgentServices(memory=ListedMemory(error=Unavailable("away")))
    assert (await write(ScriptedModel(), services=away, journal=journal)).email == plain.email
    decision = next(
        d for d in (await journal.finished())["strategy"].decisions if d.what == "memory"
    )
    assert "unavailable" in decision.reason.lower()
    assert decision.cites == []


async def test_a_resumed_task_rests_on_the_same_memory() -> None:
    journal = MemoryJournal()
    first = AgentServices(memory=ListedMemory(hit("Greeting: Servus", WISH)))
    await write(ScriptedModel(), services=first, journal=journal)
    kept = await journal.finished()
    half = MemoryJournal()
    await half.commit(kept["strategy"])
    other = AgentServices(memory=ListedMemory(hit("Greeting: Moin", WISH)))
    result = await write(ScriptedModel(), services=other, journal=half)
    assert "Servus {{ first_name | there }}," in [b.text for b in result.email.blocks]


async def test_personalise_says_what_it_knows_and_cites_it() -> None:
    facts = (hit("Bought a monstera in March", FACT, ANNA), hit("Greeting: Servus", WISH, ANNA))
    model = Lines("You bought a monstera in March, and now there is a spring sale at Fern & Oak.")
    result = await run_kind(
        TaskKind.PERSONALISE,
        {"email": EMAIL, "contact_id": "anna"},
        model,
        services=AgentServices(memory=ListedMemory(*facts)),
    )
    assert result.changed
    assert not result.degraded
    blocks = result.email.blocks
    assert blocks[1].text == "Servus {{ first_name | there }},"
    assert blocks[2].text.startswith("You bought a monstera")
    for statement in result.statements:
        assert statement.text in blocks[statement.block].text
    assert {c for s in result.statements for c in s.cites} == {h.citation for h in facts}
    assert blocks[-1].url == "https://fernandoak.example/s"
    assert "monstera" in result.html
    assert "monstera" in result.text


async def test_a_model_that_invents_is_replaced_by_the_plain_sentence() -> None:
    model = Lines("You won 500 euros!", "Visit us, your friend Bob is here too.")
    result = await run_kind(
        TaskKind.PERSONALISE,
        {"email": EMAIL, "contact_id": "anna"},
        model,
        services=AgentServices(memory=ListedMemory(hit("Likes ferns", FACT, ANNA))),
    )
    assert result.degraded
    assert [s.text for s in result.statements] == ["You like ferns."]


async def test_delicate_and_foreign_facts_stay_unsaid() -> None:
    hits = (
        hit("Was diagnosed with diabetes", FACT, ANNA),
        hit("Bought a kettle", FACT, contact("bob")),
        hit("Pays with card 4111 1111 1111 1111", FACT, ANNA),
    )
    result = await run_kind(
        TaskKind.PERSONALISE,
        {"email": EMAIL, "contact_id": "anna"},
        Lines(),
        services=AgentServices(memory=ListedMemory(*hits, leaky=True)),
    )
    assert not result.changed
    assert result.cites == []
    assert result.email.model_dump()["blocks"][2]["text"] == EMAIL["blocks"][2]["text"]  # type: ignore[index]


async def test_words_that_a_reader_avoids_go_from_the_paragraphs() -> None:
    wish = hit("Avoid the word cheap", WISH, ANNA)
    result = await run_kind(
        TaskKind.PERSONALISE,
        {"email": EMAIL, "contact_id": "anna"},
        Lines(),
        services=AgentServices(memory=ListedMemory(wish)),
    )
    assert "cheap" not in result.text
    assert "They cost 20% less." in result.text
    assert wish.citation in result.cites


async def test_what_is_no_email_is_refused_at_the_door() -> None:
    bad = {**EMAIL, "blocks": [{"kind": "button", "text": "x", "url": "javascript:alert(1)"}]}
    for given in (
        {"email": bad, "contact_id": "anna"},
        {"email": EMAIL},
        {"email": EMAIL, "contact_id": ""},
    ):
        with pytest.raises(InvalidInput):
            await run_kind(TaskKind.PERSONALISE, given, Lines())
