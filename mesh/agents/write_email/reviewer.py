"""Step 5: the whole email is looked at once more, by rules, and mended where it can be.

Each piece was checked when it was written; the reviewer judges what only the whole shows (spam
signs, length, repetition, the links and tags used) and is the last gate: whatever it can't mend
is replaced by the template, so nothing invented ever leaves this step.
"""

from __future__ import annotations

from mesh.agents import templates
from mesh.agents.agent import StepContext, StepResult
from mesh.agents.guard import patterns as p
from mesh.agents.guard.check import Limits, content_problems, problems
from mesh.agents.guard.clean import without_tags
from mesh.agents.guard.facts import Facts, fold
from mesh.agents.guard.repair import mend
from mesh.agents.guard.spam import caps_words, spam_score
from mesh.agents.write_email.memory import facts_of
from mesh.agents.write_email.prompts import PREHEADER, SUBJECT
from mesh.contracts.email import Block, Review
from mesh.contracts.tasks import Decision

SPAM_LIMIT = 0.5
"""Above this the email is not approved."""
_PARAGRAPH = Limits(1, 1_200)
_MAX_WORDS = 400


class Reviewer:
    name = "reviewer"
    step = "review"

    async def run(self, context: StepContext) -> StepResult:
        facts = facts_of(context)
        notes: list[str] = []
        replaced: list[str] = []
        previous = context.previous
        subject = str(previous["subject_lines"]["chosen"])
        if found := content_problems(subject, facts):
            notes.append(f"subject replaced ({found[0]})")
            replaced.append("subject")
            subject = next(iter(templates.subjects(facts)), "…")
        preheader = str(previous["preheader"]["text"])
        if found := content_problems(preheader, facts):
            notes.append(f"preheader replaced ({found[0]})")
            replaced.append("preheader")
            preheader = templates.preheader(facts, subject)
        blocks = [Block.model_validate(block) for block in previous["body"]["blocks"]]
        mended = [b for b in (self._block(b, facts, notes, replaced) for b in blocks) if b]
        mended = _without_repeats(mended, notes) or [
            Block(kind="paragraph", text=templates.opening(facts))
        ]
        review = self._judge(subject, preheader, mended, facts, notes)
        line = "Approved" if review.approved else "Not approved"
        await context.writer.token(
            self.step,
            f"{line}, spam score {review.spam_score:.2f}" + "".join(f"\n- {n}" for n in notes),
        )
        return StepResult(
            {
                "subject": subject,
                "preheader": preheader,
                "blocks": [block.model_dump() for block in mended],
                "review": review.model_dump(),
            },
            (
                Decision(
                    agent=self.name,
                    what="review",
                    chosen=review.approved,
                    candidates=[
                        {"text": "approve", "score": round(1.0 - review.spam_score, 3)},
                        {"text": "refuse", "score": review.spam_score},
                    ],
                    reason="; ".join(review.notes) or "every check passed",
                    repairs=notes,
                    degraded=bool(replaced),
                ),
            ),
            bool(replaced),
        )

    def _block(
        self, block: Block, facts: Facts, notes: list[str], replaced: list[str]
    ) -> Block | None:
        if block.kind == "button":
            if block.url in facts.urls and block.text.strip():
                return block
            notes.append("removed a button whose link the brief does not hold")
            return None
        if block.kind == "bullets":
            items = [i for i in block.items if i.strip() and not content_problems(i, facts)]
            if len(items) < len(block.items):
                notes.append(f"removed {len(block.items) - len(items)} bullets")
            return block.model_copy(update={"items": items}) if items else None
        if not content_problems(block.text, facts):
            return block if block.text.strip() else None
        text, repairs = mend(block.text, facts, _PARAGRAPH)
        notes += repairs
        if text and not content_problems(text, facts):
            return block.model_copy(update={"text": text})
        replaced.append(block.kind)
        notes.append(f"removed a {block.kind} that could not be mended")
        return None

    def _judge(
        self, subject: str, preheader: str, blocks: list[Block], facts: Facts, mended: list[str]
    ) -> Review:
        notes = list(mended)
        texts = [subject, preheader]
        for block in blocks:
            texts += [block.text, *block.items]
        whole = "\n".join(text for text in texts if text)
        allowed = frozenset(word for word in caps_words(facts.text))
        spam = spam_score(whole, allowed)
        notes += spam.signs
        notes += [f"subject: {x}" for x in problems(subject, facts, SUBJECT)]
        notes += [f"preheader: {x}" for x in problems(preheader, facts, PREHEADER)]
        words = len(p.WORD.findall(without_tags(whole)))
        if words > _MAX_WORDS:
            notes.append(f"long: {words} words")
        if not any(block.kind == "button" for block in blocks):
            notes.append("no button: the brief holds no link")
        unused = [t.name for t in facts.brief.merge_tags if f"{{{{ {t.name} |" not in whole]
        if unused:
            notes.append("merge tags not used: " + ", ".join(unused[:5]))
        wrong = [x for x in content_problems(whole.replace("\n", ". "), facts) if _grave(x.kind)]
        approved = spam.value <= SPAM_LIMIT and not wrong
        return Review(approved=approved, notes=[n[:200] for n in notes[:20]], spam_score=spam.value)


def _grave(kind: str) -> bool:
    return kind.startswith("invented_") and kind != "invented_name"


def _without_repeats(blocks: list[Block], notes: list[str]) -> list[Block]:
    kept: list[Block] = []
    seen: set[str] = set()
    for block in blocks:
        key = fold(block.text).rstrip(" .")
        if block.kind == "paragraph" and key in seen:
            notes.append("removed a repeated paragraph")
            continue
        seen.add(key)
        kept.append(block)
    return kept
