"""The optimiser and the translator."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from agents_support import MemoryJournal, Recorder, run_kind, shown

from mesh.agents.optimiser.agent import FLOOR, rank
from mesh.agents.scoring import Estimate, HeuristicVariantScorer
from mesh.agents.services import AgentServices
from mesh.agents.translator.agent import GIVE_UP_AFTER, phrase, refusals
from mesh.agents.translator.protect import figure_problems, protect
from mesh.contracts.agents import OptimiseInput, Variant
from mesh.contracts.tasks import TaskKind
from mesh.core.errors import InvalidInput, Unavailable

VARIANTS = [
    {"id": "calm", "subject": "20% off all house plants until Sunday", "preheader": "Come by"},
    {"id": "loud", "subject": "BUY NOW!!! AMAZING DEAL", "preheader": ""},
]


def given(**changes: Any) -> OptimiseInput:
    return OptimiseInput.model_validate({"variants": VARIANTS, **changes})


async def test_the_calmer_variant_leads_and_the_reasons_are_given() -> None:
    journal = MemoryJournal()
    result = await run_kind(TaskKind.OPTIMISE, {"variants": VARIANTS}, journal=journal)
    best, worst = result.ranked
    assert (best.id, worst.id) == ("calm", "loud")
    for ranked in result.ranked:
        assert ranked.low < ranked.expected < ranked.high
    assert sum(r.share for r in result.ranked) == pytest.approx(1, abs=0.001)
    assert sum(r.best_probability for r in result.ranked) == pytest.approx(1, abs=0.001)
    assert any("spam signs" in why for why in worst.why)
    (decision,) = (await journal.finished())["optimise"].decisions
    assert decision.chosen == "calm"
    assert [c["text"] for c in decision.candidates] == ["calm", "loud"]
    again = await run_kind(TaskKind.OPTIMISE, {"variants": VARIANTS})
    assert again == result


async def test_results_outweigh_the_heuristic() -> None:
    tried = [
        {**VARIANTS[0], "sends": 2_000, "successes": 200},
        {**VARIANTS[1], "sends": 2_000, "successes": 500},
    ]
    result = await run_kind(TaskKind.OPTIMISE, {"variants": tried})
    assert result.ranked[0].id == "loud"
    assert result.decisive
    assert result.ranked[1].share >= FLOOR / (1 + FLOOR) - 0.001
    assert "500 of 2000" in result.ranked[0].why[0]


def test_more_sends_make_narrower_intervals() -> None:
    widths = []
    for sends in (0, 100, 10_000):
        variants = [
            Variant(id=x, subject="Spring sale", sends=sends, successes=sends // 5) for x in "ab"
        ]
        asked = given(variants=[v.model_dump() for v in variants])
        result = rank(asked, [Estimate(0.2, 60.0)] * 2, "test", 1)
        assert not result.decisive
        widths.append(result.ranked[0].high - result.ranked[0].low)
    assert widths == sorted(widths, reverse=True)


async def test_another_scorer_may_take_its_place_and_may_fail() -> None:
    class Scorer:
        name = "model-7"
        error: Exception | None = None

        async def estimate(
            self, variants: Sequence[Variant], given: OptimiseInput, *, timeout_s: float
        ) -> list[Estimate]:
            if self.error:
                raise self.error
            return [Estimate(0.1 if v.id == "calm" else 0.4, 500.0) for v in variants]

    scorer = Scorer()
    services = AgentServices(scorer=scorer)
    result = await run_kind(TaskKind.OPTIMISE, {"variants": VARIANTS}, services=services)
    assert (result.scorer, result.ranked[0].id) == ("model-7", "loud")
    scorer.error = Unavailable("away")
    result = await run_kind(TaskKind.OPTIMISE, {"variants": VARIANTS}, services=services)
    assert result.scorer == HeuristicVariantScorer.name


def test_clicks_look_at_the_body() -> None:
    scorer = HeuristicVariantScorer()
    button = {"kind": "button", "text": "Go", "url": "https://a.example"}
    text = {"kind": "paragraph", "text": "word " * 60}
    rates = {}
    for name, blocks in (
        ("one", [text, button]),
        ("none", [text]),
        ("many", [text, *[button] * 5]),
    ):
        variant = Variant.model_validate({"id": name, "subject": "Spring sale", "blocks": blocks})
        rates[name] = scorer.of(variant, given(goal="click")).rate
    assert rates["one"] > rates["many"] > rates["none"]


async def test_impossible_variants_are_refused() -> None:
    for wrong in (
        [VARIANTS[0]],
        [VARIANTS[0], VARIANTS[0]],
        [VARIANTS[0], {**VARIANTS[1], "sends": 1, "successes": 2}],
    ):
        with pytest.raises(InvalidInput):
            await run_kind(TaskKind.OPTIMISE, {"variants": wrong})


EMAIL = {
    "subject": "Our spring sale: 20% off all plants",
    "preheader": "Only until Sunday",
    "blocks": [
        {"kind": "heading", "text": "Spring sale"},
        {"kind": "paragraph", "text": "Hi {{ first_name | there }},"},
        {"kind": "paragraph", "text": "All plants are 20% cheaper at Fern & Oak. Come and see."},
        {"kind": "bullets", "items": ["Fresh plants from the region"]},
        {"kind": "button", "text": "Find out more", "url": "https://fernandoak.example/s"},
    ],
    "merge_tags": [{"name": "first_name", "fallback": "there"}],
}
GERMAN = {
    "Our spring sale: 20% off all plants": "Unser Frühlingsverkauf: 20% auf alle Pflanzen und mehr",
    "Only until Sunday": "Nur bis zum Sonntag für euch",
    "Spring sale": "Frühlingsverkauf",
    "All plants are 20% cheaper at T0. Come and see.": (
        "Alle Pflanzen sind bei T0 um 20% günstiger. Schaut auf einen Besuch bei uns vorbei."
    ),
    "Fresh plants from the region": "Frische Pflanzen aus der Region für euch",
}


class Dictionary:
    """Translates by a table; what is not in it stays English."""

    def __init__(self, table: dict[str, str]) -> None:
        self.table = table
        self.asked: list[str] = []

    async def stream_chat(
        self, body: dict[str, Any], *, timeout_s: float, traceparent: str | None = None
    ) -> AsyncIterator[dict[str, Any]]:
        question = body["messages"][-1]["content"]
        self.asked.append(question)
        text = json.dumps({"text": self.table.get(question, question)})
        yield {"choices": [{"delta": {"content": text}, "finish_reason": "stop"}]}


async def test_a_model_that_can_translate_gives_a_whole_email() -> None:
    model, writer = Dictionary(GERMAN), Recorder()
    result = await run_kind(
        TaskKind.TRANSLATE,
        {"email": EMAIL, "to": "de", "keep": ["Fern & Oak"]},
        model,
        writer=writer,
    )
    assert not result.degraded, [p for p in result.parts if not p.translated]
    assert result.email.language == "de"
    texts = [b.text for b in result.email.blocks]
    assert texts[1] == "Hallo {{ first_name | there }},"
    assert "Fern & Oak" in texts[2]
    assert texts[4] == "Mehr erfahren"
    assert result.email.blocks[4].url == "https://fernandoak.example/s"
    assert 'lang="de"' in result.html
    assert "T0" not in result.text
    # Longest first, so that a heading is trusted to a model that has shown what it can.
    assert len(model.asked[0]) == max(map(len, model.asked))
    assert "T0" not in shown(writer.events)["translate"]


async def test_a_model_that_can_not_translate_leaves_the_email_and_says_so() -> None:
    model = Dictionary({})
    result = await run_kind(TaskKind.TRANSLATE, {"email": EMAIL, "to": "de"}, model)
    assert result.degraded
    assert result.email.language == "en"
    assert result.email.subject == EMAIL["subject"]
    assert len(set(model.asked)) == GIVE_UP_AFTER
    left = {part.where: part.reason for part in result.parts if not part.translated}
    assert set(left) >= {"subject", "blocks.2.text", "blocks.0.text"}
    assert all(left.values())


def test_marks_and_figures_must_come_back_once() -> None:
    source = protect("Hi {{ name | you }}, see https://a.example/x at Oak & Co", ["Oak & Co"])
    assert source.text == "Hi T0, see T1 at T2"
    assert source.restore("T2: T1, T0") == "Oak & Co: https://a.example/x, {{ name | you }}"
    assert source.problems("Hallo T0, T1 bei T2") == []
    assert source.problems("T0 T0 T1 T3") == [
        "lost or doubled T0",
        "lost or doubled T2",
        "made up T3",
    ]
    assert figure_problems("1.5 kg, 20%", "20%, 1,5 kg") == []
    assert figure_problems("20%", "30%") == ["lost the figure 20", "made up the figure 30"]
    assert protect("Model T1 is here").restore("T0") == "T1"


def test_no_translation_is_seen_as_one() -> None:
    source = protect("Our plants are fresh and they come from the region.")
    assert refusals(source, "Our plants are fresh and they come from the region.", "en", "de")
    assert refusals(source, "Nos plantes sont fraîches et viennent de la région.", "en", "de")
    assert refusals(source, "plants region fresh", "en", "de")
    assert not refusals(
        source, "Unsere Pflanzen sind frisch und kommen aus der Region.", "en", "de"
    )


def test_phrases_of_our_templates_need_no_model() -> None:
    assert phrase("Find out more", "en", "fr") == "En savoir plus"
    assert phrase("Hi {{ a | b }},", "en", "es") == "Hola, {{ a | b }}:"
    assert phrase("Something else", "en", "fr") == ""
    assert phrase("Find out more", "en", "pl") == ""


async def test_the_same_language_is_refused() -> None:
    with pytest.raises(InvalidInput):
        await run_kind(TaskKind.TRANSLATE, {"email": EMAIL, "to": "en-GB"})
