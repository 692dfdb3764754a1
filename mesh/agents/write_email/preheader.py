"""Step 3: the line that mail programs show beside the subject."""

from __future__ import annotations

from mesh.agents import templates
from mesh.agents.agent import StepContext, StepResult
from mesh.agents.generate import Writer, decision_notes
from mesh.agents.guard.facts import fold
from mesh.agents.write_email import prompts
from mesh.agents.write_email.memory import facts_of
from mesh.contracts.tasks import Decision


class PreheaderWriter:
    name = "preheader-writer"
    step = "preheader"

    async def run(self, context: StepContext) -> StepResult:
        facts = facts_of(context)
        writer = Writer(context, facts)
        subject = str(context.previous["subject_lines"]["chosen"])

        def repeats(text: str) -> list[str]:
            a, b = fold(text).rstrip(" ."), fold(subject).rstrip(" .")
            # A sentence around the subject's words may stand beside it; the same words may not.
            repeated = bool(a) and (a in b or (b in a and len(a) < 1.4 * len(b)))
            same = ["repeats the subject"] if repeated else []
            return same + prompts.leaks(text, facts)

        piece = await writer.write(
            "preheader", prompts.preheader(facts, subject), prompts.PREHEADER, also=repeats
        )
        text = piece.text
        degraded = text is None
        if text is None:
            text = await writer.fall_back(templates.preheader(facts, subject))
        return StepResult(
            {"text": text},
            (
                Decision(
                    agent=self.name,
                    what="preheader",
                    chosen=text,
                    candidates=[{"text": r["text"], "score": 0.0} for r in piece.rejected]
                    + [{"text": text, "score": 1.0}],
                    reason=f"the brief's own words: {piece.failure}"
                    if degraded
                    else f"passed every check after {piece.tries} tries",
                    repairs=decision_notes([piece]),
                    prompt=piece.prompt,
                    degraded=degraded,
                ),
            ),
            degraded,
        )
