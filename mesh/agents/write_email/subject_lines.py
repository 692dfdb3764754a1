"""Step 2: three subject lines, each about another fact, ranked by an explainable score."""

from __future__ import annotations

from mesh.agents import templates
from mesh.agents.agent import StepContext, StepResult
from mesh.agents.generate import Piece, Writer, decision_notes
from mesh.agents.scoring import HeuristicScorer, SubjectScorer
from mesh.agents.write_email import prompts
from mesh.agents.write_email.memory import facts_of
from mesh.contracts.tasks import Decision

WANTED = 3
_WRITTEN = 0.08
"""What a line by the model is worth beside a template's, on the scorer's scale."""


class SubjectLineWriter:
    name = "subject-line-writer"
    step = "subject_lines"

    def __init__(self, scorer: SubjectScorer | None = None) -> None:
        self.scorer = scorer or HeuristicScorer()

    async def run(self, context: StepContext) -> StepResult:
        facts = facts_of(context)
        writer = Writer(context, facts)
        lines: list[tuple[str, str]] = []
        pieces: list[Piece] = []

        def repeats(text: str) -> list[str]:
            known = {line.casefold() for line, _ in lines}
            return ["repeats another line"] if text.casefold() in known else []

        def also(text: str) -> list[str]:
            return repeats(text) + prompts.leaks(text, facts)

        for index in range(WANTED):
            piece = await writer.write(
                f"line {index + 1}", prompts.subject(facts, index), prompts.SUBJECT, also=also
            )
            pieces.append(piece)
            if piece.text is not None:
                lines.append((piece.text, "model"))
        written = len(lines)
        for text in templates.subjects(facts):
            if len(lines) >= WANTED:
                break
            if not repeats(text):
                lines.append((await writer.fall_back(text), "template"))
        scored = sorted(
            ((self.scorer.score(text, facts), text, source) for text, source in lines),
            # Of two that are about as good the written one goes out, not the template's.
            key=lambda entry: -(entry[0].value + (_WRITTEN if entry[2] == "model" else 0.0)),
        )
        best = scored[0]
        # A line from the template completes the three; the step is degraded only when the
        # template's line is the one that goes out.
        degraded = best[2] == "template" or written == 0
        return StepResult(
            {"chosen": best[1], "candidates": [text for _, text, _ in scored]},
            (
                Decision(
                    agent=self.name,
                    what="subject",
                    chosen=best[1],
                    candidates=[
                        {"text": text, "score": s.value, "parts": s.parts, "source": source}
                        for s, text, source in scored
                    ],
                    reason=f"highest score ({self.scorer.name}): {best[0].reason}",
                    repairs=decision_notes(pieces),
                    prompt=pieces[0].prompt,
                    degraded=degraded,
                ),
            ),
            degraded,
        )
