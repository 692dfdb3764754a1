"""``make show-mesh``: the mesh in depth, measured on running instances.

Quick sizes end within a quarter of an hour; ``FULL=1`` takes the sizes stated. The instances run
from a clean clone of what is committed, in homes and on ports of their own, one after the other:
each has the settings that its demonstrations need, and nothing is left behind.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

from benchmarks.instance import free_ports
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
from benchmarks.show.stage import Act, console, guarded, play, present
from benchmarks.show.table import Claim

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
        (
            ("speed of the real engine", mesh_gateway.run_real),
            ("memory", mesh_memory.run),
            ("coordination", mesh_coordination.run),
            ("agents", mesh_agents.run),
        ),
    ),
    Act("the gateway as a proxy", (("proxy", mesh_gateway.run),), mesh_gateway.SETTINGS),
    Act(
        "two replicas of everything",
        (("kills", mesh_kills.run),),
        {"MAILY_LLM__REPLICAS": "2", "MAILY_MEMORY__HOSTS": "2"},
    ),
    Act("engines that fail", (("engines", mesh_engines.run),), mesh_engines.SETTINGS),
    Act("streams", (("streams", mesh_streams.run),), STREAMS),
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
            claims += await guarded(act.name, partial(play, clone, act, home, full))
        claims += await guarded("simulations", lambda: simulations.run(full))
        claims += await guarded("vLLM", lambda: vllm(clone, full))
    return claims


async def vllm(clone: lifecycle.Clone, full: bool) -> list[Claim]:
    name, goal = "vLLM: chat, stream, cancel, fallback (`make test-vllm`)", "all pass"
    if not full:
        return [Claim(name, "FULL=1 runs it (4 GB of packages)", goal, None)]
    code, output = await clone.run("make", "test-vllm", timeout_s=1_800)
    lines = [line for line in output.splitlines() if " passed" in line or " failed" in line]
    return [Claim(name, lines[-1] if lines else output[-200:], goal, code == 0)]


def main() -> int:
    return present("Maily Mesh: the mesh in depth", "show-mesh.json", demonstrate, __doc__)


if __name__ == "__main__":
    raise SystemExit(main())
