"""Step 4: the body. Facts are the brief's own words; the model writes what joins them."""

from __future__ import annotations

from collections.abc import Sequence

from mesh.agents import templates
from mesh.agents.agent import StepContext, StepResult
from mesh.agents.generate import Piece, Writer, decision_notes
from mesh.agents.guard.facts import Facts, fold
from mesh.agents.guard.repair import sentences
from mesh.agents.preferences import Cited, Remembered
from mesh.agents.write_email import prompts
from mesh.agents.write_email.memory import facts_of, fitting, remembered
from mesh.contracts.email import Block
from mesh.contracts.tasks import Decision

_MAX_BULLETS = 6


class BodyWriter:
    name = "body-writer"
    step = "body"

    async def run(self, context: StepContext) -> StepResult:
        facts = facts_of(context)
        writer = Writer(context, facts)
        writer.shown.separator = "\n\n"
        blocks: list[Block] = []
        heading = templates.topic(facts, 80) or templates.brand(facts)
        if heading:
            await writer.shown.say(heading)
            blocks.append(Block(kind="heading", text=heading))
        known = remembered(context)
        if greeting := templates.greeting(facts, known.greeting.value if known.greeting else ""):
            await writer.shown.say(greeting)
            blocks.append(Block(kind="paragraph", text=greeting))

        opening = await writer.write(
            "opening",
            prompts.opening(facts),
            prompts.OPENING,
            also=lambda text: prompts.leaks(text, facts),
        )
        first = opening.text or await writer.fall_back(templates.opening(facts))
        blocks.append(Block(kind="paragraph", text=first))

        told = fitting(known, facts)
        if points := bullets(facts, first, [cited.value for cited in told]):
            await writer.shown.say("\n".join(f"• {point}" for point in points))
            blocks.append(Block(kind="bullets", items=points))

        def repeats(text: str) -> list[str]:
            said = {fold(s) for s in sentences(first)}
            found = prompts.leaks(text, facts)
            if any(fold(s) in said for s in sentences(text)):
                found.append("repeats the opening")
            if "?" in text and facts.brief.language[:2] == "en" and not text.startswith("Ready?"):
                found.append("asks instead of inviting")
            return found

        # Without a link there is nothing to click: the reader is invited to answer.
        action = str(context.previous["strategy"]["call_to_action"])
        if not facts.brief.links and facts.brief.language[:2] == "en":
            action = "Get in touch"
        closing = await writer.write(
            "closing", prompts.closing(facts, action), prompts.CLOSING, also=repeats
        )
        last = closing.text or templates.closing(facts)
        if last:
            if closing.text is None:
                await writer.fall_back(last)
            blocks.append(Block(kind="paragraph", text=last))
        if known.sign_off:
            await writer.shown.say(known.sign_off.value)
            blocks.append(Block(kind="paragraph", text=known.sign_off.value))
        blocks += await self._buttons(context, facts, writer)
        pieces = {"opening": opening, "closing": closing}
        degraded = any(piece.text is None for piece in pieces.values())
        return StepResult(
            {"blocks": [block.model_dump() for block in blocks]},
            (
                *(self._decision(name, piece, blocks) for name, piece in pieces.items()),
                *self._remembered(known, [cited for cited in told if cited.value in points]),
            ),
            degraded,
        )

    async def _buttons(self, context: StepContext, facts: Facts, writer: Writer) -> list[Block]:
        """One button per link of the brief, the first three: their addresses are never copied
        by the model."""
        action = str(context.previous["strategy"]["call_to_action"])
        found: list[Block] = []
        for index, link in enumerate(context.brief.links[:3]):
            label = action if index == 0 else templates.button_label(facts, link.label)
            await writer.shown.say(f"→ {label}")
            found.append(Block(kind="button", text=label, url=str(link.url)))
        return found

    def _remembered(self, known: Remembered, told: list[Cited]) -> list[Decision]:
        """What of the memory stands in the body."""
        parts = {"greeting": known.greeting, "sign_off": known.sign_off}
        used = {name: cited for name, cited in parts.items() if cited is not None}
        used |= {f"fact {i + 1}": cited for i, cited in enumerate(told)}
        if not used:
            return []
        return [
            Decision(
                agent=self.name,
                what="from_memory",
                chosen={name: cited.value for name, cited in used.items()},
                reason="the memory asks for it, or knows a fact that fits the brief",
                cites=[cited.citation for cited in used.values()],
            )
        ]

    def _decision(self, name: str, piece: Piece, blocks: list[Block]) -> Decision:
        text = piece.text
        if text is None:
            paragraphs = [b.text for b in blocks if b.kind == "paragraph"]
            text = paragraphs[-1] if name == "closing" else paragraphs[0]
        return Decision(
            agent=self.name,
            what=name,
            chosen=text,
            candidates=[{"text": r["text"], "score": 0.0} for r in piece.rejected]
            + [{"text": text, "score": 1.0}],
            reason=f"the brief's own words: {piece.failure}"
            if piece.text is None
            else f"passed every check after {piece.tries} tries",
            repairs=decision_notes([piece]),
            prompt=piece.prompt,
            degraded=piece.text is None,
        )


def bullets(facts: Facts, opening: str, remembered: Sequence[str] = ()) -> list[str]:
    """The brief's key points, then remembered facts, that the opening does not already say word
    by word."""
    said = fold(opening)
    points: list[str] = []
    for point in (*facts.brief.key_points[:_MAX_BULLETS], *remembered):
        text = templates.shorten(templates.safe(point, facts), 200)
        if text and fold(text).rstrip(" .") not in said and text not in points:
            points.append(text)
    return points[:_MAX_BULLETS]
