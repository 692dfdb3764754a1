"""Step 1: what the email has to achieve, from which angle, and its call to action."""

from __future__ import annotations

from mesh.agents import templates
from mesh.agents.agent import StepContext, StepResult
from mesh.agents.generate import Writer, decision_notes
from mesh.agents.preferences import recall
from mesh.agents.write_email import prompts
from mesh.agents.write_email.memory import facts_of, recall_decision
from mesh.contracts.email import Strategy
from mesh.contracts.tasks import Decision


class Strategist:
    name = "strategist"
    step = "strategy"

    async def run(self, context: StepContext) -> StepResult:
        brief = context.brief
        query = " ".join((brief.product, brief.goal, *brief.key_points))
        known = await recall(context, query, brief.contact)
        facts = facts_of(context, known)
        writer = Writer(context, facts)
        goal = templates.safe(context.brief.goal, facts)
        objective = templates.shorten(goal, 300) or templates.topic(facts) or "…"
        await writer.shown.say(templates.sentence(objective))
        piece = await writer.write(
            "angle",
            prompts.angle(facts),
            prompts.ANGLE,
            also=lambda text: prompts.leaks(text, facts),
        )
        angle = piece.text
        if angle is None:
            points = [templates.safe(p, facts) for p in context.brief.key_points]
            best = next((p for p in points if p), templates.topic(facts, 160)) or objective
            angle = await writer.fall_back(templates.sentence(templates.shorten(best, 280)))
        labels = [templates.button_label(facts, link.label) for link in context.brief.links]
        action = labels[0] if labels else templates.phrases(context.brief.language).button
        degraded = piece.text is None
        return StepResult(
            {
                **Strategy(objective=objective, angle=angle, call_to_action=action).model_dump(),
                "remembered": known.to_output(),
            },
            (
                recall_decision(self.name, known, facts),
                Decision(
                    agent=self.name,
                    what="angle",
                    chosen=angle,
                    candidates=[{"text": r["text"], "score": 0.0} for r in piece.rejected]
                    + [{"text": angle, "score": 1.0}],
                    reason=f"passed every check after {piece.tries} tries"
                    if not degraded
                    else f"the brief's own words: {piece.failure}",
                    repairs=decision_notes([piece]),
                    prompt=piece.prompt,
                    degraded=degraded,
                ),
                Decision(
                    agent=self.name,
                    what="call_to_action",
                    chosen=action,
                    candidates=[
                        {"text": label, "score": round(1.0 / (i + 1), 3)}
                        for i, label in enumerate(labels)
                    ],
                    reason="the brief's first link" if labels else "the brief holds no link",
                ),
            ),
            degraded,
        )
