"""The optimiser: which variant to send, with what is expected of each and how sure that is.

A scorer's opinion is the prior, real sends and successes sharpen it (Beta-binomial). From the
posteriors come the expected rate, an interval, the probability of being the best, and how to
share the next sends (Thompson sampling with a floor, so that no variant is given up for good).
The draws are seeded: the same input gives the same ranking.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mesh.agents.agent import StepContext, StepOutput, StepResult, TaskInput
from mesh.agents.pipeline import Pipeline
from mesh.agents.registry import KindSpec
from mesh.agents.scoring import Estimate, HeuristicVariantScorer, VariantScorer
from mesh.contracts.agents import OptimiseInput, Ranked, Ranking, Variant
from mesh.contracts.tasks import Decision, TaskKind
from mesh.core.errors import MailyError

DRAWS = 20_000
FLOOR = 0.02
"""Least share of the next sends for any variant."""
DECISIVE = 0.9
SCORER_TIMEOUT_S = 10.0
_INTERVAL = (0.05, 0.95)


@dataclass(frozen=True, slots=True)
class Posterior:
    """What is believed of one variant after its sends."""

    alpha: float
    beta: float

    @property
    def mean(self) -> float:
        return self.alpha / (self.alpha + self.beta)


def posterior(estimate: Estimate, variant: Variant) -> Posterior:
    """The scorer's opinion and the variant's own results."""
    rate = min(0.999, max(0.001, estimate.rate))
    strength = max(2.0, estimate.strength)
    failures = variant.sends - variant.successes
    return Posterior(rate * strength + variant.successes, (1 - rate) * strength + failures)


def rank(given: OptimiseInput, estimates: Sequence[Estimate], scorer: str, seed: int) -> Ranking:
    """Pure. ``estimates`` in the order of ``given.variants``."""
    beliefs = [posterior(e, v) for e, v in zip(estimates, given.variants, strict=True)]
    rng = np.random.default_rng(seed)
    draws = rng.beta(
        np.array([b.alpha for b in beliefs])[:, None],
        np.array([b.beta for b in beliefs])[:, None],
        size=(len(beliefs), DRAWS),
    )
    best = np.bincount(draws.argmax(axis=0), minlength=len(beliefs)) / DRAWS
    low, high = np.quantile(draws, _INTERVAL, axis=1)
    shares = np.maximum(best, FLOOR)
    shares /= shares.sum()
    order = sorted(range(len(beliefs)), key=lambda i: (-beliefs[i].mean, given.variants[i].id))
    ranked = []
    for place, index in enumerate(order, 1):
        variant, estimate = given.variants[index], estimates[index]
        why = list(estimate.why)
        if variant.sends:
            seen = variant.successes / variant.sends
            why.insert(0, f"{variant.successes} of {variant.sends} sends succeeded ({seen:.1%})")
        ranked.append(
            Ranked(
                id=variant.id,
                rank=place,
                expected=round(beliefs[index].mean, 5),
                low=round(float(low[index]), 5),
                high=round(float(high[index]), 5),
                best_probability=round(float(best[index]), 4),
                share=round(float(shares[index]), 4),
                parts=estimate.parts,
                why=why,
            )
        )
    first = ranked[0]
    decisive = first.best_probability >= DECISIVE
    advice = (
        f"Send {first.id}: it is the best with {first.best_probability:.0%}."
        if decisive
        else f"Too early to decide: {first.id} leads with {first.best_probability:.0%}; go on "
        "sending all of them in the shares given."
    )
    return Ranking(goal=given.goal, scorer=scorer, ranked=ranked, decisive=decisive, advice=advice)


class Optimiser:
    name = "optimiser"
    step = "optimise"

    async def run(self, context: StepContext) -> StepResult:
        given = OptimiseInput.model_validate(context.input)
        own = HeuristicVariantScorer()
        scorer: VariantScorer = context.services.scorer or own
        notes: list[str] = []
        timeout = min(SCORER_TIMEOUT_S, max(0.01, context.deadline.remaining()))
        try:
            async with asyncio.timeout(timeout):
                estimates = await scorer.estimate(given.variants, given, timeout_s=timeout)
            if len(estimates) != len(given.variants):
                raise ValueError("an estimate per variant is needed")
        except (MailyError, TimeoutError, ValueError) as error:
            notes.append(f"{scorer.name} failed ({getattr(error, 'code', error)}): the heuristic")
            scorer = own
            estimates = await own.estimate(given.variants, given, timeout_s=timeout)
        result = rank(given, estimates, scorer.name, context.seed("draws", 0))
        await context.writer.token(self.step, result.advice)
        return StepResult(
            result.model_dump(mode="json"),
            (
                Decision(
                    agent=self.name,
                    what="variant",
                    chosen=result.ranked[0].id,
                    candidates=[
                        {"text": r.id, "score": r.expected, "low": r.low, "high": r.high,
                         "best_probability": r.best_probability, "parts": r.parts}
                        for r in result.ranked
                    ],
                    reason=f"highest expected {result.goal} rate ({result.scorer}); "
                    + "; ".join(result.ranked[0].why),
                    repairs=notes,
                    degraded=bool(notes),
                ),
            ),
            degraded=bool(notes),
        )  # fmt: skip


def _assemble(task: TaskInput, outputs: Mapping[str, StepOutput]) -> Ranking:
    return Ranking.model_validate(outputs["optimise"].output)


SPEC = KindSpec(
    kind=TaskKind.OPTIMISE,
    version=1,
    input_model=OptimiseInput,
    build=lambda _task: Pipeline((Optimiser(),)),
    assemble=_assemble,
    does="Ranks variants of an email by expected opens or clicks, with uncertainty and reasons",
    result_model=Ranking,
)
