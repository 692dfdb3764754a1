"""The classifier: what an email is about, how it sounds, whom it addresses, what is risky in it.

Its text is embedded (``services.embed``), calibrated heads answer, rules look for what the law
asks. Without embeddings only cue words answer, and the result says ``degraded``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mesh.agents.activation import ACTIVE
from mesh.agents.agent import StepContext, StepOutput, StepResult, TaskInput
from mesh.agents.classifier import artefact
from mesh.agents.classifier.artefact import Artefact
from mesh.agents.classifier.compliance import compliance
from mesh.agents.classifier.corpus import plain_text
from mesh.agents.classifier.cues import cue_words, keyword_scores
from mesh.agents.classifier.features import inputs
from mesh.agents.classifier.head import Array
from mesh.agents.guard.clean import without_tags
from mesh.agents.guard.spam import spam_score
from mesh.agents.pipeline import Pipeline
from mesh.agents.registry import KindSpec
from mesh.contracts.agents import (
    Classification,
    ClassifyInput,
    Draft,
    Judgement,
    SpamRisk,
)
from mesh.contracts.tasks import Decision, TaskKind
from mesh.core.errors import DeadlineExceeded, EngineError, Overloaded, Unavailable

QUESTIONS = ("topic", "tone", "audience")
EMBED_TIMEOUT_S = 20.0


def shown_text(email: Draft) -> str:
    """What a reader sees below the subject."""
    parts = [email.preheader]
    for block in email.blocks:
        parts += [block.text, *block.items]
    return without_tags("\n".join(part for part in parts if part))


class Classifier:
    name = "classifier"
    step = "classify"

    async def run(self, context: StepContext) -> StepResult:
        given = ClassifyInput.model_validate(context.input)
        subject = given.email.subject if given.email else given.subject
        body = shown_text(given.email) if given.email else given.text
        language = given.email.language if given.email else given.language
        text = plain_text(without_tags(subject), without_tags(body))
        trained = await asyncio.to_thread(trained_classifier, context.services.trained)
        vector, missing = await self._embed(context, text)
        notes = [missing] if missing else []
        if language[:2] != str(trained.metadata.get("language", "en")):
            notes.append(f"trained on English; of {language} texts it knows less")
        result = self.judge(trained, subject, body, text, vector, given.sender, notes)
        await context.writer.token(self.step, _summary(result))
        return StepResult(
            result.model_dump(mode="json"), self._decisions(result), degraded=result.degraded
        )

    def judge(
        self,
        trained: Artefact,
        subject: str,
        body: str,
        text: str,
        vector: list[float] | None,
        sender: str,
        notes: list[str],
    ) -> Classification:
        """Pure. ``vector`` None: cue words and surface signs alone."""
        row = None if vector is None else inputs([text], [vector])
        judged = {question: _judgement(trained, question, row, text) for question in QUESTIONS}
        surface = spam_score(f"{subject}\n{body}")
        risk = surface.value
        if row is not None:
            # The head's probability, never below what plain signs of spam say by themselves.
            learned = float(trained.heads["spam"].probabilities(row)[0, 1])
            risk = max(learned, 0.5 * surface.value)
        return Classification(
            topic=judged["topic"],
            tone=judged["tone"],
            audience=judged["audience"],
            spam=SpamRisk(risk=round(risk, 4), signs=list(surface.signs)),
            compliance=compliance(subject, body, sender),
            model=trained.version,
            degraded=row is None,
            notes=notes,
        )

    async def _embed(self, context: StepContext, text: str) -> tuple[list[float] | None, str]:
        embed = context.services.embed
        if embed is None:
            return None, "no embeddings here: judged by words alone"
        timeout = min(EMBED_TIMEOUT_S, context.deadline.remaining() - context.options.reserve_s)
        try:
            async with asyncio.timeout(max(0.0, timeout)):
                return (await embed([text]))[0], ""
        except (Unavailable, Overloaded, EngineError, DeadlineExceeded, TimeoutError) as error:
            code = getattr(error, "code", "timeout")
            return None, f"embeddings failed ({code}): judged by words alone"

    def _decisions(self, result: Classification) -> tuple[Decision, ...]:
        made = [
            Decision(
                agent=self.name,
                what=question,
                chosen=judged.label,
                candidates=[
                    {"text": label, "score": score}
                    for label, score in sorted(judged.candidates.items(), key=lambda x: -x[1])
                ],
                reason=f"{judged.probability:.0%} by classifier {result.model}"
                + (f"; speaks for it: {', '.join(judged.because)}" if judged.because else ""),
                degraded=result.degraded,
            )
            for question in QUESTIONS
            for judged in (getattr(result, question),)
        ]
        findings = result.compliance.findings
        made.append(
            Decision(
                agent=self.name,
                what="risk",
                chosen={"spam": result.spam.risk, "compliance": result.compliance.risk},
                reason="; ".join([*result.spam.signs, *(f"{f.rule}: {f.reason}" for f in findings)])
                or "no sign of either",
                degraded=result.degraded,
            )
        )
        return tuple(made)


def trained_classifier(place: tuple[Path, str] | None) -> Artefact:
    """The version that is in use, loaded when it is first asked for. Blocks for milliseconds.

    Raises NotFound, InvalidInput for a version that is not there or damaged."""
    if place is None:
        return ACTIVE.get("classifier:builtin", artefact.builtin)
    store, version = place
    # "latest" is looked up each time, so a newly trained one is used from the next task on.
    named = artefact.resolve(store, version)
    return ACTIVE.get(f"classifier:{store}:{named}", lambda: artefact.load(store, named))


def _judgement(trained: Artefact, question: str, row: Array | None, text: str) -> Judgement:
    head = trained.heads[question]
    if row is None:
        scores = keyword_scores(text, question, head.labels)
    else:
        scores = [float(x) for x in head.probabilities(row)[0]]
    best = int(np.argmax(scores))
    label = head.labels[best]
    return Judgement(
        label=label,
        probability=round(scores[best], 4),
        candidates={name: round(value, 4) for name, value in zip(head.labels, scores, strict=True)},
        because=cue_words(text, question, label),
    )


def _summary(result: Classification) -> str:
    return (
        f"{result.topic.label}, {result.tone.label}, for {result.audience.label}; spam risk "
        f"{result.spam.risk:.0%}, compliance risk {result.compliance.risk:.0%}"
    )


def _build(task: TaskInput) -> Pipeline:
    return Pipeline((Classifier(),))


def _assemble(task: TaskInput, outputs: Mapping[str, StepOutput]) -> Classification:
    return Classification.model_validate(outputs["classify"].output)


SPEC = KindSpec(
    kind=TaskKind.CLASSIFY,
    version=1,
    input_model=ClassifyInput,
    build=_build,
    assemble=_assemble,
    does="Says topic, tone and audience of an email or text, and its spam and compliance risk",
    result_model=Classification,
)
