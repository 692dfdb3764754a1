"""``make show-trust``: certificates, anchors and verifiers, measured on running instances.

Quick sizes end within a quarter of an hour; ``FULL=1`` takes the sizes stated. The instances run
from a clean clone of what is committed, in homes and on ports of their own, one after the other:
each has the settings that its demonstrations need, and nothing is left behind but the screenshots.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

from benchmarks.instance import Instance, free_ports
from benchmarks.show import (
    lifecycle,
    trust_campaign,
    trust_hashing,
    trust_kills,
    trust_mail,
    trust_offline,
    trust_outage,
    trust_phone,
    trust_reorg,
    trust_vectors,
)
from benchmarks.show.stage import Act, console, guarded, play, present
from benchmarks.show.table import Claim

Pure = Callable[[Instance | None, bool], Awaitable[list[Claim]]]


def acts() -> tuple[Act, ...]:
    return (
        Act(
            "campaign, reorganisation, phone",
            (
                ("campaign", trust_campaign.run),
                ("reorganisation", trust_reorg.run),
                ("phone", trust_phone.run),
            ),
            trust_campaign.SETTINGS,
        ),
        Act("kills", (("kills", trust_kills.run),), trust_kills.settings()),
        Act("outage", (("outage", trust_outage.run),), trust_outage.SETTINGS),
    )


PURE: tuple[tuple[str, Pure], ...] = (
    ("leaves and tree", trust_hashing.run),
    ("vectors and mutants", trust_vectors.run),
    ("real mail", trust_mail.run),
    ("offline", trust_offline.run),
)
"""They need no instance."""


async def demonstrate(full: bool, only: str | None) -> list[Claim]:
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="maily-show-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        clone = lifecycle.make_clone(folder / "clone", free_ports())
        console.print("[bold]make install-dev[/] in a clean clone …")
        code, output = await clone.run("make", "install-dev", timeout_s=900)
        if code != 0:
            return [Claim("make install-dev", output[-300:], "exit 0", False)]
        console.print(f"  {time.monotonic() - began:.0f} s")
        claims: list[Claim] = []
        for number, act in enumerate(acts()):
            if only is None or only in act.name:
                home = folder / f"home-{number}"
                claims += await guarded(act.name, partial(play, clone, act, home, full))
    for title, demo in PURE:
        if only is None or only in title:
            claims += await guarded(title, partial(demo, None, full))
    minutes = (time.monotonic() - began) / 60
    if only is None and not full:
        claims.append(Claim("all of this", f"{minutes:.1f} minutes", "≤ 15 minutes", minutes <= 15))
    return claims


def main() -> int:
    return present("Maily Mesh: trust verification", "show-trust.json", demonstrate, __doc__)


if __name__ == "__main__":
    raise SystemExit(main())
