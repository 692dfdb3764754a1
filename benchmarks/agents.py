"""The agents' quality on 200 briefs, on a running instance: ``make bench-agents``.

Every brief goes through the real pipeline. Reported: validity (by ``benchmarks.email_check``, not
by our guardrails), repairs, the share that had to fall back on templates, how different the emails
are, and whether the classifier finds topic and tone that the brief meant. Beside it, in the same
run, what a user would do without the runtime: the same model asked once for the whole email.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.briefs import load_briefs
from benchmarks.email_check import invented_figures, problems
from benchmarks.instance import Instance, find_instance
from benchmarks.report import Report, Row, percentile

RESULTS = Path(__file__).parent / "results"
CONCURRENCY = 12
DEADLINE_S = 240.0
QUICK, FULL = 12, 200
PEERS_QUICK, PEERS_FULL = 8, 60
_ENDED = frozenset({"succeeded", "failed", "cancelled"})


@dataclass(slots=True)
class Written:
    """One brief's email."""

    brief: dict[str, Any]
    state: str
    seconds: float
    result: dict[str, Any] = field(default_factory=dict)
    steps: list[dict[str, Any]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    classified: dict[str, Any] | None = None

    @property
    def valid(self) -> bool:
        return self.state == "succeeded" and not self.wrong

    @property
    def degraded(self) -> bool:
        return bool(self.result.get("degraded"))

    def text(self) -> str:
        """What the model and the templates wrote: subject, preheader, paragraphs."""
        email = self.result.get("email") or {}
        blocks = email.get("blocks", [])
        parts = [email.get("subject", ""), email.get("preheader", "")]
        parts += [block["text"] for block in blocks if block.get("kind") == "paragraph"]
        return " ".join(parts)


class Api:
    """The instance's task API, as a client sees it."""

    def __init__(self, instance: Instance, session: aiohttp.ClientSession) -> None:
        self._url = instance.url
        self._session = session
        self._headers = {"Authorization": f"Bearer {instance.key}"}

    async def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        async with self._session.request(
            method, self._url + path, json=body, headers=self._headers
        ) as response:
            raw = await response.read()
            return response.status, json.loads(raw) if raw else None

    async def task(self, body: dict[str, Any]) -> dict[str, Any]:
        """Run a task to its end; its view. Waits as Retry-After says when refused."""
        until = time.monotonic() + DEADLINE_S
        while True:
            status, view = await self.call("POST", "/v1/mesh/tasks", body)
            if status == 202:
                break
            if status not in (429, 503) or time.monotonic() > until:
                raise RuntimeError(f"{status}: {json.dumps(view)[:300]}")
            await asyncio.sleep(1.0)
        pause = 0.2
        while view["state"] not in _ENDED:
            await asyncio.sleep(pause)
            pause = min(1.0, pause * 1.3)
            _, view = await self.call("GET", f"/v1/mesh/tasks/{view['id']}")
        ended: dict[str, Any] = view
        return ended


async def write_all(
    api: Api, briefs: Sequence[dict[str, Any]], concurrency: int = CONCURRENCY
) -> list[Written]:
    """Every brief through the pipeline, ``concurrency`` at once, with a bar on standard error."""
    slots = asyncio.Semaphore(concurrency)
    done = 0

    async def one(index: int, brief: dict[str, Any]) -> Written:
        nonlocal done
        async with slots:
            started = time.monotonic()
            view = await api.task(
                {"brief": brief["brief"], "seed": 1_000 + index, "deadline_s": DEADLINE_S,
                 "use_memory": False}
            )  # fmt: skip
            result = view.get("result") or {}
            written = Written(
                brief, view["state"], time.monotonic() - started, result, view.get("steps", [])
            )
            written.wrong = problems(brief["brief"], result) if result else [str(view["error"])]
            done += 1
            progress("emails", done, len(briefs))
            return written

    return list(await asyncio.gather(*(one(i, brief) for i, brief in enumerate(briefs))))


async def classify_all(api: Api, written: Sequence[Written]) -> None:
    """What the classifier says of each English email."""
    slots = asyncio.Semaphore(CONCURRENCY)

    async def one(entry: Written) -> None:
        email = entry.result["email"]
        draft = {key: email[key] for key in ("subject", "preheader", "blocks", "merge_tags")}
        async with slots:
            view = await api.task({"kind": "classify", "input": {"email": draft}})
        entry.classified = view.get("result")

    await asyncio.gather(*(one(e) for e in written if e.result and e.brief["language"] == "en"))


BARE_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "subject": {"type": "string", "minLength": 1, "maxLength": 90},
        "preheader": {"type": "string", "minLength": 1, "maxLength": 140},
        "paragraphs": {
            "type": "array",
            "items": {"type": "string", "minLength": 1, "maxLength": 400},
            "minItems": 1,
            "maxItems": 3,
        },
        "button": {"type": "string", "minLength": 1, "maxLength": 60},
        "url": {"type": "string", "maxLength": 200},
    },
    "required": ["subject", "preheader", "paragraphs", "button", "url"],
    "additionalProperties": False,
}


@dataclass(frozen=True, slots=True)
class Bare:
    """What the model made of one brief alone."""

    wrong: list[str]
    figures: list[str] = field(default_factory=list)
    """Invented ones."""


async def ask_bare(api: Api, model: str, briefs: Sequence[dict[str, Any]]) -> list[Bare]:
    """The same model, one prompt, the same grammar.

    It is helped as far as a user would: the schema holds the form, the facts stand in the prompt.
    """
    slots = asyncio.Semaphore(4)
    done = 0

    async def one(index: int, entry: dict[str, Any]) -> Bare:
        nonlocal done
        body = {
            "model": model,
            "messages": [
                {
                    "role": "system",
                    "content": "Write a marketing email as JSON. Use only the facts, links and "
                    "merge tags of the brief. Merge tags look like {{ name | fallback }}.",
                },
                {"role": "user", "content": json.dumps(entry["brief"], ensure_ascii=False)},
            ],
            "temperature": 0.1,
            "seed": 1_000 + index,
            "max_tokens": 420,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "email", "strict": True, "schema": BARE_SCHEMA},
            },
        }
        async with slots:
            status, answer = await api.call("POST", "/v1/chat/completions", body)
        done += 1
        progress("bare model", done, len(briefs))
        if status != 200:
            return Bare([f"status {status}"])
        try:
            made = json.loads(answer["choices"][0]["message"]["content"])
        except (ValueError, KeyError, TypeError):
            return Bare(["no JSON"])
        result = as_result(made, bool(entry["brief"]["links"]))
        return Bare(problems(entry["brief"], result), invented_figures(entry["brief"], result))

    return list(await asyncio.gather(*(one(i, brief) for i, brief in enumerate(briefs))))


def as_result(made: dict[str, Any], wants_button: bool) -> dict[str, Any]:
    """The bare answer in the shape that the checker reads."""
    paragraphs = [{"kind": "paragraph", "text": text} for text in made.get("paragraphs", [])]
    button = {"kind": "button", "text": made.get("button", ""), "url": made.get("url", "")}
    blocks = [*paragraphs, button] if wants_button else paragraphs
    return {
        "email": {
            "subject": made.get("subject"),
            "preheader": made.get("preheader"),
            "subject_candidates": [made.get("subject")],
            "blocks": blocks,
        },
        "text": "\n".join(block["text"] for block in blocks),
        "html": "",
    }


def distinct(texts: Sequence[str], n: int) -> float:
    """Different n-grams over all n-grams, 0 to 1 (Li et al. 2016)."""
    grams: list[tuple[str, ...]] = []
    for text in texts:
        words = text.casefold().split()
        grams += [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0


def most_alike(texts: Sequence[str]) -> float:
    """Mean over texts of the greatest Jaccard likeness of word pairs to another one."""
    sets = [set(pairwise(text.casefold().split())) for text in texts]
    best = []
    for i, a in enumerate(sets):
        likeness = [len(a & b) / max(1, len(a | b)) for j, b in enumerate(sets) if i != j]
        best.append(max(likeness, default=0.0))
    return sum(best) / len(best) if best else 0.0


async def spread(api: Api, model: str, texts: Sequence[str]) -> float:
    """Mean cosine distance between the emails' embeddings, 0 (all alike) to 2."""
    vectors: list[list[float]] = []
    for start in range(0, len(texts), 32):
        status, answer = await api.call(
            "POST", "/v1/embeddings", {"model": model, "input": list(texts[start : start + 32])}
        )
        if status != 200:
            raise RuntimeError(f"{status}: {json.dumps(answer)[:200]}")
        vectors += [item["embedding"] for item in answer["data"]]
    total, count = 0.0, 0
    for i, a in enumerate(vectors):
        for b in vectors[i + 1 :]:
            norm = math.hypot(*a) * math.hypot(*b)
            total += 1 - sum(x * y for x, y in zip(a, b, strict=True)) / norm
            count += 1
    return total / count if count else 0.0


def progress(what: str, done: int, total: int) -> None:
    if sys.stderr.isatty():
        filled = "█" * (30 * done // total)
        sys.stderr.write(f"\r{what:12} {filled:30} {done}/{total}")
        sys.stderr.write("\n" if done == total else "")
        sys.stderr.flush()


def repairs(written: Written) -> int:
    """Things that were mended or refused on the way."""
    return sum(
        len(decision.get("repairs") or [])
        for step in written.steps
        for decision in step.get("decisions") or []
        if decision.get("what") != "memory"
    )


def degraded_steps(written: Sequence[Written]) -> Counter[str]:
    """How often each step had to fall back on its template."""
    return Counter(
        step["name"]
        for entry in written
        for step in entry.steps
        if any(d.get("degraded") for d in step.get("decisions") or [])
    )


async def measure(
    instance: Instance, full: bool, count: int | None = None
) -> tuple[Report, list[Written]]:
    """Everything, in one run."""
    briefs = load_briefs(count or (FULL if full else QUICK))
    peers = briefs[: min(len(briefs), PEERS_FULL if full else PEERS_QUICK)]
    report = Report("Agents on committed briefs", {"briefs": len(briefs), "peers": len(peers)})
    timeout = aiohttp.ClientTimeout(total=None, sock_read=300)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        api = Api(instance, session)
        started = time.monotonic()
        written = await write_all(api, briefs)
        seconds = time.monotonic() - started
        bare = await ask_bare(api, instance.model, peers)
        await classify_all(api, written)
        texts = [entry.text() for entry in written if entry.result]
        distance = await spread(api, instance.settings.llm.embedding_model, texts)
    add_validity(report, written, bare)
    add_quality(report, written, texts, distance)
    add_speed(report, written, seconds)
    return report, written


def add_validity(report: Report, written: Sequence[Written], bare: Sequence[Sequence[str]]) -> None:
    valid = sum(entry.valid for entry in written)
    ours = 100 * valid / len(written)
    theirs = 100 * sum(not one.wrong for one in bare) / len(bare)
    report.add(
        Row(
            "valid emails",
            ours,
            "%",
            theirs,
            ours / theirs if theirs else None,
            "100 %",
            valid == len(written),
            "peer: the bare model, one prompt, the same briefs",
        )
    )
    mine = [e for e in written if e.result and invented_figures(e.brief["brief"], e.result)]
    report.add(
        Row(
            "emails with a figure that the brief does not hold",
            100 * len(mine) / len(written),
            "%",
            100 * sum(bool(one.figures) for one in bare) / len(bare),
        )
    )
    for name, english in (("English", True), ("other languages", False)):
        group = [e for e in written if (e.brief["language"] == "en") == english]
        if group:
            share = 100 * sum(e.degraded for e in group) / len(group)
            report.add(Row(f"degraded, {name}", share, "%", note=f"{len(group)} briefs"))
    steps = degraded_steps(written)
    report.add(
        Row(
            "steps that fell back on a template",
            100 * sum(steps.values()) / (5 * len(written)),
            "%",
            note=", ".join(f"{name} {count}" for name, count in steps.most_common()),
        )
    )


def add_quality(
    report: Report, written: Sequence[Written], texts: Sequence[str], distance: float
) -> None:
    total = len(written)
    report.add(Row("repairs and refusals per email", sum(map(repairs, written)) / total, ""))
    reviews = [(e.result.get("email") or {}).get("review", {}) for e in written]
    approved = sum(bool(review.get("approved")) for review in reviews)
    report.add(Row("approved by the reviewer", 100 * approved / total, "%"))
    report.add(Row("distinct-1", distinct(texts, 1), ""))
    report.add(Row("distinct-2", distinct(texts, 2), ""))
    report.add(Row("likeness to the most similar other", most_alike(texts), "", note="0: none"))
    report.add(Row("embedding distance between emails", distance, ""))
    for question in ("topic", "tone"):
        agree = [
            entry.classified[question]["label"] == entry.brief[question]
            for entry in written
            if entry.classified
        ]
        if agree:
            share = 100 * sum(agree) / len(agree)
            note = f"{len(agree)} English emails"
            report.add(Row(f"classifier finds the brief's {question}", share, "%", note=note))


def add_speed(report: Report, written: Sequence[Written], seconds: float) -> None:
    report.add(Row("emails per minute", 60 * len(written) / seconds, ""))
    median = percentile([entry.seconds for entry in written], 0.5)
    report.add(Row("seconds per email, p50", median, "s", note=f"{CONCURRENCY} at once"))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Quality of the agents on 200 briefs.")
    parser.add_argument("--full", action="store_true", help=f"{FULL} briefs, not {QUICK}")
    parser.add_argument("--count", type=int, help="so many briefs")
    parser.add_argument("--dump", type=Path, help="write every email here, as JSON lines")
    given = parser.parse_args(arguments)
    report, written = asyncio.run(measure(find_instance(), given.full, given.count))
    if given.dump:
        given.dump.write_text("".join(json.dumps(asdict(entry)) + "\n" for entry in written))
    for entry in written:
        if not entry.valid:
            sys.stdout.write(f"{entry.brief['id']}: {entry.state}: {'; '.join(entry.wrong)}\n")
    sys.stdout.write(report.markdown())
    report.write(RESULTS, "agents" if given.full else "agents-quick")
    return 0 if all(entry.valid for entry in written) else 1


if __name__ == "__main__":
    sys.exit(main())
