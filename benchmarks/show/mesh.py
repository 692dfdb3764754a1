"""``make show-mesh``: the mesh in depth, measured on running instances.

Quick sizes end within a quarter of an hour; ``FULL=1`` takes the sizes stated. The instances run
from a clean clone of what is committed, in homes and on ports of their own, one after the other:
each has the settings that its demonstrations need, and nothing is left behind.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import uvloop

from benchmarks.instance import Instance, free_ports
from benchmarks.report import RESULTS
from benchmarks.show import (
    lifecycle,
    mesh_agents,
    mesh_coordination,
    mesh_engines,
    mesh_gateway,
    mesh_kills,
    mesh_memory,
    mesh_streams,
    simulations,
)
from benchmarks.show.stage import console, guarded, started
from benchmarks.show.table import Claim, show

Demo = Callable[[Instance, bool], Awaitable[list[Claim]]]


@dataclass(frozen=True, slots=True)
class Act:
    """Demonstrations on one instance."""

    name: str
    settings: Mapping[str, str]
    demos: tuple[tuple[str, Demo], ...]


STREAMS = {
    "MAILY_LLM__REPLICAS": "2",
    "MAILY_LLM__ENGINE": "fake",
    "MAILY_LLM__FAULTS": '{"token_delay_s": 0.03}',
}
"""What the cursor's demonstration needs: streams that live when their engine dies, and a warm
peer."""

ACTS = (
    Act(
        "real engine",
        {},
        (
            ("speed of the real engine", mesh_gateway.run_real),
            ("memory", mesh_memory.run),
            ("coordination", mesh_coordination.run),
            ("agents", mesh_agents.run),
        ),
    ),
    Act("the gateway as a proxy", mesh_gateway.SETTINGS, (("proxy", mesh_gateway.run),)),
    Act(
        "two replicas of everything",
        {"MAILY_LLM__REPLICAS": "2", "MAILY_MEMORY__HOSTS": "2"},
        (("kills", mesh_kills.run),),
    ),
    Act("engines that fail", mesh_engines.SETTINGS, (("engines", mesh_engines.run),)),
    Act("streams", STREAMS, (("streams", mesh_streams.run),)),
)


async def demonstrate(full: bool, only: str | None) -> list[Claim]:
    with tempfile.TemporaryDirectory(prefix="maily-show-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        clone = lifecycle.make_clone(folder / "clone", free_ports())
        console.print("[bold]make install-dev[/] in a clean clone …")
        code, output = await clone.run("make", "install-dev", timeout_s=900)
        if code != 0:
            return [Claim("make install-dev", output[-300:], "exit 0", False)]
        claims = []
        for number, act in enumerate(ACTS):
            if only is not None and only not in act.name:
                continue
            home = folder / f"home-{number}"
            claims += await guarded(act.name, lambda a=act, h=home: play(clone, a, h, full))
        claims += await guarded("simulations", lambda: simulations.run(full))
        claims += await guarded("vLLM", lambda: vllm(clone, full))
    return claims


async def play(clone: lifecycle.Clone, act: Act, home: Path, full: bool) -> list[Claim]:
    claims = []
    async with started(clone, home, act.settings) as instance:
        for title, demo in act.demos:
            claims += await guarded(title, lambda d=demo: d(instance, full))
    return claims


async def vllm(clone: lifecycle.Clone, full: bool) -> list[Claim]:
    name, goal = "vLLM: chat, stream, cancel, fallback (`make test-vllm`)", "all pass"
    if not full:
        return [Claim(name, "FULL=1 runs it (4 GB of packages)", goal, None)]
    code, output = await clone.run("make", "test-vllm", timeout_s=1_800)
    lines = [line for line in output.splitlines() if " passed" in line or " failed" in line]
    return [Claim(name, lines[-1] if lines else output[-200:], goal, code == 0)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", default=os.environ.get("FULL") == "1")
    parser.add_argument("--only", help="acts whose name holds this")
    options = parser.parse_args()
    claims = uvloop.run(demonstrate(options.full, options.only))
    return show("Maily Mesh: the mesh in depth", claims, RESULTS / "show-mesh.json")


if __name__ == "__main__":
    raise SystemExit(main())
