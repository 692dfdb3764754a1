"""The translator. What the model can't do well enough stays in its language, and is said.

Each text is asked for on its own, with marks for what must not change. A translation counts when
every mark and figure is there once, it shows the right language, is about as long as the original,
and passes the guardrails with the original as its brief. Long texts come first: a heading of two
words shows no language, so the model is trusted with it only after it has done a longer one well.
Phrases of our own templates need no model. A model that fails several texts in a row is not asked
for the rest.
"""

from __future__ import annotations

from collections.abc import Mapping

from mesh.agents import prompts, templates
from mesh.agents.agent import StepContext, StepOutput, StepResult, TaskInput
from mesh.agents.drafts import check_links, facts_of_draft, rendered, texts_of, with_texts
from mesh.agents.generate import Piece, Prompt, Writer, decision_notes
from mesh.agents.guard.check import Limits
from mesh.agents.guard.clean import without_tags
from mesh.agents.guard.facts import fold
from mesh.agents.guard.language import FUNCTION_WORDS, wrong_language
from mesh.agents.guard.patterns import MERGE_TAG, SENTENCE_END, WORD
from mesh.agents.pipeline import Pipeline
from mesh.agents.registry import KindSpec
from mesh.agents.translator.protect import MARKS, Protected, figure_problems, protect
from mesh.contracts.agents import Draft, TranslatedEmail, TranslatedPart, TranslateInput
from mesh.contracts.tasks import Decision, TaskKind

GIVE_UP_AFTER = 2
"""Texts in a row that the model failed before it is not asked any more."""
_SHORT = 3
"""Fewer words than these show no language."""
_ROOM = {"subject": 90, "preheader": 140}
_ITEM, _TEXT, _BUTTON = 300, 1_200, 60


class Translator:
    name = "translator"
    step = "translate"

    async def run(self, context: StepContext) -> StepResult:
        given = TranslateInput.model_validate(context.input)
        email, to = given.email, given.to
        # The marks hold digits that the email does not; its own figures are compared apart.
        facts = facts_of_draft(email.model_copy(update={"language": to}), memory=MARKS)
        writer = Writer(context, facts)
        texts: dict[str, str] = {}
        notes: dict[str, TranslatedPart] = {}
        pieces: list[Piece] = []
        failed, proven = 0, False
        order = list(texts_of(email))
        for where, source in sorted(order, key=lambda entry: -len(entry[1])):
            short = len(WORD.findall(without_tags(source))) < _SHORT
            reason = ""
            if own := phrase(source, email.language, to):
                texts[where] = own
                await writer.shown.say(own)
                notes[where] = TranslatedPart(where=where, translated=True, reason="fixed phrase")
                continue
            if not WORD.search(without_tags(source)):
                notes[where] = TranslatedPart(where=where, translated=True, reason="no words")
                continue
            if failed >= GIVE_UP_AFTER:
                reason = f"the model can't translate to {to} well enough"
            elif short and not proven:
                reason = f"too short to see whether it is {to}"
            if not reason:
                piece = await self._text(where, source, given, writer)
                pieces.append(piece)
                reason = piece.failure[:200]
                if piece.text is not None:
                    failed, proven = 0, proven or not short
                    texts[where] = piece.text
                    notes[where] = TranslatedPart(where=where, translated=True)
                    continue
                failed += 1
            await writer.fall_back(source)
            notes[where] = TranslatedPart(where=where, translated=False, reason=reason)
        parts = [notes[where] for where, _ in order]
        done = sum(part.translated for part in parts)
        whole = done == len(parts)
        # An email that is half translated is still one of its old language to a mail program.
        made = with_texts(email, texts, to if whole else None)
        html, text = rendered(made)
        result = TranslatedEmail(email=made, parts=parts, html=html, text=text, degraded=not whole)
        return StepResult(
            result.model_dump(mode="json"),
            (
                Decision(
                    agent=self.name,
                    what="translation",
                    chosen=f"{done} of {len(parts)} texts in {to}",
                    reason="every text passed its checks"
                    if whole
                    else "texts that could not be translated well stay in their language",
                    repairs=[note[:300] for note in decision_notes(pieces)][:30],
                    prompt=prompts.load("translator").reference,
                    degraded=not whole,
                ),
            ),
            not whole,
        )

    async def _text(self, where: str, source: str, given: TranslateInput, writer: Writer) -> Piece:
        guarded = protect(source, given.keep)
        made = prompts.render(
            "translator",
            "text",
            language=given.to,
            source=prompts.LANGUAGES.get(given.email.language[:2], given.email.language[:2]),
        )
        return await writer.write(
            where,
            Prompt(made.system, guarded.text, (), made.reference),
            _limits(where, given.email, guarded.text),
            also=lambda text: refusals(guarded, text, given.email.language, given.to),
            restore=guarded.restore,
            tries=2,
        )


def refusals(source: Protected, text: str, was: str, to: str) -> list[str]:
    """Why this is no translation of it; empty: nothing speaks against it."""
    found = source.problems(text) + figure_problems(source.text, text)
    words, before = WORD.findall(text), WORD.findall(source.text)
    if len(before) >= 3 and not 0.4 <= len(text) / max(1, len(source.text)) <= 2.5:
        found.append("far from the original's length")
    if len(SENTENCE_END.findall(text)) < len(SENTENCE_END.findall(source.text)):
        found.append("lost a sentence")
    if fold(text) == fold(source.text) and len(before) > 2:
        found.append("not translated")
    elif other := wrong_language(text, to):
        found.append(f"wrong language: {other}")
    elif len(words) >= _SHORT and to[:2] in FUNCTION_WORDS:
        if _speaks(words, was) >= max(1, _speaks(words, to)):
            found.append(f"wrong language: {was}")
        elif not _speaks(words, to):
            found.append(f"no sign of {to}")
    return found


def _speaks(words: list[str], language: str) -> int:
    known = FUNCTION_WORDS.get(language[:2], frozenset())
    return sum(word.casefold() in known for word in words)


def _limits(where: str, email: Draft, source: str) -> Limits:
    room = _ROOM.get(where, _TEXT)
    sentences = bool(source) and source.rstrip()[-1:] in ".!?…。"
    if where.endswith(".text"):
        kind = email.blocks[int(where.split(".")[1])].kind
        room = _BUTTON if kind == "button" else room
    elif ".items." in where:
        room = _ITEM
    most = min(room, max(24, round(len(source) * 2.2)))
    return Limits(1, most, sentences=sentences, max_exclamations=source.count("!"))


def phrase(text: str, was: str, to: str) -> str:
    """The same phrase of our templates in the other language; empty when it is none of them."""
    before, after = templates.PHRASES.get(was[:2]), templates.PHRASES.get(to[:2])
    if before is None or after is None:
        return ""
    plain = text.strip()
    for name in ("hello", "opening", "closing", "button"):
        if plain == getattr(before, name):
            return str(getattr(after, name))
    tags = MERGE_TAG.findall(plain)
    match = MERGE_TAG.search(plain)
    if len(tags) == 1 and match and plain == before.hello_to.format(x=match.group()):
        return after.hello_to.format(x=match.group())
    return ""


def _check(given: object) -> None:
    assert isinstance(given, TranslateInput)
    check_links(given.email)


def _assemble(task: TaskInput, outputs: Mapping[str, StepOutput]) -> TranslatedEmail:
    return TranslatedEmail.model_validate(outputs["translate"].output)


SPEC = KindSpec(
    kind=TaskKind.TRANSLATE,
    version=1,
    input_model=TranslateInput,
    build=lambda _task: Pipeline((Translator(),)),
    assemble=_assemble,
    does="Translates an email block by block, with links, merge tags and figures kept",
    check=_check,
    result_model=TranslatedEmail,
)
