"""What every benchmark writes: JSON for machines and a Markdown table for people."""

from __future__ import annotations

import json
import os
import platform
import time
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
"""Where reports are kept."""

PACKAGES = ("maily-mesh", "ray", "xllamacpp", "fastapi", "redis", "asyncpg", "torch")


@dataclass(frozen=True, slots=True)
class Row:
    """One measured figure. ``ratio`` is ours over the peer's, taken in the same run."""

    name: str
    ours: float
    unit: str
    peer: float | None = None
    ratio: float | None = None
    goal: str = ""
    holds: bool | None = None
    note: str = ""


@dataclass(slots=True)
class Report:
    title: str
    settings: dict[str, Any] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)

    def add(self, row: Row) -> None:
        self.rows.append(row)

    def write(self, folder: Path, stem: str) -> tuple[Path, Path]:
        """Write ``stem.json`` and ``stem.md`` into the folder; returns both paths."""
        folder.mkdir(parents=True, exist_ok=True)
        data = {
            "title": self.title,
            "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "machine": machine(),
            "settings": self.settings,
            "rows": [asdict(row) for row in self.rows],
        }
        as_json = folder / f"{stem}.json"
        as_json.write_text(json.dumps(data, indent=2) + "\n")
        as_markdown = folder / f"{stem}.md"
        as_markdown.write_text(self.markdown())
        return as_json, as_markdown

    def markdown(self) -> str:
        lines = [f"# {self.title}", ""]
        lines += [f"- {key}: {value}" for key, value in machine().items()]
        lines += [f"- {key}: {value}" for key, value in self.settings.items()]
        lines += ["", "| figure | ours | peer | ratio | unit | goal | holds |"]
        lines += ["|---|---:|---:|---:|---|---|---|"]
        for row in self.rows:
            peer = "" if row.peer is None else f"{row.peer:,.2f}"
            ratio = "" if row.ratio is None else f"{row.ratio:.3f}"
            holds = {None: "", True: "holds", False: "falls short"}[row.holds]
            name = row.name + (f" ({row.note})" if row.note else "")
            cells = (name, f"{row.ours:,.2f}", peer, ratio, row.unit, row.goal, holds)
            lines.append("| " + " | ".join(cells) + " |")
        return "\n".join(lines) + "\n"


def machine() -> dict[str, str]:
    """Processor, cores, memory, system and versions: a figure means little without them."""
    model = ""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    facts = {
        "processor": model or platform.processor(),
        "cores": str(os.cpu_count()),
        "memory": f"{pages:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }
    for name in PACKAGES:
        try:
            facts[name] = version(name)
        except PackageNotFoundError:
            continue
    return facts


def percentile(values: list[float], share: float) -> float:
    """The value below which ``share`` (0 to 1) of the sorted values lie (nearest rank)."""
    if not values:
        raise ValueError("no values were measured")
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))]
