"""The personaliser: an email for one contact, from what the memory knows of them.

Wishes (greeting, sign-off, words to avoid) are followed by rules. Facts become one sentence each:
the model links the fact with the email's subject, the guardrails let it say nothing else, and a
plain sentence by rule answers where it can't. Every personal statement cites its memory; what is
of another namespace, about another contact, delicate or an order to a machine is never used.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from mesh.agents import prompts
from mesh.agents.agent import StepContext, StepOutput, StepResult, TaskInput
from mesh.agents.drafts import check_links, facts_of_draft, rendered
from mesh.agents.generate import Piece, Prompt, Writer, decision_notes
from mesh.agents.guard.check import Limits, content_problems
from mesh.agents.guard.clean import tag_text, without_tags
from mesh.agents.guard.facts import Facts, fold, stem
from mesh.agents.guard.patterns import WORD
from mesh.agents.guard.repair import mend
from mesh.agents.personaliser.second_person import sensitive, to_reader
from mesh.agents.pipeline import Pipeline
from mesh.agents.preferences import Cited, Remembered, recall
from mesh.agents.registry import KindSpec
from mesh.agents.templates import greeting_tag
from mesh.contracts.agents import Draft, PersonalisedEmail, PersonaliseInput, PersonalStatement
from mesh.contracts.email import Block
from mesh.contracts.tasks import Decision, TaskKind

LINE = Limits(15, 200, max_exclamations=0, grounding=0.7)
_GREETING = re.compile(
    r"(?:hello|hi|hey|hallo|dear|bonjour|hola|ciao|olá|good (?:day|morning|evening))\b"
    r"[^.?]{0,50}[,:!]$"
)
"""In folded text: a line that greets, as opposed to a sentence that begins like one."""


@dataclass(slots=True)
class _Work:
    blocks: list[Block]
    statements: list[PersonalStatement] = field(default_factory=list)
    pieces: list[Piece] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    cites: list[str] = field(default_factory=list)
    degraded: bool = False

    def cite(self, citation: str) -> None:
        if citation not in self.cites:
            self.cites.append(citation)


class Personaliser:
    name = "personaliser"
    step = "personalise"

    async def run(self, context: StepContext) -> StepResult:
        given = PersonaliseInput.model_validate(context.input)
        email = given.email
        about = " ".join((without_tags(email.subject), email.preheader, given.instructions))
        known = await recall(context, about, given.contact_id)
        facts = facts_of_draft(
            email,
            memory=[c.value for c in known.facts],
            banned=[c.value for c in known.banned],
            links=given.links,
        )
        writer = Writer(context, facts)
        work = _Work(list(email.blocks), notes=list(known.refused))
        if known.failure:
            work.notes.append(known.failure)
        await self._lines(context, given, known, facts, writer, work)
        self._greet(known, facts, work)
        self._sign(known, work)
        self._avoid(known, facts, work)
        made = email.model_copy(update={"blocks": work.blocks})
        if not work.cites:
            await writer.shown.say("Nothing in the memory fits: the email stays as it is.")
        html, text = rendered(made)
        result = PersonalisedEmail(
            email=made,
            statements=work.statements,
            cites=work.cites,
            changed=made != email,
            html=html,
            text=text,
            degraded=work.degraded or known.degraded,
        )
        return StepResult(
            result.model_dump(mode="json"),
            (
                Decision(
                    agent=self.name,
                    what="personal",
                    chosen=[statement.text for statement in work.statements],
                    candidates=[
                        {"text": c, "score": float(c in work.cites)} for c in known.cites()
                    ],
                    reason=known.failure
                    or f"{len(work.statements)} statements from {len(known.facts)} facts that fit",
                    repairs=[n[:300] for n in (*work.notes, *decision_notes(work.pieces))][:30],
                    prompt=work.pieces[0].prompt if work.pieces else "",
                    cites=work.cites,
                    degraded=work.degraded,
                ),
            ),
            result.degraded,
        )

    async def _lines(
        self,
        context: StepContext,
        given: PersonaliseInput,
        known: Remembered,
        facts: Facts,
        writer: Writer,
        work: _Work,
    ) -> None:
        """A sentence per fact that fits, after the greeting or the first paragraph."""
        at = _place(work.blocks)
        lines: list[PersonalStatement] = []
        for cited in known.facts:
            if len(lines) >= given.max_facts:
                break
            if sensitive(cited.value):
                work.notes.append(f"{cited.citation}: delicate, not said")
                continue
            if text := await self._line(context, given.email, cited, facts, writer, work):
                lines.append(PersonalStatement(text=text, block=at, cites=[cited.citation]))
                work.cite(cited.citation)
        if lines:
            said = " ".join(line.text for line in lines)
            work.blocks.insert(at, Block(kind="paragraph", text=said))
            work.statements += lines

    async def _line(
        self,
        context: StepContext,
        email: Draft,
        cited: Cited,
        facts: Facts,
        writer: Writer,
        work: _Work,
    ) -> str:
        english = email.language[:2] == "en"
        plain = to_reader(cited.value) if english else ""
        if not plain:
            work.notes.append(f"{cited.citation}: no sentence to the reader can be made of it")
            return ""
        # The statement may rest on this one memory and on the email, on no other memory.
        own = facts_of_draft(email, memory=[cited.value, plain], banned=facts.banned)
        if found := content_problems(plain, own):
            work.notes.append(f"{cited.citation}: {found[0].kind}")
            return ""
        subject = without_tags(email.subject).rstrip(" .!?")
        made = prompts.render("personaliser", "line", language=email.language, tone="friendly")
        question = f"{plain} {subject}."
        writer.facts = own
        try:
            piece = await writer.write(
                f"line {cited.citation}",
                Prompt(made.system, question, made.examples, made.reference),
                LINE,
                also=lambda text: _rests_on(text, plain, own),
                tries=2,
            )
        finally:
            writer.facts = facts
        work.pieces.append(piece)
        if piece.text is not None:
            return piece.text
        work.degraded = True
        return await writer.fall_back(plain)

    def _greet(self, known: Remembered, facts: Facts, work: _Work) -> None:
        if known.greeting is None:
            return
        tag = greeting_tag(facts)
        name = f" {tag_text(tag)}" if tag and len(known.greeting.value.split()) < 3 else ""
        text = f"{known.greeting.value}{name},"
        index = _greeting_at(work.blocks)
        if index is None:
            index = 1 if work.blocks and work.blocks[0].kind == "heading" else 0
            work.blocks.insert(index, Block(kind="paragraph", text=text))
            work.statements = [
                s.model_copy(update={"block": s.block + (s.block >= index)})
                for s in work.statements
            ]
        else:
            work.blocks[index] = work.blocks[index].model_copy(update={"text": text})
        work.statements.append(
            PersonalStatement(text=text, block=index, cites=[known.greeting.citation])
        )
        work.cite(known.greeting.citation)

    def _sign(self, known: Remembered, work: _Work) -> None:
        if known.sign_off is None:
            return
        last = max((i for i, b in enumerate(work.blocks) if b.kind != "button"), default=-1)
        work.blocks.insert(last + 1, Block(kind="paragraph", text=known.sign_off.value))
        work.statements.append(
            PersonalStatement(
                text=known.sign_off.value, block=last + 1, cites=[known.sign_off.citation]
            )
        )
        work.cite(known.sign_off.citation)

    def _avoid(self, known: Remembered, facts: Facts, work: _Work) -> None:
        """Sentences with a word that the reader does not want go, unless nothing would be left."""
        words = facts.banned_words
        if words is None:
            return
        for index, block in enumerate(work.blocks):
            if block.kind != "paragraph" or not words.search(fold(block.text)):
                continue
            loose = Limits(1, 1_200, max_exclamations=5)
            text, repairs = mend(block.text, facts, loose)
            if text and text != block.text:
                work.blocks[index] = block.model_copy(update={"text": text})
                work.notes += repairs
                for cited in known.banned:
                    work.cite(cited.citation)
            else:
                work.notes.append(f"block {index} keeps a word that the reader avoids")


def _place(blocks: list[Block]) -> int:
    """Behind the greeting, else behind the heading, else first."""
    greeting = _greeting_at(blocks)
    if greeting is not None:
        return greeting + 1
    return 1 if blocks and blocks[0].kind == "heading" else 0


def _greeting_at(blocks: list[Block]) -> int | None:
    for index, block in enumerate(blocks[:3]):
        text = fold(without_tags(block.text))
        if block.kind == "paragraph" and _GREETING.match(text.strip()):
            return index
    return None


def _rests_on(text: str, plain: str, facts: Facts) -> list[str]:
    """A personal line has to say the fact itself, in the second person."""
    words = {stem(w) for w in WORD.findall(fold(text))}
    wanted = {stem(w) for w in WORD.findall(fold(plain)) if len(w) > 3 and w not in ("your",)}
    missing = [] if not wanted or len(words & wanted) >= 0.6 * len(wanted) else ["lost the fact"]
    if not {"you", "your"} & set(WORD.findall(fold(text))):
        missing.append("does not speak to the reader")
    return missing


def _assemble(task: TaskInput, outputs: Mapping[str, StepOutput]) -> PersonalisedEmail:
    return PersonalisedEmail.model_validate(outputs["personalise"].output)


def _check(given: object) -> None:
    assert isinstance(given, PersonaliseInput)
    check_links(given.email)


SPEC = KindSpec(
    kind=TaskKind.PERSONALISE,
    version=1,
    input_model=PersonaliseInput,
    build=lambda _task: Pipeline((Personaliser(),)),
    assemble=_assemble,
    does="Makes a variant of an email for one contact, from what the memory knows of them",
    check=_check,
    result_model=PersonalisedEmail,
)
