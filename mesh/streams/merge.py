"""Catching up in larger pieces: neighbouring tokens of a step become one event.

Nothing is lost by it and nothing comes in another order; the merged event has the place of its
last one, so the cursor after it is the same as without merging.
"""

from __future__ import annotations

from collections.abc import Sequence

from mesh.contracts.events import Event, EventType

_PLAIN = {"step", "text"}
MOST_CHARS = 32_768
"""Text of one merged event; a longer run becomes several."""


def merge(events: Sequence[Event]) -> tuple[list[Event], list[int]]:
    """The events with runs of tokens joined, and how many each stands for."""
    merged: list[Event] = []
    counts: list[int] = []
    run: list[Event] = []
    chars = 0

    def close() -> None:
        nonlocal chars
        if len(run) > 1:
            text = "".join(event.data["text"] for event in run)
            last = run[-1]
            merged.append(last.model_copy(update={"data": {**last.data, "text": text}}))
        else:
            merged.extend(run)
        if run:
            counts.append(len(run))
        run.clear()
        chars = 0

    for event in events:
        if event.type is not EventType.TOKENS or set(event.data) != _PLAIN:
            close()
            merged.append(event)
            counts.append(1)
            continue
        size = len(event.data["text"])
        if run and (
            run[-1].data["step"] != event.data["step"]
            or run[-1].attempt != event.attempt
            or chars + size > MOST_CHARS
        ):
            close()
        run.append(event)
        chars += size
    close()
    return merged, counts
