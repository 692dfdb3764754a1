"""Trust: leaves a second, proofs, certificates, gas; and other ways to prove a message beside it.

    make bench-trust      # or: python -m benchmarks.trust --full  (a million leaves everywhere)

Peers run here too, in the same run: pymerkle on the same entries; OpenTimestamps' own library, a
proof each file; DKIM as dkimpy verifies it, its key at once; and a transaction for each message.
Writes ``benchmarks/results/trust.json`` and ``.md``.
"""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from benchmarks.report import RESULTS, Report, Row
from benchmarks.trustworks import corpus, gas, hashing, peers, ray_tasks, timing
from benchmarks.trustworks.campaign import Closed, closed, letter
from mesh.core.logging import configure_logging

MILLION = 1_000_000
QUICK_LEAVES = 200_000
"""Of what goes through pipes to workers; what one core does is always a million."""
LETTERS = 1_000
PEER_ENTRIES = 20_000
OTS_FILES = 16_384
LEAVES_GOAL, VERIFY_MS, CBOR_BYTES, EVENT_GAS = 500_000.0, 1.0, 800, 25_000


def leaves(report: Report, full: bool) -> None:
    rate = hashing.one_core(MILLION)
    report.add(
        Row(
            "salt, leaf and tree of 1 M messages, one core",
            rate,
            "leaves/s",
            goal=f"≥ {LEAVES_GOAL:,.0f}",
            holds=rate >= LEAVES_GOAL,
        )
    )
    size = MILLION if full else QUICK_LEAVES
    alone = hashing.by_workers(size, 1)
    for workers in sorted({2, os.cpu_count() or 1} - {1}):
        many = hashing.by_workers(size, workers)
        report.add(
            Row(
                f"{size:,} leaves by {workers} processes, their ranges joined to the root",
                many,
                "leaves/s",
                alone,
                many / alone,
                note="wall time; peer: one process, the same way",
            )
        )
    cores = os.cpu_count() or 1
    by_ray = ray_tasks.trees(MILLION, (1, max(2, cores)))
    one, most = min(by_ray), max(by_ray)
    report.add(
        Row(
            f"tree of 1 M leaves by {most} Ray tasks at once, as a batch is closed",
            by_ray[most],
            "leaves/s",
            by_ray[one],
            by_ray[most] / by_ray[one],
            note="wall time, leaves sent to the tasks; peer: one task at once; the same root",
        )
    )
    same = hashing.same_root(QUICK_LEAVES - 3, (1, 2, 3, 7, 16))
    report.add(
        Row("the root by 1, 2, 3, 7 and 16 workers is one", float(same), "", goal="1", holds=same)
    )
    took = hashing.memory(MILLION)
    report.add(
        Row(
            "peak memory of that process, 1 M messages",
            took.peak,
            "MiB",
            note=f"{took.before:.0f} before, {took.columns:.0f} with the columns given",
        )
    )


def certificates(report: Report, campaign: Closed) -> dict[str, timing.Times]:
    size = campaign.tree.size
    given = timing.proofs(campaign)
    report.add(
        Row("path and JSON of a certificate", given.p50, "ms", note=f"p99 {given.p99:.3f} ms")
    )
    found = timing.verifications(campaign)
    kilobytes = sum(map(len, campaign.letters)) / len(campaign.letters) / 1_000
    for words, times in found.items():
        # What is parsed once may be verified often; whole is what a mail client would do.
        whole, ours = "whole" in words, words.endswith(("parsed", "whole"))
        slowest = times.p50 if whole else times.p99
        report.add(
            Row(
                f"verify {words}",
                times.p50,
                "ms",
                goal=f"{'p50' if whole else 'p99'} ≤ {VERIFY_MS:g}" if ours else "",
                holds=slowest <= VERIFY_MS if ours else None,
                note=f"p99 {times.p99:.3f} ms, {size:,} leaves, letters of {kilobytes:.1f} kB",
            )
        )
    json_bytes = max(len(one.to_json()) for one in campaign.certificates)
    cbor_bytes = max(len(one.compact().to_cbor()) for one in campaign.certificates)
    report.add(Row(f"largest certificate of {LETTERS:,}, JSON, {size:,} leaves", json_bytes, "B"))
    report.add(
        Row(
            f"largest certificate of {LETTERS:,}, CBOR, {size:,} leaves",
            cbor_bytes,
            "B",
            goal=f"≤ {CBOR_BYTES}",
            holds=cbor_bytes <= CBOR_BYTES,
        )
    )
    return found


def canonicalising(report: Report) -> None:
    letters = [letter(number) for number in range(LETTERS)]
    size = sum(map(len, letters)) / len(letters) / 1_000
    report.add(
        Row(
            f"canonicalise campaign letters of {size:.1f} kB, one core",
            timing.canonical_rate(letters),
            "messages/s",
        )
    )
    mails = corpus.messages(LETTERS)
    size = sum(map(len, mails)) / len(mails) / 1_000
    report.add(
        Row(
            f"canonicalise real mail of {size:.1f} kB on average, one core",
            timing.canonical_rate(mails),
            "messages/s",
        )
    )


async def on_chain(report: Report) -> None:
    async with gas.node() as chain:
        spent = await gas.measure(chain)
    naive = spent.calldata
    for method, units, goal in (("event", spent.event, EVENT_GAS), ("calldata", spent.calldata, 0)):
        report.add(
            Row(
                f"gas of a root by {method}",
                units,
                "gas",
                goal=f"≤ {goal:,}" if goal else "",
                holds=units <= goal if goal else None,
                note=f"registry deployed once for {spent.deployment:,}" if goal else "",
            )
        )
    report.add(
        Row(
            "gas of 1,000 messages, a batch of 1 M by event",
            spent.event / MILLION * 1_000,
            "gas",
            naive * 1_000.0,
            spent.event / MILLION / naive,
            note="peer: a transaction with a digest for each message; "
            f"{naive * MILLION / spent.event:,.0f} times as much",
        )
    )


async def beside_pymerkle(report: Report) -> None:
    asked = (3, PEER_ENTRIES, 500)
    theirs = await peers.pymerkle_tree(*asked)
    mine = await asyncio.to_thread(peers.our_tree, *asked)
    if mine.root != theirs.root:
        raise RuntimeError("two trees of RFC 9162 have different roots")
    for words, unit, name in (
        ("tree of {} entries built", "1/s", "built"),
        ("inclusion proof out of {}", "µs", "prove_us"),
        ("inclusion proof of {} verified", "µs", "verify_us"),
    ):
        ours, peer = getattr(mine, name), getattr(theirs, name)
        title = words.format(f"{PEER_ENTRIES:,}")
        report.add(Row(title, ours, unit, peer, ours / peer, note="peer: pymerkle; the same root"))


async def beside_opentimestamps(report: Report) -> None:
    theirs = await peers.opentimestamps(OTS_FILES)
    campaign = closed(OTS_FILES, LETTERS)
    given, found = timing.proofs(campaign), timing.verifications(campaign)
    cbor = max(len(one.compact().to_cbor()) for one in campaign.certificates)
    what = f"one calendar tree of {OTS_FILES:,} files, its answer straight to a block"
    rows: Sequence[tuple[str, float, str, float]] = (
        ("bytes a message, CBOR, beside a file's proof", cbor, "B", theirs["bytes"]),
        (
            "a certificate made, beside stamping and saving a file",
            given.p50,
            "ms",
            theirs["stamp_s"] * 1_000,
        ),
        (
            "a proof verified (message parsed), beside reading a file's proof",
            found["CBOR, message parsed"].p50,
            "ms",
            theirs["verify_s"] * 1_000,
        ),
    )
    for name, ours, unit, peer in rows:
        report.add(Row(name, ours, unit, peer, ours / peer, note=f"peer: OpenTimestamps, {what}"))
    report.add(
        Row(
            f"once in a block: work for {OTS_FILES:,} messages' proofs",
            0.0,
            "s",
            theirs["upgrade_s"] * OTS_FILES,
            note="ours: none, the batch has one receipt; peer: every file is upgraded and saved "
            "again, without the network that it asks",
        )
    )


def beside_dkim(report: Report, found: dict[str, timing.Times]) -> None:
    theirs = peers.dkim_verify_ms()
    for form in ("JSON", "CBOR"):
        ours = found[f"{form}, whole"].p50
        report.add(
            Row(
                f"a letter verified whole, {form}",
                ours,
                "ms",
                theirs,
                ours / theirs,
                note="peer: dkimpy, RSA-2048, its key at once; tells the domain while the key is "
                "in DNS, no time, nothing of a rewritten copy",
            )
        )


async def main_async(full: bool) -> Report:
    report = Report("Trust: leaves, certificates, verification, gas", {"full": full})
    await _step("leaves", lambda: asyncio.to_thread(leaves, report, full))
    campaign = await asyncio.to_thread(closed, MILLION, LETTERS)
    found = await asyncio.to_thread(certificates, report, campaign)
    await _step("canonical form", lambda: asyncio.to_thread(canonicalising, report))
    await _step("gas", lambda: on_chain(report))
    await _step("pymerkle", lambda: beside_pymerkle(report))
    await _step("OpenTimestamps", lambda: beside_opentimestamps(report))
    await _step("dkimpy", lambda: asyncio.to_thread(beside_dkim, report, found))
    return report


async def _step(name: str, act: Callable[[], Coroutine[Any, Any, None]]) -> None:
    print(f"{name} …", flush=True)
    await act()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="a million leaves through workers, too")
    options = parser.parse_args()
    configure_logging("bench-trust", "WARNING")
    report = asyncio.run(main_async(options.full))
    report.write(RESULTS, "trust")
    print(report.markdown())
    return 0 if all(row.holds is not False for row in report.rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
