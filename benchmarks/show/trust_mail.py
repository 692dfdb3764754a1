"""Real mail through rewriters: its text is recognised after each, and nobody else's is."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from benchmarks.instance import Instance
from benchmarks.show.table import Claim
from benchmarks.trustworks.corpus import messages
from benchmarks.trustworks.rewriters import REWRITERS
from benchmarks.trustworks.survival import SURVIVES, UNTOUCHED, Found, Mailbag

QUICK = 600
GOAL = 0.99
RUNS = 8
"""Shares of the work for each core, so that no core waits long at the end."""

_bag: Mailbag | None = None


async def run(instance: Instance | None, full: bool) -> list[Claim]:
    """Needs no instance. Fetches the messages if they are not here. Full: some minutes."""
    mails = await asyncio.to_thread(messages, None if full else QUICK)
    return claims(await examine(mails), len(mails))


async def examine(mails: list[bytes]) -> Found:
    """Over all cores; each knows all certificates and looks at a share of the messages."""
    workers = os.cpu_count() or 1
    loop = asyncio.get_running_loop()
    with ProcessPoolExecutor(
        workers, get_context("spawn"), initializer=_open, initargs=(mails,)
    ) as pool:
        parts = workers * RUNS
        runs = [
            loop.run_in_executor(pool, _share, range(part, len(mails), parts))
            for part in range(parts)
        ]
        return sum(await asyncio.gather(*runs), Found())


def _open(mails: list[bytes]) -> None:
    global _bag
    _bag = Mailbag(mails)


def _share(numbers: range) -> Found:
    assert _bag is not None
    return _bag.examine(numbers)


def claims(found: Found, count: int) -> list[Claim]:
    out = [
        Claim(
            "real mail as sent",
            f"{found.levels[UNTOUCHED]['exact']:,} of {count:,} messages exact",
            "all",
            found.levels[UNTOUCHED]["exact"] == count,
        )
    ]
    for name in REWRITERS:
        levels = found.levels[name]
        done, changed = sum(levels.values()), found.changed[name]
        share = sum(levels[level] for level in SURVIVES) / done if done else 0.0
        of_changed = found.survived_changed[name] / changed if changed else 1.0
        told = ", ".join(f"{number:,} {level}" for level, number in levels.most_common())
        out.append(
            Claim(
                f"… after {name}",
                f"{share:.2%} keep their text ({told}); {changed:,} copies are other bytes",
                f"≥ {GOAL:.0%} of {count:,}",
                share >= GOAL and of_changed >= GOAL and done == count,
            )
        )
    copies = sum(sum(levels.values()) for levels in found.levels.values())
    out.append(
        Claim(
            f"… another message's certificate, all {copies:,} × {count - 1:,} pairs",
            f"{len(found.false)} false matches; {found.candidates:,} pairs shared a digest or a "
            f"window, {found.same_words:,} of them because the certified words do stand there"
            + "".join(f"; {example}" for example in found.false[:3]),
            "0",
            not found.false,
        )
    )
    out.append(
        Claim(
            "… the parser",
            f"{len(found.crashes)} crashes" + "".join(f"; {one}" for one in found.crashes[:3]),
            "0",
            not found.crashes,
        )
    )
    out.append(
        Claim(
            "… the two implementations of the canonical form",
            f"{found.apart} of {copies:,} copies seen differently",
            "0",
            found.apart == 0,
        )
    )
    return out
