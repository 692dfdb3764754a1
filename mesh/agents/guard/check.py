"""What is wrong with a text, seen from its brief. Pure; every finding names itself."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mesh.agents.guard import patterns as p
from mesh.agents.guard.clean import without_tags
from mesh.agents.guard.facts import CLAIM_PATTERNS, Facts, fold, numbers, stem
from mesh.agents.guard.injection import signs
from mesh.agents.guard.language import FUNCTION_WORDS, wrong_language
from mesh.agents.guard.personal import foreign
from mesh.agents.guard.spam import SPAM_WORDS, caps_words


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_ALWAYS_CAPITAL = _words("i i'm i'll i've i'd ok tv diy faq uk us")
_MAY_DOUBLE = _words("that had sie die nous vous")


@dataclass(frozen=True, slots=True)
class Limits:
    """What a piece of text must keep to."""

    min_chars: int
    max_chars: int
    sentences: bool = True
    """Whole sentences, or a single line such as a subject."""
    max_exclamations: int = 1
    grounding: float = 0.0
    """Least share of its content words that the brief holds."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One finding. ``mendable``: dropping the sentence or a mark takes it away."""

    kind: str
    what: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.what}" if self.what else self.kind


def content_problems(text: str, facts: Facts) -> list[Problem]:
    """What the text says that it must not say: inventions, placeholders, its own making."""
    plain = without_tags(text)
    folded = fold(plain)
    found: list[Problem] = []

    def add(kind: str, what: str = "") -> None:
        found.append(Problem(kind, what[:80]))

    for email in p.EMAIL.findall(folded):
        if email.rstrip(".") not in facts.emails:
            add("invented_email", email)
    rest = p.EMAIL.sub(" ", folded)
    for url in p.URL.findall(rest):
        if not _known_host(url, facts):
            add("invented_link", url)
    for match in p.DOMAIN.finditer(p.URL.sub(" ", rest)):
        if not _known_host(match.group(), facts):
            add("invented_link", match.group())
    for phone in p.PHONE.findall(folded):
        digits = re.sub(r"\D", "", phone)
        if len(digits) >= 7 and digits not in facts.phones:
            add("invented_phone", phone)
    for number, unit in sorted(numbers(plain)):
        known = (number, unit) in facts.figures if unit else number in facts.plain_figures
        if not known:
            add("invented_figure", number + unit)
    for match in p.NUMBER_WORDS.finditer(folded):
        if match.group() not in facts.folded:
            add("invented_figure", match.group())
    for index, pattern in enumerate(CLAIM_PATTERNS):
        if index not in facts.allowed_claims and (claim := pattern.search(folded)):
            word = claim.group()
            if not _day_of_weekend(word, facts):
                add("invented_claim", word)
    if what := says_what_the_brand_is(folded, facts):
        add("invented_claim", what)
    named = fold(" ".join((facts.brief.product, facts.brief.brand, *facts.memory)))
    boilerplate = p.BOILERPLATE.search(plain)
    if boilerplate and fold(boilerplate.group()) not in named:
        add("boilerplate", boilerplate.group())
    if facts.banned_words and (unwanted := facts.banned_words.search(folded)):
        add("banned_word", unwanted.group())
    for sign in signs(text):
        add("instruction", sign)
    for item in foreign(plain, facts.personal):
        if item.kind in ("card", "iban"):
            add("personal_data", item.kind)
    if p.PLACEHOLDER.search(p.MERGE_TAG.sub("", text)):
        add("placeholder")
    if p.HTML_TAG.search(text):
        add("html")
    for name in invented_names(plain, facts):
        add("invented_name", name)
    return found


def form_problems(text: str, facts: Facts, limits: Limits) -> list[Problem]:
    """What is wrong with its form: length, capitals, marks, repetition, language."""
    plain = without_tags(text)
    folded = fold(plain)
    found: list[Problem] = []
    if len(plain) < limits.min_chars:
        found.append(Problem("too_short", f"{len(plain)} of at least {limits.min_chars}"))
    # The tag's own text counts too: it is what lands in the field.
    if max(len(plain), len(text)) > limits.max_chars:
        found.append(Problem("too_long", f"{len(text)} of at most {limits.max_chars}"))
    if plain.count("!") > limits.max_exclamations:
        found.append(Problem("exclamation_marks", str(plain.count("!"))))
    caps = [w for w in caps_words(plain) if w not in facts.text]
    if caps:
        found.append(Problem("capitals", ", ".join(caps[:5])))
    spam = [w for w in SPAM_WORDS if w in folded and w not in facts.folded]
    if spam:
        found.append(Problem("spam_words", ", ".join(spam)))
    if other := wrong_language(plain, facts.brief.language):
        found.append(Problem("wrong_language", other))
    if repeated := repetition(folded):
        found.append(Problem("repetitive", repeated))
    if limits.sentences and plain and plain[-1] not in '.!?…。！？)"”’':
        found.append(Problem("unfinished", plain[-20:]))
    if limits.grounding and grounding(folded, facts) < limits.grounding:
        found.append(Problem("off_topic", f"{grounding(folded, facts):.2f}"))
    return found


def problems(text: str, facts: Facts, limits: Limits) -> list[Problem]:
    """Everything that is wrong with it; empty: it may go out."""
    return content_problems(text, facts) + form_problems(text, facts, limits)


def invented_names(plain: str, facts: Facts) -> list[str]:
    """Capitalised words inside sentences that the brief does not hold (Latin scripts).

    German capitalises every noun and title case every word, so there it says nothing.
    """
    if facts.brief.language.startswith("de"):
        return []
    names: list[str] = []
    words = 0
    for sentence in p.SENTENCE_END.split(plain):
        for index, match in enumerate(p.WORD.finditer(sentence)):
            word = match.group()
            words += 1
            opens = index == 0 or sentence[: match.start()].rstrip()[-1:] in {
                ":",
                "-",
                "–",
                "—",
                '"',
            }
            if opens or not word[0].isupper() or fold(word) in _ALWAYS_CAPITAL:
                continue
            if fold(word) not in facts.words and stem(fold(word)) not in facts.stems:
                names.append(word)
    if words and len(names) > 0.4 * words:
        return []
    return names


def repetition(folded: str) -> str:
    """A phrase of three words that comes twice, or one word that fills the text."""
    words = p.WORD.findall(folded)
    seen: set[tuple[str, ...]] = set()
    for i in range(len(words) - 2):
        triple = tuple(words[i : i + 3])
        if triple in seen:
            return " ".join(triple)
        seen.add(triple)
    for i in range(len(words) - 1):
        if words[i] == words[i + 1] and words[i] not in _MAY_DOUBLE:
            return f"{words[i]} {words[i]}"
    return ""


_COMMON = _words(
    "a an the and or but of to in on at for from with by as is are was be been it its this that "
    "these those you your we our us they their i my me he she his her will can may do does have "
    "has had not no so if when where how what which who all any more most some just up out about "
    "into over get there here now too also very come see find make take let's we're you'll it's "
    "we've you're there's don't what's i'm i'll shall few please each "
    "every new one two only both own while during next go would could should may might"
)
_NEUTRAL = _words(
    "hello welcome thank thanks enjoy join love like great good happy glad look forward visit "
    "discover offer offering available ready bring today shop store team customers friends "
    "friendly share help hope hear check explore browse feel want need meet try start pick choose "
    "time way day place back right best lot things everyone something everything looking hearing "
    "meeting seeing invite invited reading including includes comes featuring use using keep work "
    "working stay easily easy whole entire together receive learn know show give bit even "
    "kindly pleased note details page click away ready imagine wait smile begin step psst "
    "guess something excited soon ask asks appreciate greatly glad delighted touch "
    "right part tell read letter wish only"
)
"""Friendly words that claim nothing: neither for nor against a text."""


def grounding(folded: str, facts: Facts) -> float:
    """Share of content words whose stem the brief holds, 0 to 1; 1 when there are none."""
    own = FUNCTION_WORDS.get(facts.brief.language[:2], frozenset())
    skip = _COMMON | _NEUTRAL | own
    content = [w for w in p.WORD.findall(folded) if w not in skip]
    if not content:
        return 1.0
    return sum(stem(w) in facts.stems for w in content) / len(content)


_FIGURE_GROUNDING = 0.9
_DEFINES = re.compile(r"\b(?:is|are|was|were|it's|they're|being) (?:an?|the|one|only)\b")


def off_topic(sentence: str, facts: Facts, limits: Limits) -> bool:
    """Whether too little of the sentence comes from the brief.

    "X is a …" states something new about X, so it has to rest on the brief half as much again;
    and a figure among words that the brief does not hold is likely a figure of something else.
    """
    folded = fold(without_tags(sentence))
    needed = limits.grounding * (1.5 if _DEFINES.search(folded) else 1.0)
    if needed and facts.brief.language[:2] == "en" and numbers(folded):
        needed = max(needed, _FIGURE_GROUNDING)
    return grounding(folded, facts) < min(1.0, needed)


def says_what_the_brand_is(folded: str, facts: Facts) -> str:
    """ "Fern & Oak is a restaurant": the brand's nature is the brief's to state."""
    brand = fold(facts.brief.brand).strip()
    if len(brand) < 2:
        return ""
    match = re.search(rf"{re.escape(brand)}(?:,| (?:is|are|was|were)) (?:an?|the|one)\b", folded)
    return match.group() if match and match.group() not in facts.folded else ""


def _known_host(text: str, facts: Facts) -> bool:
    host = re.sub(r"^[a-z][a-z0-9+.-]*:/*", "", text).split("/")[0].split("?")[0].split("#")[0]
    return host.rstrip(".:,;!?)").removeprefix("www.") in facts.hosts and "@" not in host


def _day_of_weekend(claim: str, facts: Facts) -> bool:
    return claim == "weekend" and any(day in facts.folded for day in ("saturday", "sunday"))
