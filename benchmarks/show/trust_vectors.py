"""Published vectors and mutants, through every verifier there is: no answer may be a false one."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context

from benchmarks.instance import Instance
from benchmarks.show.table import Claim
from benchmarks.trustworks import page
from benchmarks.trustworks.mutants import Case, Cases, Verifier, false_accept, verifiers
from benchmarks.trustworks.vectors import published

QUICK, FULL = (12_000, 10_000), (120_000, 100_000)
"""Mutants made, and how many there must be."""
SEED = 20_260


@dataclass(slots=True)
class Tally:
    """What the verifiers said of a run of mutants."""

    cases: Counter[str] = field(default_factory=Counter)
    """By kind."""
    false: Counter[str] = field(default_factory=Counter)
    """False accepts by verifier."""
    asked: Counter[str] = field(default_factory=Counter)
    """Answers by verifier."""
    apart: int = 0
    """Cases of which not all verifiers said the same."""
    examples: list[str] = field(default_factory=list)

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.cases + other.cases,
            self.false + other.false,
            self.asked + other.asked,
            self.apart + other.apart,
            (self.examples + other.examples)[:3],
        )


async def run(instance: Instance | None, full: bool) -> list[Claim]:
    """Needs no instance. Quick: about half a minute; full: some minutes."""
    claims = await asyncio.to_thread(vectors)
    return claims + await mutants(*(FULL if full else QUICK))


def vectors() -> list[Claim]:
    """One row a source."""
    done: dict[str, list[tuple[str, bool]]] = {}
    for vector in published():
        done.setdefault(vector.source, []).append((vector.name, vector.holds()))
    claims = []
    for source, results in done.items():
        wrong = [name for name, holds in results if not holds]
        told = f"; not {', '.join(wrong[:3])}" if wrong else ""
        claims.append(
            Claim(source, f"{len(results) - len(wrong)} of {len(results)}{told}", "all", not wrong)
        )
    return claims


async def mutants(count: int, least: int) -> list[Claim]:
    workers = os.cpu_count() or 1
    share = -(-count // workers)
    loop = asyncio.get_running_loop()
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        runs = [
            loop.run_in_executor(pool, tally, share, SEED + number) for number in range(workers)
        ]
        found = sum(await asyncio.gather(*runs), Tally())
    kinds = ", ".join(f"{number:,} {kind}s" for kind, number in found.cases.most_common())
    goal = f"0 false accepts of ≥ {least:,}"
    claims = [
        Claim(
            f"mutants, verifier {name}",
            f"{found.false[name]} false accepts of {asked:,} ({kinds})",
            goal,
            found.false[name] == 0 and asked >= least,
        )
        for name, asked in found.asked.items()
    ]
    claims.append(
        Claim(
            "… the verifiers among themselves",
            f"{found.apart} cases with unlike answers of {sum(found.cases.values()):,}"
            + "".join(f"; {example}" for example in found.examples),
            "0",
            found.apart == 0,
        )
    )
    return claims


def tally(count: int, seed: int) -> Tally:
    """In a process of its own. Every verifier must accept the originals; raises if one does not."""
    cases = Cases()
    with page.opened(cases.anchors) as in_page:
        known: dict[str, Verifier] = {**verifiers(cases), page.NAME: in_page}
        for case in cases.originals():
            for name, verifier in known.items():
                if not verifier(case).holds:
                    raise RuntimeError(f"{name} refuses what is genuine: {case}")
        return judged(cases.mutants(count, seed), known)


def judged(cases: Iterable[Case], known: dict[str, Verifier]) -> Tally:
    found = Tally()
    for case in cases:
        found.cases[case.kind] += 1
        answers = {name: verifier(case) for name, verifier in known.items()}
        for name, answer in answers.items():
            found.asked[name] += 1
            if false_accept(case, answer):
                found.false[name] += 1
                found.examples.append(f"{name}: {case}"[:300])
        if len(set(answers.values())) > 1:
            found.apart += 1
            found.examples.append(f"{answers}"[:300])
    found.examples = found.examples[:3]
    return found
