"""A reader that disconnects again and again gets the very bytes that an unbroken one gets."""

from __future__ import annotations

import asyncio
import random

import aiohttp

from benchmarks.instance import Instance
from benchmarks.show.mesh_client import read_events, submit
from benchmarks.show.table import Claim


async def broken_reader(
    session: aiohttp.ClientSession, instance: Instance, task: str, cuts: int, seed: int
) -> tuple[list[bytes], int]:
    """Read to the end, dropping the connection ``cuts`` times; returns frames and cuts made."""
    rng = random.Random(seed)
    frames: list[bytes] = []
    made = 0
    cursor: str | None = None
    while True:
        limit = rng.randint(1, 6) if made < cuts else None
        got, cursor, ended = await read_events(session, instance, task, cursor, limit)
        frames += got
        if ended:
            return frames, made
        made += 1


async def run(instance: Instance, cuts: int = 10) -> list[Claim]:
    async with aiohttp.ClientSession() as session:
        task = await submit(session, instance, "resume demonstration")
        whole, *broken = await asyncio.gather(
            broken_reader(session, instance, task, 0, 0),
            *(broken_reader(session, instance, task, cuts, seed) for seed in range(1, 4)),
        )
        late, _ = await broken_reader(session, instance, task, 0, 0)
    same = all(frames == whole[0] for frames, _ in broken) and late == whole[0]
    fewest = min(made for _, made in broken)
    size = sum(map(len, whole[0]))
    return [
        Claim(
            f"three readers that disconnect, against an unbroken and a late one ({size:,} bytes)",
            f"{len(whole[0])} events, {fewest} disconnects each, "
            + ("byte-identical" if same else "they differ"),
            f"byte-identical over {cuts} disconnects",
            same and fewest >= cuts,
        )
    ]
