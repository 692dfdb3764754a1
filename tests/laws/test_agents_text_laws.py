"""Laws of the text tools: the stream reader of JSON, cleaning, and rendering."""

from __future__ import annotations

import html
import json
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.agents.guard.check import content_problems
from mesh.agents.guard.clean import clean, tag_text
from mesh.agents.guard.facts import Facts
from mesh.agents.json_text import JsonText
from mesh.agents.render import render_html, render_text, safe_url
from mesh.agents.templates import safe, shorten
from mesh.contracts.email import Block, Brief, Email, Link, MergeTag, Review, Strategy
from mesh.core.errors import InvalidInput

TAG = MergeTag(name="first_name", fallback='O\'Neil & <b>"co"')
ATTACK = st.text(
    alphabet=st.one_of(
        st.sampled_from(list("<>\"'&{}%|[]$*`/:;=!-_#@. \n")),
        st.characters(codec="utf-8"),
    ),
    max_size=60,
)
PIECES = st.lists(
    st.one_of(
        ATTACK,
        st.sampled_from(
            [
                "<script>alert(1)</script>",
                "</mj-text><mj-raw>",
                '"><img src=x onerror=alert(1)>',
                "javascript:alert(1)",
                "{{ api_key }}",
                "{{ first_name }}",
                "{{ first_name | there }}",
                "{% include 'x' %}",
                "{{{{ x }}}}",
                "<!--",
                "-->",
                "<![CDATA[",
                "]]>",
                "&lt;b&gt;",
                "[First Name]",
                "[[x]]",
                "*|FNAME|*",
                "%%name%%",
            ]
        ),
    ),
    min_size=1,
    max_size=5,
)
HOSTILE = PIECES.map("".join)


@settings(deadline=None)
@given(
    st.dictionaries(st.text(max_size=8), st.text(max_size=30), min_size=1, max_size=3),
    st.lists(st.integers(1, 6), min_size=1, max_size=20),
    st.booleans(),
)
def test_json_text_gives_the_values_however_it_is_cut(
    fields: dict[str, str], cuts: list[int], ascii_only: bool
) -> None:
    source = json.dumps(fields, ensure_ascii=ascii_only)
    parser, out, at = JsonText(), [], 0
    for i in range(len(source)):
        if at >= len(source):
            break
        step = cuts[i % len(cuts)]
        out.append(parser.feed(source[at : at + step]))
        at += step
    assert parser.complete
    assert parser.fields == fields
    assert "".join(out) == "\n".join(fields.values())


@settings(deadline=None)
@given(st.text(max_size=80))
def test_json_text_never_raises_and_shows_a_prefix_of_broken_json(text: str) -> None:
    whole = json.dumps({"text": text})
    for end in range(0, len(whole), 7):
        parser = JsonText()
        parser.feed(whole[:end])
        assert text.startswith(parser.fields.get("text", ""))
    JsonText().feed(text)


@settings(max_examples=300, deadline=None)
@given(HOSTILE)
def test_cleaning_is_idempotent_and_leaves_no_syntax(text: str) -> None:
    once = clean(text, [TAG])
    assert clean(once, [TAG]) == once
    rest = once.replace(tag_text(TAG), "")
    assert not re.search(r"[{}]|\$\{|%%|\*\||\|\*|<[a-zA-Z/!?]|\[\[", rest)
    assert "\n" not in once


@pytest.mark.parametrize(
    "text",
    [
        "[x" * 1_300 + "]" * 1_300,
        "{" * 4_000,
        "{{" + " " * 3_000 + "x",
        "a-" * 2_000,
        "a" * 4_000,
        "1 " * 2_000,
        "<a" * 2_000,
        "a." * 2_000,
        "((((" * 1_000 + "1" * 100,
        "`[" * 2_000,
    ],
    ids=lambda t: t[:6],
)
@pytest.mark.timeout(20)
def test_hostile_shapes_take_no_time_to_speak_of(text: str) -> None:
    brief = Brief(goal=text[:4_000], product=text[:1_000], merge_tags=[TAG])
    facts = Facts(brief)
    content_problems(text, facts)
    assert not re.search(r"[{}]", safe(text, facts).replace(tag_text(TAG), ""))


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.hrefs: list[str] = []
        self.events: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "href":
                self.hrefs.append(value or "")
            if name.startswith("on"):
                self.events.append(name)

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def _email(text: str, url: str = "https://a.example/?a=1&b=2") -> Email:
    line = text.strip() or "x"
    return Email(
        subject=line[:90],
        subject_candidates=["x"],
        preheader=line[:140],
        blocks=[
            Block(kind="heading", text=text[:1_200]),
            Block(kind="paragraph", text=text[:1_200]),
            Block(kind="bullets", items=[text[:1_200], "y"]),
            Block(kind="button", text=text[:1_200], url=url),
        ],
        strategy=Strategy(objective="x", angle="x", call_to_action="x"),
        review=Review(approved=True, spam_score=0.0),
        language="en",
        merge_tags=[TAG],
    )


def _read(source: str) -> _Reader:
    reader = _Reader()
    reader.feed(source)
    reader.close()
    return reader


PLAIN = _read(render_html(_email("x")))


@settings(max_examples=300, deadline=None)
@given(HOSTILE)
def test_no_text_changes_the_structure_of_the_html(text: str) -> None:
    reader = _read(render_html(_email(text)))
    breaks = reader.tags.count("br")
    assert [t for t in reader.tags if t != "br"] == PLAIN.tags
    assert breaks == text[:1_200].count("\n")
    assert reader.hrefs == ["https://a.example/?a=1&b=2"]
    assert not reader.events


@settings(max_examples=200, deadline=None)
@given(HOSTILE)
def test_only_our_merge_tags_reach_the_mailing_system(text: str) -> None:
    email = _email(text)
    escaped = html.escape(tag_text(TAG), quote=True)
    assert "{" not in re.sub(
        r"<style.*?</style>", "", render_html(email).replace(escaped, ""), flags=re.DOTALL
    )
    plain = render_text(email).replace(tag_text(TAG), "")
    assert not re.search(r"\{\{|\{%|\$\{|\*\||%%", plain)


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet=st.characters(codec="utf-8"), min_size=1, max_size=40))
def test_the_subject_is_the_title_and_the_label_as_it_is(text: str) -> None:
    subject = re.sub(r"\s+", " ", re.sub(r"[^\w\s.,’'\"<&\\-]", "", text)).strip() or "x"
    reader = _Reader()
    labels: list[str | None] = []
    reader.handle_starttag = lambda tag, attrs: labels.extend(  # type: ignore[method-assign]
        value for name, value in attrs if name == "aria-label"
    )
    reader.feed(render_html(_email("x").model_copy(update={"subject": subject})))
    assert labels == [subject]


def test_merge_tags_survive_rendering() -> None:
    email = _email("Hi {{ first_name }}, and {{ first_name | x }}; not {{ other | y }}")
    escaped = html.escape(tag_text(TAG), quote=True)
    assert escaped == "{{ first_name | O&#x27;Neil &amp; b&quot;co&quot; }}"
    assert render_html(email).count(escaped) == 10  # two in each of four blocks and the preview
    assert tag_text(TAG) in render_text(email)


@settings(max_examples=200, deadline=None)
@given(
    st.one_of(
        st.text(max_size=40),
        st.sampled_from(
            [
                "javascript:alert(1)",
                "JaVaScRiPt:alert(1)",
                " java\nscript:alert(1)",
                "data:text/html,<script>",
                "vbscript:x",
                "//evil.example",
                "/path",
                "",
                "ftp://a.example",
            ]
        ),
        st.text(max_size=20).map(lambda t: "https://a.example/" + t),
        st.text(max_size=20).map(lambda t: "mailto:a@b.example?subject=" + t),
    )
)
def test_addresses_are_http_https_or_mailto_and_stay_in_their_quotes(url: str) -> None:
    try:
        address = safe_url(url)
    except InvalidInput:
        return
    assert re.match(r"(?i)(https?|mailto):", address)
    assert not re.search(r"[\s\"'<>`\\{}|]", address)
    reader = _read(render_html(_email("x", url)))
    assert reader.hrefs == [address]


@settings(max_examples=200, deadline=None)
@given(HOSTILE, HOSTILE, HOSTILE)
def test_words_of_a_brief_are_safe_to_send(goal: str, product: str, point: str) -> None:
    keep = lambda t, n: re.sub(r"[\x00\ud800-\udfff]", "", t)[:n] or "xyz"  # noqa: E731
    brief = Brief(
        goal=keep(goal, 400).ljust(3, "."),
        product=keep(product, 400),
        links=[Link(label="Go", url="https://a.example/")],
        merge_tags=[TAG],
    )
    facts = Facts(brief)
    for text in (goal, product, point):
        made = safe(text, facts)
        assert not content_problems(made, facts)
        assert not re.search(r"[{}]", made.replace(tag_text(TAG), ""))


@settings(deadline=None)
@given(st.text(max_size=80), st.integers(2, 60))
def test_shortening_keeps_to_the_limit(text: str, limit: int) -> None:
    made = shorten(text, limit)
    assert len(made) <= limit
    if len(text) <= limit:
        assert made == text
