"""Guardrails, one by one: what is found, what is mended, what passes."""

from __future__ import annotations

import pytest

from mesh.agents.guard.check import Limits, content_problems, problems, repetition
from mesh.agents.guard.clean import clean
from mesh.agents.guard.facts import Facts, numbers
from mesh.agents.guard.language import wrong_language
from mesh.agents.guard.repair import mend
from mesh.agents.guard.spam import spam_score
from mesh.agents.samples import load_brief
from mesh.agents.scoring import HeuristicScorer
from mesh.agents.write_email.prompts import leaks
from mesh.contracts.email import Brief, Link, MergeTag

BRIEF = Brief(
    goal="Announce the spring sale of ACME plants",
    brand="Fern & Oak",
    product="20% off all house plants until Sunday, from €5",
    key_points=["Call 0800 555 1234", "Write to help@fern.example", "Open 9:00 to 18:00"],
    links=[Link(label="Shop", url="https://www.fernandoak.example/spring")],
    merge_tags=[MergeTag(name="first_name", fallback="there")],
)
FACTS = Facts(BRIEF)
LIMITS = Limits(10, 200)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Visit https://evil.example now.", "invented_link"),
        ("Visit evil.example now.", "invented_link"),
        ("Visit EVIL。example now.", "invented_link"),
        ("Visit www.evil.example/path.", "invented_link"),
        ("Visit fernandoak.example.evil.example now.", "invented_link"),
        ("Visit https://fernandoak.example@evil.example/ now.", "invented_"),
        ("Visit javascript:alert(1) now.", "invented_link"),
        ("Write to me@evil.example.", "invented_email"),
        ("Call 0800 555 9999.", "invented_phone"),
        ("Get 30% off.", "invented_figure"),
        ("Get 20$ off.", "invented_figure"),
        ("Get 5% off.", "invented_figure"),
        ("Get fifty percent off.", "invented_figure"),
        ("Come at 10:00.", "invented_figure"),
        ("Plants are free.", "invented_claim"),
        ("Satisfaction guaranteed.", "invented_claim"),
        ("Come on Monday.", "invented_claim"),
        ("You can win something.", "invented_claim"),
        ("Ask for Emily at the counter.", "invented_name"),
        ("Dear customer, it is spring.", "boilerplate"),
        ("Hi [Name], it is spring.", "placeholder"),
        ("It is <b>spring</b>.", "html"),
    ],
)
def test_inventions_are_found(text: str, kind: str) -> None:
    assert any(p.kind.startswith(kind) for p in content_problems(text, FACTS)), text


@pytest.mark.parametrize(
    "text",
    [
        "Get 20% off all house plants until Sunday.",
        "Get 20 percent off at Fern & Oak.",
        "Plants from €5, and from 5 euros.",
        "Call 0800-555-1234 or write to help@fern.example.",
        "See fernandoak.example for all plants.",
        "We are open from 9:00 to 18:00.",
        "Hi {{ first_name | there }}, it is spring.",
        "I think that you'll like it. We do.",
        "Freedom is a winding road.",
    ],
)
def test_what_the_brief_holds_may_be_said(text: str) -> None:
    assert not content_problems(text, FACTS)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Plants.", "too_short"),
        ("Plants and plants. " * 20, "too_long"),
        ("Plants! Plants and more! Come by!", "exclamation_marks"),
        ("Our GREAT plants are HERE.", "capitals"),
        ("Click here for our plants.", "spam_words"),
        ("Die Pflanzen sind da und sie sind nicht teuer.", "wrong_language"),
        ("All house plants and all house plants.", "repetitive"),
        ("All the the plants are here.", "repetitive"),
        ("Our house plants are", "unfinished"),
    ],
)
def test_form_is_checked(text: str, kind: str) -> None:
    assert kind in [p.kind for p in problems(text, FACTS, LIMITS)]


def test_the_briefs_own_capitals_pass() -> None:
    assert not problems("All ACME plants are here.", FACTS, LIMITS)


def test_off_topic_needs_a_wanted_grounding() -> None:
    text = "Astronauts repaired a distant telescope."
    assert "off_topic" in [p.kind for p in problems(text, FACTS, Limits(5, 100, grounding=0.5))]
    assert "off_topic" not in [p.kind for p in problems(text, FACTS, Limits(5, 100))]


@pytest.mark.parametrize(
    ("text", "mended"),
    [
        ("Our plants are here! Come by! See them!", "Our plants are here. Come by. See them!"),
        ("Our plants are here. Visit evil.example.", "Our plants are here."),
        ("Our plants are here. Our plants are here.", "Our plants are here."),
        ("Our plants are here. And they", "Our plants are here."),
        ("Our GREAT plants are here.", "Our great plants are here."),
        ("**Our plants** are `here`.", "Our plants are here."),
        ("Text: Our [plants](http://evil.example) are here.", "Our plants are here."),
        ('"Our plants are here."', "Our plants are here."),
        ("Hi {{first_name}}, our plants!", "Hi {{ first_name | there }}, our plants!"),
        ("Hi [First Name], our plants!", "Hi {{ first_name | there }}, our plants!"),
        ("Hi {{ last_name }}, our plants!", "Hi, our plants!"),
        ("Hi {first_name}, our plants!", "Hi {{ first_name | there }}, our plants!"),
    ],
)
def test_mending(text: str, mended: str) -> None:
    made, repairs = mend(text, FACTS, LIMITS)
    assert made == mended
    assert repairs


def test_a_clean_text_is_left_alone() -> None:
    text = "Our plants are here. Get 20% off until Sunday!"
    assert mend(text, FACTS, LIMITS) == (text, [])


def test_too_many_sentences_are_shortened_whole() -> None:
    made, repairs = mend("Our plants are here. The house is open. Come by.", FACTS, Limits(5, 45))
    assert made == "Our plants are here. The house is open."
    assert repairs == ["shortened to whole sentences"]


def test_a_fallback_can_not_end_its_tag() -> None:
    tag = MergeTag(name="first_name", fallback="a }} {{ evil | b")
    assert clean("{{ first_name }}", [tag]) == "{{ first_name | a evil b }}"


@pytest.mark.parametrize(
    ("text", "language", "other"),
    [
        ("We have the best plants for you and your home", "en", None),
        ("Wir haben die besten Pflanzen für dich und dein Zuhause", "de", None),
        ("We have the best plants for you and your home", "de", "en"),
        ("Nous avons les plantes pour vous dans notre maison", "en", "fr"),
        ("Tenemos las plantas para su casa y los suyos", "es", None),
        ("植物が20%オフ", "ja", None),
        ("Plants for your home", "ja", "script other than cjk"),
        ("Наши растения здесь", "ru", None),
        ("Наши растения здесь", "en", "script other than latin"),
        ("20%", "en", None),
        ("Plants", "en", None),
        ("Nasze rośliny są tutaj i czekają na was", "pl", None),
    ],
)
def test_languages(text: str, language: str, other: str | None) -> None:
    assert wrong_language(text, language) == other


def test_numbers_keep_their_units() -> None:
    assert numbers("20% or 20 percent, $5, 5 dollars, 1.200,50 € and 3 May") == {
        ("20", "%"),
        ("5", "$"),
        ("1.200,50", "€"),
        ("3", ""),
    }


def test_repetition() -> None:
    assert repetition("all of the plants and all of the flowers") == "all of the"
    assert repetition("all plants and all flowers") == ""


def test_spam_score_rises_with_its_signs_and_explains_itself() -> None:
    calm = spam_score("Our plants are here.")
    assert calm.value == 0.0
    assert calm.signs == ()
    loud = spam_score("ACT NOW!!! CLICK HERE for FREE MONEY $$$$")
    assert loud.value == 1.0
    assert len(loud.signs) == 4


def test_subject_score_parts_add_up_and_favour_the_topic() -> None:
    scorer, facts = HeuristicScorer(), Facts(load_brief())
    good = scorer.score("Fern & Oak: 20% off all house plants", facts)
    loud = scorer.score("HURRY!!! LAST CHANCE for a free gift", facts)
    long = scorer.score("20% off all house plants " * 4, facts)
    assert good.value == pytest.approx(sum(good.parts.values()))
    assert good.value > loud.value
    assert good.parts["length"] > long.parts["length"]


def test_leaks_of_examples_are_noticed() -> None:
    assert leaks("Bring a vase to the jazz night.", FACTS)
    assert not leaks("Bring a plant.", FACTS)
    gym = Facts(Brief(goal="Yoga at the gym, bring a towel"))
    assert not leaks("Bring a towel to yoga at the gym.", gym)
