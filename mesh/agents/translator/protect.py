"""What a translation must not touch is taken out before and put back after.

Merge tags, names to keep, addresses: each becomes a word like ``T0`` that models copy. Whether all
came back, each once, is checked; so are the figures, which stay in the text.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from mesh.agents.guard import patterns as p
from mesh.agents.guard.facts import numbers

MOST = 100
MARKS = (" ".join(f"T{index}" for index in range(MOST)),)
"""Every mark, for guardrails that would take its digits for a figure."""
_MARK = re.compile(r"(?<![\w])T(\d{1,2})(?![\w])")


@dataclass(frozen=True, slots=True)
class Protected:
    """A text with marks, and what stands behind each."""

    text: str
    parts: tuple[str, ...]

    def problems(self, translation: str) -> list[str]:
        """What got lost, came twice or was made up."""
        found = Counter(_MARK.findall(translation))
        wanted = Counter(_MARK.findall(self.text))
        wrong = [f"lost or doubled T{name}" for name in wanted if found[name] != wanted[name]]
        wrong += [f"made up T{name}" for name in found if name not in wanted]
        return wrong

    def restore(self, translation: str) -> str:
        """Every mark replaced; those that stand for nothing go."""

        def back(match: re.Match[str]) -> str:
            index = int(match[1])
            return self.parts[index] if index < len(self.parts) else ""

        return _MARK.sub(back, translation)


def protect(text: str, keep: Sequence[str] = ()) -> Protected:
    """Longest names first, so that a name within another does not tear it."""
    parts: list[str] = []
    names = sorted({k for k in keep if k.strip()}, key=lambda k: (-len(k), k))
    patterns = [p.MERGE_TAG.pattern, _MARK.pattern.replace("(\\d", "(?:\\d"), p.EMAIL.pattern]
    patterns += [r"https?://[^\s<>\"']+", *(rf"(?<!\w){re.escape(n)}(?!\w)" for n in names)]
    pattern = re.compile("|".join(f"(?:{x})" for x in patterns))

    def take(match: re.Match[str]) -> str:
        if match.group() in parts:
            return f"T{parts.index(match.group())}"
        if len(parts) == MOST:
            return match.group()
        parts.append(match.group())
        return f"T{len(parts) - 1}"

    return Protected(pattern.sub(take, text), tuple(parts))


def figure_problems(source: str, translation: str) -> list[str]:
    """Figures that differ; how a language writes 1.5 and 1,5 makes no difference."""

    def plain(text: str) -> Counter[str]:
        bare = _MARK.sub("", text)
        return Counter(re.sub(r"[.,]", "", number) for number, _ in numbers(bare))

    lost = plain(source) - plain(translation)
    added = plain(translation) - plain(source)
    return [f"lost the figure {n}" for n in lost] + [f"made up the figure {n}" for n in added]
