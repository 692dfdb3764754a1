"""Engines that fail, measured on a running instance: breakers, fallback, answers that go on,
hedging, and how soon a cancelled request lets go of its slot.

The instance needs the engines of ``SETTINGS`` (``make show-mesh`` starts one with them): ``flaky``
and ``backup``, fakes behind the route ``chain``; ``twins``, a fake with two replicas; and the real
llama.cpp as the default. The fakes' faults are set over ``PUT /v1/mesh/engines/{engine}/faults``;
what was called and which breaker moved comes from ``/metrics``, summed over all processes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import psutil
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.instance import Instance
from benchmarks.report import percentile
from benchmarks.show.table import Claim

DEADLINE_S = 5.0
FIRST_TOKEN_S = 1.0
BETWEEN_S = 0.5
FAILURES = 5
PROBE_S = 1.0
GATEWAYS = 2
SETTINGS: Mapping[str, str] = {
    "MAILY_GATEWAY__REPLICAS": str(GATEWAYS),
    "MAILY_LLM__ENGINES": json.dumps(
        {
            "flaky": {"kind": "fake", "model": "flaky", "slots": 64},
            "backup": {"kind": "fake", "model": "backup", "slots": 64},
            "twins": {
                "kind": "fake",
                "model": "twins",
                "slots": 64,
                "replicas": 2,
                "faults": {"token_delay_s": 0.05},
            },
        }
    ),
    "MAILY_LLM__ROUTES": json.dumps({"chain": ["flaky", "backup"]}),
    "MAILY_LLM__CONNECT_TIMEOUT_S": "5",
    "MAILY_LLM__FIRST_TOKEN_TIMEOUT_S": str(FIRST_TOKEN_S),
    "MAILY_LLM__BETWEEN_TOKENS_TIMEOUT_S": str(BETWEEN_S),
    "MAILY_LLM__BREAKER_FAILURES": str(FAILURES),
    "MAILY_LLM__BREAKER_OPEN_S": str(PROBE_S),
    "MAILY_LLM__BREAKER_OPEN_MAX_S": "4",
    "MAILY_LLM__RETRIES": "0",
}
SCHEMA = {"type": "object", "properties": {"subject": {"type": "string"}}, "required": ["subject"]}


@dataclass(slots=True)
class Answer:
    """One streamed answer as a client sees it."""

    status: int = 0
    text: str = ""
    model: str = ""
    ids: set[str] = field(default_factory=set)
    finish: str | None = None
    error: str | None = None
    seconds: float = 0.0
    first_s: float = 0.0
    longest_gap_s: float = 0.0

    @property
    def whole(self) -> bool:
        return self.status == 200 and self.finish is not None and self.error is None


@dataclass(slots=True)
class Client:
    """Calls one instance."""

    instance: Instance
    session: aiohttp.ClientSession

    async def ask(self, model: str, number: int, **more: Any) -> Answer:
        """A streamed chat with a deadline; never raises for what the answer is."""
        body = {
            "model": model,
            "stream": True,
            "messages": [{"role": "user", "content": f"Write about our sale, number {number}."}],
            "seed": number,
            **more,
        }
        answer = Answer()
        began = last = time.perf_counter()
        try:
            async with self.session.post("/v1/chat/completions", json=body) as response:
                answer.status = response.status
                if response.status != 200:
                    answer.error = (await response.text())[:200]
                async for line in response.content:
                    if not line.startswith(b"data: {"):
                        continue
                    now = time.perf_counter()
                    chunk = json.loads(line[6:])
                    if "error" in chunk:
                        answer.error = str(chunk["error"])[:200]
                        continue
                    answer.ids.add(chunk["id"])
                    answer.model = chunk["model"]
                    for choice in chunk["choices"]:
                        piece = choice["delta"].get("content") or ""
                        if piece and not answer.text:
                            answer.first_s = now - began
                        elif piece:
                            answer.longest_gap_s = max(answer.longest_gap_s, now - last)
                        answer.text += piece
                        answer.finish = choice["finish_reason"] or answer.finish
                    last = now
        except aiohttp.ClientError as caught:
            answer.error = repr(caught)
        answer.seconds = time.perf_counter() - began
        return answer

    async def faults(self, engine: str, **faults: Any) -> None:
        async with self.session.put(f"/v1/mesh/engines/{engine}/faults", json=faults) as response:
            if response.status != 200:
                raise RuntimeError(f"faults: {response.status} {await response.text()}")

    async def engine(self, name: str) -> dict[str, Any]:
        async with self.session.get("/v1/mesh/engines") as response:
            engines = (await response.json())["data"]
        return next(engine for engine in engines if engine["name"] == name)

    async def figures(self) -> dict[tuple[str, ...], float]:
        """``(metric, labels in their order…)`` → sum over all processes."""
        async with self.session.get("/metrics") as response:
            text = await response.text()
        return {
            (sample.name, *(sample.labels[name] for name in sorted(sample.labels))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    async def tries(self, engine: str) -> float:
        """Calls of an engine that have ended, however."""
        figures = await self.figures()
        return sum(v for k, v in figures.items() if k[:2] == ("maily_llm_tries_total", engine))

    async def moves(self, engine: str) -> dict[str, float]:
        """Transitions of its breakers, by the state that they led to."""
        figures = await self.figures()
        name = "maily_breaker_transitions_total"
        return {k[2]: v for k, v in figures.items() if k[:2] == (name, engine)}


async def run(instance: Instance, full: bool = False) -> list[Claim]:
    """Quick sizes: about a minute."""
    headers = {
        "authorization": f"Bearer {instance.key}",
        "x-request-timeout-seconds": str(DEADLINE_S),
    }
    async with aiohttp.ClientSession(
        instance.url,
        headers=headers,
        connector=aiohttp.TCPConnector(limit=0, force_close=True),
        timeout=aiohttp.ClientTimeout(total=60),
    ) as session:
        client = Client(instance, session)
        count = 200 if full else 40
        claims = []
        for name, faults in (
            ("a dead engine", {"unavailable": True}),
            ("a hanging engine (takes requests, never answers)", {"hang_at_token": 1}),
            ("an engine that dies in the middle of each answer", {"die_at_token": 5}),
            ("an engine that falls silent in the middle", {"hang_at_token": 5}),
            ("an engine that sends half a chunk", {"malformed_at_token": 5}),
        ):
            claims += await _failing(client, name, faults, count)
        claims.append(await _replayed(client, count))
        claims.append(await _killed(client, 20))
        claims.append(await _hedged(client, 1_000 if full else 300))
        claims += await _cancelled(client, 300 if full else 60)
        return claims


async def _failing(client: Client, name: str, faults: dict[str, Any], count: int) -> list[Claim]:
    """Fail, be left alone, be probed, come back; the answers meanwhile."""
    await client.faults("flaky")
    await _comes_back(client, 0)
    # What would be said: the fakes answer the same question alike.
    expected = [await client.ask("backup", number) for number in range(count)]
    called, moved = await client.tries("flaky"), await client.moves("flaky")
    await client.faults("flaky", **faults)
    answers = []
    for number in range(0, count, 4):  # four at once
        answers += await asyncio.gather(
            *(client.ask("chain", n) for n in range(number, number + 4))
        )
    until = time.perf_counter() + 3 * PROBE_S
    while time.perf_counter() < until:  # long enough that it is looked at again
        answers.append(await client.ask("chain", 0))
        expected.append(expected[0])
        await asyncio.sleep(0.2)
    opened = await client.moves("flaky")
    calls = await client.tries("flaky") - called
    opens = opened.get("open", 0) - moved.get("open", 0)
    probes = opened.get("half_open", 0) - moved.get("half_open", 0)
    whole = sum(a.whole and a.text == e.text for a, e in zip(answers, expected, strict=True))
    slowest = max(answer.seconds for answer in answers)
    problems = [a.error or f"{a.text!r}" for a in answers if not a.whole][:2]
    await client.faults("flaky")
    back_s = await _comes_back(client, 10)
    # Each process counts for itself until the first tells the others; four callers at once may
    # all be under way when it opens.
    most = GATEWAYS * FAILURES + 4 + probes
    return [
        Claim(
            f"{name}: {len(answers)} requests",
            f"{whole} answered whole, each token once; slowest {slowest:.2f} s of "
            f"{DEADLINE_S:g} s" + (f"; {problems}" if problems else ""),
            "all, none beyond its deadline",
            whole == len(answers) and slowest <= DEADLINE_S,
        ),
        Claim(
            "… its breaker",
            f"opened after {calls - probes:.0f} calls by {GATEWAYS} gateways, {probes:.0f} probes; "
            + (f"closed and used {back_s:.1f} s after it was well" if back_s else "not back"),
            f"opens at {FAILURES} in a row, half-open probes, closes",
            opens >= 1 and probes >= 1 and calls <= most and back_s is not None,
        ),
    ]


async def _comes_back(client: Client, patience_s: float) -> float | None:
    """Seconds until the route's first engine answers again; None: not in time."""
    began = time.perf_counter()
    while True:
        answers = await asyncio.gather(*(client.ask("chain", n) for n in range(4)))
        took = time.perf_counter() - began
        if all(answer.model == "flaky" for answer in answers):
            return took
        if took > max(patience_s, 1.0):
            return None
        await asyncio.sleep(0.1)


async def _replayed(client: Client, count: int) -> Claim:
    """JSON can't go on in the middle: it is played again, and what went out is skipped."""
    more = {"response_format": {"type": "json_schema",
                                "json_schema": {"name": "mail", "schema": SCHEMA}}}  # fmt: skip
    expected = [await client.ask("backup", n, **more) for n in range(count)]
    await client.faults("flaky", die_at_token=2)
    answers = [await client.ask("chain", n, **more) for n in range(count)]
    await client.faults("flaky")
    await _comes_back(client, 10)
    same = sum(a.whole and a.text == e.text for a, e in zip(answers, expected, strict=True))
    valid = 0
    for answer in answers:
        with contextlib.suppress(ValueError):
            valid += "subject" in json.loads(answer.text)
    return Claim(
        f"JSON that breaks off in the middle, {count} times",
        f"{same} the same as unbroken, {valid} valid",
        "all",
        same == valid == count,
    )


async def _killed(client: Client, streams: int) -> Claim:
    """kill -9 of one of two replicas under live streams; the peer is warm."""
    expected = [await client.ask("twins", n) for n in range(streams)]
    found = [
        process
        for process in client.instance.processes()
        if _title(process).startswith("ray::ServeReplica:llm:LLM-twins")
    ]
    asked = [asyncio.create_task(client.ask("twins", n)) for n in range(streams)]
    await asyncio.sleep(0.25)
    found[0].kill()
    answers = await asyncio.gather(*asked)
    whole = sum(a.whole and a.text == e.text for a, e in zip(answers, expected, strict=True))
    one = sum(len(answer.ids) == 1 for answer in answers)
    problems = [answer.error or answer.text for answer in answers if not answer.whole][:2]
    stall = max(answer.longest_gap_s for answer in answers)
    return Claim(
        f"kill -9 of an engine replica under {streams} streams, with a warm peer",
        f"{whole} whole, {one} with one id; longest stall {stall * 1_000:.0f} ms"
        + (f"; {problems}" if problems else ""),
        "every token once; stall ≤ 1 s",
        whole == one == streams and stall <= 1.0,
    )


def _title(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error, IndexError):  # it ended meanwhile, or has no title
        return str(process.cmdline()[0])
    return ""


async def _hedged(client: Client, count: int) -> Claim:
    """Each twentieth answer is late; a second one is asked within its budget."""
    for _ in range(100):
        if len((await client.engine("twins"))["figures"]) == 2:
            break
        await asyncio.sleep(0.2)
    late_s = FIRST_TOKEN_S * 0.9
    await client.faults("twins", first_token_delay_s=late_s, every=33)
    before = await client.figures()
    waits = []
    for _ in range(0, count, 4):
        answers = await asyncio.gather(*(client.ask("twins", n, max_tokens=2) for n in range(4)))
        waits += [answer.first_s for answer in answers if answer.whole]
    after = await client.figures()
    await client.faults("twins", token_delay_s=0.05)

    def grown(kind: str) -> float:
        return sum(
            value - before.get(key, 0)
            for key, value in after.items()
            if key[:3] == ("maily_llm_tries_total", "twins", kind)
        )

    hedges = grown("hedge")
    share = hedges / max(1.0, grown("first"))
    late = sum(wait > late_s for wait in waits[count // 3 :])
    return Claim(
        f"first tokens late by {late_s:.1f} s in 1 of 33 of {count} requests",
        f"{hedges:.0f} hedges ({share * 100:.1f} %); of the last two thirds {late} were late "
        f"(p50 {percentile(waits, 0.5) * 1e3:.0f} ms)",
        "≤ 5 % extra; fewer late than 1 of 33",
        hedges > 0 and share <= 0.05 and late < (count * 2 / 3) / 33,
    )


async def _cancelled(client: Client, count: int) -> list[Claim]:
    """Real llama.cpp: leave in the middle of streams and of whole answers, then watch the slots."""
    before = await client.engine("default")
    waits: list[float] = []
    ended = 0
    for number in range(count):
        unary = number % 3 == 2
        body = {
            "model": client.instance.model,
            "messages": [{"role": "user", "content": f"Tell a very long story, number {number}."}],
            "max_tokens": 900,
            "stream": not unary,
        }
        ended += not await _leave(client, body, unary)
        left = time.perf_counter()
        while (await client.engine("default"))["figures"][0]["active"]:
            if time.perf_counter() - left > 5:
                break
        waits.append(time.perf_counter() - left)
    figures = (await client.engine("default"))["figures"][0]
    old = before["figures"][0]
    cancelled = figures["cancelled"] - old["cancelled"]
    after = figures["tokens_after_cancel"] - old["tokens_after_cancel"]
    p50, p99 = percentile(waits, 0.5), percentile(waits, 0.99)
    return [
        Claim(
            f"cancel to free slot, llama.cpp, {count} clients leave streams and whole answers",
            f"p50 {p50 * 1e3:.0f} ms, p99 {p99 * 1e3:.0f} ms from the client's socket; "
            f"{figures['cancel_p99_s'] * 1e3:.0f} ms p99 in the engine",
            "p99 ≤ 150 ms",
            p99 <= 0.15 and cancelled >= count - ended and ended <= count // 20,
        ),
        Claim(
            "tokens made after a cancel",
            f"{after:.0f} in {cancelled:.0f} cancels ({ended} stories ended first), at most "
            f"{figures['tokens_after_cancel_most']:.0f} of one request",
            "≤ 2 a request",
            figures["tokens_after_cancel_most"] <= 2,
        ),
    ]


async def _leave(client: Client, body: dict[str, Any], unary: bool) -> bool:
    """Begin a request and drop the connection while the engine works on it. False: the answer was
    whole before that, so there is nothing to cancel."""
    async with contextlib.AsyncExitStack() as stack:
        request = client.session.post("/v1/chat/completions", json=body)
        if not unary:
            response = await stack.enter_async_context(request)
            seen = 0
            async for _ in response.content:
                seen += 1
                if seen > 8:
                    break
            response.close()
            return seen > 8
        task = asyncio.create_task(request.__aenter__())
        while not (await client.engine("default"))["figures"][0]["active"]:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        left = task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return left
