"""Fallback texts, made of the brief's own words: what answers when the model can't.

They claim nothing that the brief does not say. Languages without phrases of ours get the brief's
words bare.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from mesh.agents.guard.check import content_problems
from mesh.agents.guard.clean import clean, tag_text
from mesh.agents.guard.facts import Facts
from mesh.agents.guard.injection import before_marks, signs
from mesh.agents.guard.repair import sentences
from mesh.contracts.email import MergeTag


@dataclass(frozen=True, slots=True)
class Phrases:
    """Fixed words of a language. ``{x}`` takes the topic, the brand or the tag."""

    hello: str
    hello_to: str
    news_from: str
    about: str
    at: str
    opening: str
    closing: str
    button: str


PHRASES: dict[str, Phrases] = {
    "en": Phrases(
        "Hello,",
        "Hi {x},",
        "News from {x}",
        "About {x}",
        "{topic} at {brand}",
        "We have news to share with you.",
        "Thank you for reading. We look forward to hearing from you.",
        "Find out more",
    ),
    "de": Phrases(
        "Hallo,",
        "Hallo {x},",
        "Neues von {x}",
        "Zum Thema: {x}",
        "{topic} bei {brand}",
        "Wir haben Neuigkeiten für dich.",
        "Danke fürs Lesen. Wir freuen uns auf dich.",
        "Mehr erfahren",
    ),
    "fr": Phrases(
        "Bonjour,",
        "Bonjour {x},",
        "Des nouvelles de {x}",
        "À propos : {x}",
        "{topic} chez {brand}",
        "Nous avons des nouvelles à partager avec vous.",
        "Merci de votre lecture. Au plaisir de vous retrouver.",
        "En savoir plus",
    ),
    "es": Phrases(
        "Hola:",
        "Hola, {x}:",
        "Novedades de {x}",
        "Sobre {x}",
        "{topic} en {brand}",
        "Tenemos novedades para ti.",
        "Gracias por leernos. Te esperamos.",
        "Más información",
    ),
    "it": Phrases(
        "Ciao,",
        "Ciao {x},",
        "Novità da {x}",
        "A proposito di {x}",
        "{topic} da {brand}",
        "Abbiamo novità per te.",
        "Grazie per la lettura. Ti aspettiamo.",
        "Scopri di più",
    ),
    "pt": Phrases(
        "Olá,",
        "Olá {x},",
        "Novidades de {x}",
        "Sobre {x}",
        "{topic} em {brand}",
        "Temos novidades para você.",
        "Obrigado pela leitura. Esperamos por você.",
        "Saiba mais",
    ),
    "nl": Phrases(
        "Hallo,",
        "Hallo {x},",
        "Nieuws van {x}",
        "Over {x}",
        "{topic} bij {brand}",
        "We hebben nieuws voor je.",
        "Bedankt voor het lezen. We horen graag van je.",
        "Meer weten",
    ),
}
TONES: dict[str, tuple[str, str, str]] = {
    "formal": (
        "Good day {x},",
        "We are pleased to inform you of the following.",
        "We kindly thank you for your attention.",
    ),
    "urgent": (
        "Hi {x},",
        "Please read this now.",
        "Please don't wait: we look forward to hearing from you.",
    ),
    "playful": ("Hey {x},", "Guess what: we have news.", "See you, and bring a smile!"),
    "inspiring": (
        "Hi {x},",
        "Every good thing begins with a first step.",
        "Take the first step together with us.",
    ),
    "informative": ("Hello {x},", "Here is what is new.", "You find all details above."),
}
"""Greeting, opening and closing of the tones that English has other words for than friendly."""

BARE = Phrases("", "{x},", "{x}", "{x}", "{topic} – {brand}", "", "", "→")
"""For other languages: only the brief's words and marks."""

_GREETED = ("first_name", "firstname", "name", "given_name", "full_name", "contact_name")
_IMPERATIVE = re.compile(
    r"^(?:please\s+)?(?:announce|promote|introduce|launch|advertise|present|share|highlight|"
    r"invite (?:\w+ ){0,6}?to|tell (?:\w+ ){0,6}?about|remind (?:\w+ ){0,6}?(?:about|of|to)|"
    r"get (?:\w+ ){0,6}?to|let (?:\w+ ){0,6}?know(?: about| that)?|"
    r"inform (?:\w+ ){0,6}?(?:about|of)|"
    r"write (?:\w+ ){0,6}?(?:about|for)|encourage (?:\w+ ){0,6}?to|thank (?:\w+ ){0,6}?for)\s+",
    re.IGNORECASE,
)


def phrases(language: str, tone: str = "") -> Phrases:
    """``tone``: one word; English alone has phrases by tone."""
    found = PHRASES.get(language[:2], BARE)
    if language[:2] == "en" and (own := TONES.get(tone)):
        return replace(found, hello_to=own[0], opening=own[1], closing=own[2])
    return found


def tone_word(facts: Facts) -> str:
    """One plain word of the brief's tone: free text has no place in an instruction."""
    match = re.match(r"[a-z]{3,14}\b", facts.brief.tone.strip().lower())
    return match.group() if match else "friendly"


def safe(text: str, facts: Facts) -> str:
    """The brief's own words, fit to send: sentences with links, template syntax or orders to a
    model go."""
    known = facts.safe_texts.get(text)
    if known is None:
        honest = " ".join(s for s in sentences(before_marks(text)) if not signs(s))
        cleaned = clean(honest, facts.brief.merge_tags, labels=False)
        known = " ".join(s for s in sentences(cleaned) if not content_problems(s, facts))
        facts.safe_texts[text] = known
    return known


def shorten(text: str, limit: int) -> str:
    """At most ``limit`` characters, cut between words; merge tags stay whole or go."""
    if len(text) <= limit:
        return text
    words: list[str] = []
    length = 0
    for word in re.findall(r"\{\{[^{}]*\}\}\S*|\S+", text):
        if length + len(word) + bool(words) > limit - 1:
            break
        length += len(word) + bool(words)
        words.append(word)
    cut = " ".join(words).rstrip(" ,;:.-–—") or re.split(r"\{\{", text)[0][: limit - 1].strip()
    return f"{cut}…" if cut else ""


def topic(facts: Facts, limit: int = 60) -> str:
    """What the email is about, as a short phrase without a full stop."""
    brief = facts.brief
    for source in (brief.product, *brief.key_points, brief.goal):
        text = safe(source, facts)
        text = _IMPERATIVE.sub("", text)
        text = re.sub(r"^(?:our|the|a|an)\s+", "", text, flags=re.IGNORECASE)
        first = (sentences(text) or [""])[0].rstrip(" .!?,;:")
        if first:
            return shorten(first[0].upper() + first[1:], limit)
    return ""


def brand(facts: Facts) -> str:
    return shorten(safe(facts.brief.brand, facts), 50)


def greeting_tag(facts: Facts) -> MergeTag | None:
    tags = {tag.name: tag for tag in facts.brief.merge_tags}
    return next((tags[name] for name in _GREETED if name in tags), None)


def greeting(facts: Facts, preferred: str = "") -> str:
    """A line such as ``Hi {{ first_name | there }},``; empty where we have no words for it.

    ``preferred``: the word to greet with, from the memory."""
    words = phrases(facts.brief.language, tone_word(facts))
    tag = greeting_tag(facts)
    if preferred:
        # A greeting that names somebody already needs no tag.
        bare = tag is None or len(preferred.split()) > 2
        return f"{preferred}," if bare or tag is None else f"{preferred} {tag_text(tag)},"
    return words.hello_to.format(x=tag_text(tag)) if tag else words.hello


def subjects(facts: Facts) -> list[str]:
    """Up to five different lines within the subject's length, at least one."""
    words = phrases(facts.brief.language)
    name, about = brand(facts), topic(facts, 55)
    lines: list[str] = []
    if about and name and name.casefold() not in about.casefold():
        lines.append(words.at.format(topic=about, brand=name))
    if about:
        lines.append(about)
    if name:
        lines.append(words.news_from.format(x=name))
    lines += [shorten(safe(point, facts).rstrip(" ."), 70) for point in facts.brief.key_points]
    if about:
        lines.append(words.about.format(x=about))
    lines += [shorten(safe(link.label, facts), 70) for link in facts.brief.links]
    lines += [words.opening.rstrip("."), words.button]
    unique = {line.casefold(): line for line in reversed(lines) if 1 <= len(line) <= 90}
    return list(reversed(unique.values()))[:5]


def preheader(facts: Facts, subject: str) -> str:
    """The brief's points that the subject does not already say, as sentences."""
    words = phrases(facts.brief.language)
    said = subject.casefold()
    made = ""
    for source in (*facts.brief.key_points, facts.brief.product):
        text = safe(source, facts)
        if not text or text.casefold().rstrip(".") in said:
            continue
        longer = f"{made} {sentence(text)}".strip()
        if made and len(longer) > 110:
            break
        made = shorten(longer, 110)
        if len(made) >= 40:
            break
    return made or words.opening or shorten(topic(facts, 100), 110) or "…"


def opening(facts: Facts) -> str:
    """A first paragraph: that there is news, and what it is about."""
    words = phrases(facts.brief.language, tone_word(facts))
    about, name = topic(facts, 90), brand(facts)
    if about and name and name.casefold() not in about.casefold():
        about = words.at.format(topic=about, brand=name)
    about = about or name
    return " ".join(x for x in (words.opening, sentence(about)) if x) or "…"


def closing(facts: Facts) -> str:
    return phrases(facts.brief.language, tone_word(facts)).closing


def button_label(facts: Facts, label: str) -> str:
    return shorten(safe(label, facts), 40) or phrases(facts.brief.language).button


def sentence(text: str) -> str:
    """With a full stop unless it ends in a mark already."""
    text = text.rstrip()
    return text if not text or text[-1] in ".!?…。！？:" else f"{text}."
