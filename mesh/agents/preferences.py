"""What the memory says about how a brand or a contact wants to be written to.

Memories are strangers' text: each is read by a few closed patterns, never handed to the model as
an instruction. What a pattern takes from it (a greeting, a word to avoid) must be short and
harmless. The rest are facts, which a text may rest on and must cite. Every use names its memory,
every refusal its reason.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

from mesh.agents.agent import StepContext
from mesh.agents.guard import patterns as p
from mesh.agents.guard.clean import clean
from mesh.agents.guard.injection import signs
from mesh.agents.guard.personal import personal_data
from mesh.contracts.memory import (
    MemoryFilter,
    MemoryHit,
    MemoryKind,
    MemoryQuery,
    Namespace,
    NamespaceKind,
)
from mesh.core.errors import MailyError

RECALL_TIMEOUT_S = 3.0
MAX_FACTS = 6
MAX_BANNED = 30
_WORDS = r"[\"'„“”‚‘’«»]?(?P<value>[^\"„“”«»\n]{1,120}?)[\"'“”’«»]?"
_PATTERNS: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (name, re.compile(pattern, re.IGNORECASE))
    for name, pattern in (
        (
            "greeting",
            r"^(?:(?:preferred )?(?:greeting|salutation|anrede)\s*(?:is)?\s*[:=]?|"
            r"(?:always )?(?:greet\w*|address)"
            r"(?: (?:them|him|her|customers|readers|people|me|us))? (?:with|as|by)|"
            r".{0,40}\b(?:likes|prefers|wants)"
            rf" to be (?:greeted|addressed) (?:with|as|by))\s*{_WORDS}[.!]?$",
        ),
        (
            "sign_off",
            r"^(?:(?:always )?(?:sign|close|end)(?: off)?(?: (?:emails?|letters?|mails?))? with|"
            r"(?:preferred )?(?:sign[- ]?off|signature|grußformel)\s*(?:is)?\s*[:=]?)"
            rf"\s*{_WORDS}[.!]?$",
        ),
        (
            "banned",
            r"^(?:(?:banned|forbidden|avoided?) (?:words?|phrases?)|avoid(?=\s*[:=])|(?:please )?"
            r"(?:never|don't|do not) (?:use|say|write|mention)(?: the)?"
            r"(?: words?| phrases?| terms?)?|"
            r"(?:please )?avoid(?: using| saying)?(?: the)? (?:words?|phrases?|terms?)|"
            r".{0,40}\b(?:dislikes|hates)(?: the)? (?:words?|phrases?))\s*[:=]?\s*"
            r"(?P<value>[\"'„“‚‘«].{1,160}|[\w-]{2,40}(?: [\w-]{2,40}){0,2}"
            r"(?:\s*,\s*[\w-]{2,40}(?: [\w-]{2,40}){0,2}){0,12})[.!]?$",
        ),
        (
            "tone",
            r"^(?:(?:preferred )?(?:tone|style|voice)(?: of voice)?\s*(?:is|should be)?\s*[:=]?|"
            r"(?:always )?write (?:in )?"
            r"(?:an? )?|.{0,40}\b(?:likes|prefers)(?: an?)?)\s*(?P<value>friendly|formal|"
            r"informal|playful|warm|"
            r"professional|casual|inspiring|urgent|calm|serious|humorous|polite|cheerful|"
            r"informative)"
            r"(?: (?:tone|style|voice|language|way|emails?|manner))?[.!]?$",
        ),
        (
            "language",
            r"^(?:(?:preferred )?language\s*(?:is)?\s*[:=]?|.{0,40}\b(?:prefers|wants|speaks|"
            r"reads)(?: to read)?"
            r"(?: emails?)?(?: in)?)\s*(?P<value>english|german|french|spanish|italian|"
            r"portuguese|dutch|[a-z]{2})"
            r"[.!]?$",
        ),
    )
)
_LANGUAGES = {
    "english": "en",
    "german": "de",
    "french": "fr",
    "spanish": "es",
    "italian": "it",
    "portuguese": "pt",
    "dutch": "nl",
}


@dataclass(frozen=True, slots=True)
class Cited:
    """A value and the memory that it was taken from."""

    value: str
    citation: str


@dataclass(frozen=True, slots=True)
class Remembered:
    """What was recalled, sorted by use. Values of a contact win over those of the workspace."""

    greeting: Cited | None = None
    sign_off: Cited | None = None
    tone: Cited | None = None
    language: Cited | None = None
    banned: tuple[Cited, ...] = ()
    facts: tuple[Cited, ...] = ()
    refused: tuple[str, ...] = ()
    """Citation and reason of each memory that was left aside."""
    failure: str = ""
    """Why nothing could be recalled; empty: it could."""
    degraded: bool = False
    """The memory answered with less than it holds."""

    def cites(self) -> list[str]:
        """Of everything that may shape a text, each once."""
        single = (self.greeting, self.sign_off, self.tone, self.language)
        used = [c.citation for c in single if c] + [c.citation for c in (*self.banned, *self.facts)]
        return list(dict.fromkeys(used))

    def to_output(self) -> dict[str, Any]:
        """For a step's output: later steps read it back, so all steps see the same memory."""

        def pair(cited: Cited | None) -> list[str] | None:
            return [cited.value, cited.citation] if cited else None

        return {
            "greeting": pair(self.greeting),
            "sign_off": pair(self.sign_off),
            "tone": pair(self.tone),
            "language": pair(self.language),
            "banned": [pair(c) for c in self.banned],
            "facts": [pair(c) for c in self.facts],
        }

    @classmethod
    def from_output(cls, data: Any) -> Remembered:
        """The counterpart; nothing remembered where a step kept none."""
        if not isinstance(data, dict):
            return cls()

        def cited(value: Any) -> Cited | None:
            return Cited(str(value[0]), str(value[1])) if value else None

        return cls(
            greeting=cited(data.get("greeting")),
            sign_off=cited(data.get("sign_off")),
            tone=cited(data.get("tone")),
            language=cited(data.get("language")),
            banned=tuple(c for c in map(cited, data.get("banned") or ()) if c),
            facts=tuple(c for c in map(cited, data.get("facts") or ()) if c),
        )


def namespaces_of(contact: str | None) -> list[Namespace]:
    """The brand's own, and the contact's when there is one."""
    brand = Namespace(kind=NamespaceKind.WORKSPACE)
    return [Namespace(kind=NamespaceKind.CONTACT, id=contact), brand] if contact else [brand]


async def recall(context: StepContext, query: str, contact: str | None) -> Remembered:
    """Ask the memory, twice: for preferences, which hold whatever the subject, and for facts that
    fit ``query``. Never raises for the memory's sake: an email without it is still an email."""
    memory, workspace = context.services.memory, context.task.workspace_id
    if not context.task.request.use_memory:
        return Remembered(failure="the task asked for no memory")
    if memory is None or workspace is None:
        return Remembered(failure="no memory here")
    namespaces = namespaces_of(contact)
    timeout = min(RECALL_TIMEOUT_S, context.deadline.remaining() - context.options.reserve_s)
    if timeout <= 0:
        return Remembered(failure="no time left for the memory")
    hits: list[MemoryHit] = []
    degraded = False
    try:
        for text, kinds, k in (
            ("how to write: greeting, sign-off, tone, words to avoid", [MemoryKind.PREFERENCE], 30),
            (query[:2_000].strip() or "facts", [MemoryKind.FACT, MemoryKind.PREFERENCE], 12),
        ):
            answer = await memory.recall(
                workspace,
                MemoryQuery(
                    text=text, namespaces=namespaces, filter=MemoryFilter(kinds=kinds), k=k
                ),
                timeout_s=timeout,
            )
            hits += answer.hits
            degraded = degraded or answer.degraded
    except MailyError as error:
        return Remembered(failure=f"the memory did not answer ({error.code})")
    return replace(sort_out(hits, namespaces, workspace), degraded=degraded)


def sort_out(
    hits: Sequence[MemoryHit], namespaces: Sequence[Namespace], workspace: UUID | None = None
) -> Remembered:
    """Which memory serves for what. ``namespaces``: the only ones whose memories may be used."""
    work = _Sorting()
    seen: set[str] = set()
    # The contact's own come first, so that they win; within a namespace the better hit wins.
    order = {(n.kind, n.id): i for i, n in enumerate(namespaces)}
    ranked = sorted(
        hits, key=lambda h: (order.get((h.item.namespace.kind, h.item.namespace.id), 99), -h.score)
    )
    contacts = {n.id for n in namespaces if n.kind is NamespaceKind.CONTACT}
    for hit in ranked:
        if hit.citation in seen:
            continue
        seen.add(hit.citation)
        item = hit.item
        if (item.namespace.kind, item.namespace.id) not in order:
            work.refused.append(f"{hit.citation}: of another namespace")
        elif item.contacts and not contacts.issuperset(item.contacts):
            work.refused.append(f"{hit.citation}: about another contact")
        else:
            work.take(item.text, item.kind, hit.citation)
    return work.done()


@dataclass(slots=True)
class _Sorting:
    single: dict[str, Cited] = field(default_factory=dict)
    banned: dict[str, Cited] = field(default_factory=dict)
    facts: list[Cited] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    def take(self, text: str, kind: MemoryKind, citation: str) -> None:
        plain = clean(text, labels=False)
        if reason := unfit(text):
            self.refused.append(f"{citation}: {reason}")
            return
        if kind is MemoryKind.PREFERENCE:
            for name, pattern in _PATTERNS:
                if match := pattern.match(plain):
                    self._preference(name, match["value"].strip(" \"'„“”‚‘’«».!"), citation)
                    return
            self.refused.append(f"{citation}: a preference that no rule can follow")
        elif len(self.facts) < MAX_FACTS and 3 <= len(plain) <= 300:
            self.facts.append(Cited(plain, citation))

    def _preference(self, name: str, value: str, citation: str) -> None:
        if name == "banned":
            for word in re.split(
                r"[\"'„“”‚‘’«»]*\s*(?:,|;|/|\bor\b|\band\b)\s*[\"'„“”‚‘’«»]*", value
            ):
                word = word.strip().casefold()
                if 2 <= len(word) <= 40 and len(self.banned) < MAX_BANNED:
                    self.banned.setdefault(word, Cited(word, citation))
            return
        if name == "language":
            value = _LANGUAGES.get(value.casefold(), value.casefold())
        if name in ("greeting", "sign_off"):
            limit = 40 if name == "greeting" else 100
            value = value.rstrip(",")
            if not value or len(value) > limit or not p.WORD.search(value):
                self.refused.append(f"{citation}: no usable {name.replace('_', '-')}")
                return
        self.single.setdefault(name, Cited(value, citation))

    def done(self) -> Remembered:
        return Remembered(
            greeting=self.single.get("greeting"),
            sign_off=self.single.get("sign_off"),
            tone=self.single.get("tone"),
            language=self.single.get("language"),
            banned=tuple(self.banned.values()),
            facts=tuple(self.facts),
            refused=tuple(self.refused),
        )


def unfit(text: str) -> str:
    """Why a memory's text must not shape an email; empty: it may."""
    if found := signs(text):
        return f"gives orders ({found[0].split(':')[0]})"
    if p.URL.search(text) or p.HTML_TAG.search(text) or p.TEMPLATE_SYNTAX.search(text):
        return "holds a link, mark-up or template syntax"
    if p.DOMAIN.search(text):
        return "holds an address of the web"
    if data := personal_data(text):
        return f"holds personal data ({data[0].kind})"
    if p.INVISIBLE.search(text.replace("\n", " ")):
        return "holds invisible characters"
    return ""
