"""``make show-gateway``: the first issue's demonstrations, measured on a running instance.

Quick sizes end within 15 minutes; ``FULL=1`` takes the sizes stated. Everything runs in a clean
clone of what is committed, with a HOME and ports of its own, and nothing is left behind.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvloop

from benchmarks.gateway import RESULTS, measure
from benchmarks.instance import Instance, free_ports
from benchmarks.show import bad_input, fuzz, kills, lifecycle, openai_client, resume
from benchmarks.show.stage import guarded
from benchmarks.show.table import Claim, show


async def bench(instance: Instance, full: bool) -> list[Claim]:
    report = await measure(instance, full)
    report.write(RESULTS, "gateway")
    return [
        Claim(
            row.name,
            f"{row.ours:,.1f} {row.unit}"
            + (f"; llama.cpp {row.peer:,.1f}; ratio {row.ratio:.3f}" if row.peer else "")
            + (f"; {row.note}" if row.note else ""),
            row.goal or "(for the record)",
            True if row.holds is None else row.holds,
        )
        for row in report.rows
    ]


async def ci(folder: Path) -> list[Claim]:
    clone = lifecycle.make_clone(folder, {"CI": "true"})
    started = time.monotonic()
    code, output = await clone.run("bash", ".ci/run", timeout_s=5400)
    seconds = time.monotonic() - started
    lifecycle.remove(clone)
    return [
        Claim(
            ".ci/run on a clean clone",
            f"exit {code} after {seconds / 60:.1f} min" + ("" if code == 0 else output[-300:]),
            "green in ≤ 20 min",
            code == 0 and seconds <= 1200,
        )
    ]


async def demonstrate(full: bool) -> list[Claim]:
    with tempfile.TemporaryDirectory(prefix="maily-show-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        clone = lifecycle.make_clone(folder / "clone", free_ports())
        claims = await guarded("life cycle", lambda: lifecycle.run(clone))
        try:
            if all(claim.holds for claim in claims[:2]):
                instance = Instance.from_status(await clone.status(), clone.environ)
                demos: list[tuple[str, Callable[[], Awaitable[list[Claim]]]]] = [
                    ("openai client", lambda: openai_client.run(instance)),
                    ("speed", lambda: bench(instance, full)),
                    ("resume", lambda: resume.run(instance)),
                    ("bad input", lambda: bad_input.run(instance)),
                    (
                        "schemathesis",
                        lambda: fuzz.run(
                            instance, examples=100 if full else 10, timeout_s=1800 if full else 240
                        ),
                    ),
                    ("kills", lambda: kills.run(instance, tasks=20 if full else 8)),
                ]
                for title, demo in demos:
                    claims += await guarded(title, demo)
        finally:
            await clone.run(clone.maily, "down", timeout_s=120)
        if full:
            claims += await guarded(".ci/run", lambda: ci(folder / "ci"))
        else:
            claims.append(
                Claim(".ci/run on a clean clone", "FULL=1 runs it", "green in ≤ 20 min", None)
            )
    return claims


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", default=os.environ.get("FULL") == "1")
    options = parser.parse_args()
    claims = uvloop.run(demonstrate(options.full))
    return show("Maily Mesh: the runtime stands", claims, RESULTS / "show-gateway.json")


if __name__ == "__main__":
    raise SystemExit(main())
