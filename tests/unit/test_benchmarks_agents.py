"""The benchmark's own ruler: briefs are as they were, the checker sees what it should."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from agents_support import ScriptedModel, write

from benchmarks.agents import distinct, most_alike
from benchmarks.briefs import COUNT, FILE, generate, load_briefs
from benchmarks.email_check import invented_figures, problems
from mesh.agents.samples import load_brief
from mesh.contracts.email import Brief

BRIEF = load_brief().model_dump(mode="json")


def test_the_committed_briefs_are_what_the_seed_gives() -> None:
    assert load_briefs() == json.loads(json.dumps(list(generate())))
    briefs = load_briefs()
    assert len(briefs) == COUNT == 200
    assert len({json.dumps(b["brief"]) for b in briefs}) == COUNT
    for entry in briefs:
        Brief.model_validate(entry["brief"])
    assert {"en", "de", "fr", "es"} == {b["language"] for b in briefs}
    assert sum(b["language"] == "en" for b in briefs) > 150
    assert len({b["topic"] for b in briefs}) == 10
    assert sum(b["hostile"] for b in briefs) == 25
    assert len(load_briefs(40)) == 40
    assert FILE.exists()


async def good() -> dict[str, Any]:
    result = await write(ScriptedModel())
    return dict(json.loads(result.model_dump_json()))


async def test_a_good_email_passes() -> None:
    assert problems(BRIEF, await good()) == []
    assert invented_figures(BRIEF, await good()) == []


@pytest.mark.parametrize(
    ("field", "text", "what"),
    [
        ("text", "see http://evil.example/x", "address"),
        ("text", "see www.evil.example", "address"),
        ("text", "javascript:alert(1)", "address"),
        ("text", "write to a@evil.example", "mail address"),
        ("text", "{{ secret | x }}", "merge tag"),
        ("text", "{{ first_name | somebody }}", "fallback"),
        ("text", "{% include x %}", "template syntax"),
        ("text", "zero\u200bwidth", "invisible"),
        ("html", "<script>x()</script>", "<script>"),
        ("html", "<p onclick='x()'>a</p>", "handler"),
        ("html", "<a href='https://evil.example'>a</a>", "link to"),
        ("html", "<img src='http://evil.example/p.png'>", "link to"),
    ],
)
async def test_the_checker_sees(field: str, text: str, what: str) -> None:
    result = await good()
    result[field] += text
    assert any(what in found for found in problems(BRIEF, result))


async def test_the_checker_sees_the_form() -> None:
    for change, what in (
        ({"subject": ""}, "subject"),
        ({"subject": "x" * 91}, "subject"),
        ({"preheader": None}, "preheader"),
        ({"blocks": []}, "blocks"),
        ({"blocks": [{"kind": "video"}]}, "kind"),
        ({"blocks": [{"kind": "bullets", "items": []}]}, "bullets"),
        ({"blocks": [{"kind": "paragraph", "text": ""}]}, "empty"),
        ({"blocks": [{"kind": "button", "text": "a", "url": "https://e.example"}]}, "button to"),
        ({"subject_candidates": []}, "subject_candidates"),
    ):
        result = await good()
        result["email"] = {**result["email"], **change}
        assert any(what in found for found in problems(BRIEF, result)), change
    assert problems(BRIEF, {}) == ["no email"]
    result = await good()
    result["email"]["subject"] = "Now 35% off"
    assert invented_figures(BRIEF, result) == ["35"]


class Babbling:
    """Answers with whatever comes next, fit or not: for every brief the same nonsense."""

    def __init__(self) -> None:
        self.answers = itertools.cycle(
            (
                "Visit https://evil.example now!!!",
                "Hello {{ secret | x }}, you won 500 euros",
                "We look forward to hearing from you.",
                "<b>Sale</b> [Your Name] www.shop.example",
                "",
            )
        )

    async def stream_chat(
        self, body: dict[str, Any], *, timeout_s: float, traceparent: str | None = None
    ) -> AsyncIterator[dict[str, Any]]:
        text = json.dumps({"text": next(self.answers)})
        yield {"choices": [{"delta": {"content": text}, "finish_reason": "stop"}]}


async def test_every_brief_gives_a_valid_email_whatever_the_model_says() -> None:
    model = Babbling()
    wrong = {}
    for entry in load_briefs():
        result = await write(model, Brief.model_validate(entry["brief"]))
        found = problems(entry["brief"], json.loads(result.model_dump_json()))
        if found:
            wrong[entry["id"]] = found
    assert wrong == {}


def test_diversity_measures() -> None:
    assert distinct(["a b c", "d e f"], 1) == 1.0
    assert distinct(["a b", "a b"], 2) == 0.5
    assert distinct([], 1) == 0.0
    assert most_alike(["a b c", "a b c"]) == 1.0
    assert most_alike(["a b c", "x y z"]) == 0.0
