"""From candidates to an answer: fuse, weigh, diversify, pack.

It runs where the question was asked, over the candidates of every namespace, so that the answer
does not depend on which host owns what.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mesh.contracts.memory import (
    MemoryAnswer,
    MemoryHit,
    MemoryItem,
    MemoryKind,
    MemoryQuery,
    ScoreParts,
    SearchMode,
)
from mesh.memory.decay import recency
from mesh.memory.fusion import fuse
from mesh.memory.mmr import diversify
from mesh.memory.options import KindPolicy
from mesh.memory.packing import pack
from mesh.memory.shapes import Found


@dataclass(frozen=True, slots=True)
class Ranked:
    """A candidate with its score, before likeness among hits is looked at."""

    found: Found
    score: float
    parts: ScoreParts


def citation_of(item: MemoryItem) -> str:
    return f"mem:{item.id}"


def score(
    query: MemoryQuery,
    found: Sequence[Found],
    now: float,
    policies: Mapping[MemoryKind, KindPolicy],
) -> list[Ranked]:
    """Best first; equals in the order of their ids. ``now``: Unix seconds."""
    dense_ranks = _ranks({f.record.id: f.dense for f in found if f.dense is not None})
    text_ranks = _ranks({f.record.id: f.text for f in found if f.text is not None})
    lists = [ranks for ranks in (dense_ranks, text_ranks) if ranks]
    fused = fuse(lists)
    ranked = []
    for candidate in found:
        item = candidate.record
        if query.mode is SearchMode.HYBRID:
            own = fused.get(item.id, 0.0)
        elif query.mode is SearchMode.DENSE:
            own = max(0.0, candidate.dense or 0.0)
        else:
            own = candidate.text or 0.0
        parts = ScoreParts.model_construct(
            dense=candidate.dense,
            dense_rank=dense_ranks.get(item.id),
            text=candidate.text,
            text_rank=text_ranks.get(item.id),
            fused=own,
            recency=recency(item, now, policies),
            importance=item.importance,
            penalty=0.0,
        )
        weight = query.recency_weight * parts.recency + query.importance_weight * parts.importance
        total = (1 + weight) / (1 + query.recency_weight + query.importance_weight) * own
        ranked.append(Ranked(candidate, round(total, 9), parts))
    return sorted(ranked, key=lambda r: (-r.score, r.found.record.id.bytes))


def answer(
    query: MemoryQuery,
    found: Sequence[Found],
    now: float,
    policies: Mapping[MemoryKind, KindPolicy],
    *,
    degraded: str | None = None,
) -> MemoryAnswer:
    """The whole of it. ``degraded``: why it may not be everything."""
    ranked = score(query, found, now, policies)
    chosen = diversify(
        [r.found.vector for r in ranked], [r.score for r in ranked], query.k, query.diversity
    )
    hits = []
    for index, penalty in chosen:
        best = ranked[index]
        parts = best.parts
        if penalty:
            parts = parts.model_copy(update={"penalty": round(penalty, 9)})
        item = best.found.item
        hits.append(
            MemoryHit.model_construct(
                item=item, score=best.score, parts=parts, citation=citation_of(item)
            )
        )
    packed = pack([hit.item.text for hit in hits], query.token_budget)
    return MemoryAnswer.model_construct(
        hits=[hits[index] for index in packed.kept],
        packed=packed.text,
        tokens=packed.tokens,
        left_out=len(hits) - len(packed.kept),
        degraded=degraded is not None,
        reason=degraded,
    )


def _ranks(scores: Mapping[object, float]) -> dict[object, int]:
    """From 1; equals in the order of their names."""
    ordered = sorted(scores.items(), key=lambda pair: (-pair[1], str(pair[0])))
    return {name: rank for rank, (name, _) in enumerate(ordered, start=1)}
