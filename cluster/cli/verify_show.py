"""What ``maily verify`` shows. Text of a message never gets at the terminal as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from cluster.cli.console import out
from mesh.trust.levels import Level
from mesh.trust.present.words import LEVELS, STATES, STEPS

if TYPE_CHECKING:
    from cluster.verifying.judge import Outcome
    from mesh.trust.verdict import Seen, Verdict

MAX_SHOWN = 300
"""Characters of text from a message."""
_SAME = {"same": "same as in the message", "other": "[yellow]another than in the message[/]"}


def printable(text: str, limit: int = MAX_SHOWN) -> str:
    """Without control characters (escape sequences, marks of direction), cut, markup escaped."""
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[:limit])
    return escape(shown + ("…" if len(text) > limit else ""))


def one(outcome: Outcome, code: int, keys_from: str) -> None:
    """All that is known of one message. ``keys_from``: whose word the keys are."""
    verdict = outcome.verdict
    if verdict is None:
        out.print("[bold red]✗[/] [bold]no certificate[/] was found for this message")
        _notes(outcome)
        return
    sign = "[bold green]✓[/]" if code == 0 else "[bold red]✗[/]"
    word = "revoked" if verdict.state == "revoked" else str(verdict.level)
    out.print(f"{sign} [bold]{word}[/]", highlight=False)
    if verdict.state == "revoked":
        out.print(STATES["revoked"], soft_wrap=True)
    if not verdict.holds:
        number = verdict.failed_step or 0
        out.print(
            f"Step {number} does not hold ({STEPS[number]}): {printable(verdict.reason)}",
            highlight=False,
            soft_wrap=True,
        )
    if verdict.signers or verdict.level is not Level.DIFFERENT:
        out.print(LEVELS[verdict.level], highlight=False, soft_wrap=True)
    rows = _rows(outcome, verdict, keys_from)
    for name, value in rows:
        out.print(f"  [dim]{name:<12}[/] {value}", highlight=False, soft_wrap=True)
    _notes(outcome)


def _rows(outcome: Outcome, verdict: Verdict, keys_from: str) -> list[tuple[str, str]]:
    rows = [
        ("message", printable(outcome.name)),
        ("certificate", f"{printable(outcome.source)}, {outcome.form}"),
    ]
    if verdict.signers:
        rows.append(("issuer", f"{printable(', '.join(verdict.signers))} (keys: {keys_from})"))
    if verdict.domain:
        rows.append(("sender", f"{printable(verdict.domain)}: {_SAME.get(verdict.sender, '?')}"))
    if verdict.signers:
        small = "not told: only the full form tells it at this level"
        unsaid = "not known; --recipient says whom it came to"
        full = outcome.form == "JSON" or verdict.level is Level.EXACT
        rows += [
            ("message id", _SAME.get(verdict.message_id, small)),
            ("recipient", _SAME.get(verdict.recipient, unsaid if full else small)),
            ("state", f"{verdict.state}. {STATES[verdict.state]}"),
        ]
    rows += [("block", _block(seen)) for seen in verdict.seen]
    if verdict.differs:
        rows.append(("differs", printable(", ".join(verdict.differs))))
    if verdict.added_bytes:
        around = f"{verdict.added_before} … {verdict.added_after}"
        size = f"{verdict.added_bytes} bytes of text, without its white space"
        rows.append(("added", f"{size}: {printable(around)}"))
    if verdict.added_origins:
        rows.append(("links added", printable(", ".join(verdict.added_origins))))
    if verdict.missing_origins:
        rows.append(("links gone", printable(", ".join(verdict.missing_origins))))
    if verdict.holds:
        looked = (
            "not looked at: --server URL or --revocations FILE does"
            if outcome.revocations is None
            else f"none of it among {outcome.revocations} looked at"
        )
        rows.append(("revocations", looked))
    rows.append(("as of", f"{outcome.as_of:%Y-%m-%d %H:%M:%S} UTC"))
    return rows


def _block(seen: Seen) -> str:
    from cluster.verifying.judge import as_time

    final = "final" if seen.final else "not final yet"
    return (
        f"{seen.number} of chain {seen.chain_id}, {as_time(seen.time_s) or 'no time'}, "
        f"{final}: 0x{seen.block_hash.hex()}"
    )


def _notes(outcome: Outcome) -> None:
    for note in outcome.notes:
        out.print(f"  [yellow]note[/]         {printable(note)}", highlight=False, soft_wrap=True)


def table(outcomes: list[Outcome], codes: list[int]) -> None:
    """A line for each of several messages, and a count."""
    shown = Table(box=None, pad_edge=False)
    for name in ("", "message", "level", "state", "sender", "recipient", "why"):
        shown.add_column(name, overflow="fold")
    for outcome, code in zip(outcomes, codes, strict=True):
        verdict = outcome.verdict
        sign = "[green]✓[/]" if code == 0 else "[red]✗[/]"
        if verdict is None:
            why = outcome.notes[0] if outcome.notes else ""
            row = ["no certificate", "", "", "", why]
        else:
            why = verdict.reason or ", ".join(verdict.differs)
            step = f"step {verdict.failed_step}: " if verdict.failed_step else ""
            row = [str(verdict.level), verdict.state, verdict.sender, verdict.recipient, step + why]
        shown.add_row(sign, *(printable(cell) for cell in (outcome.name, *row)))
    out.print(shown)
    held = codes.count(0)
    out.print(f"{held} of {len(codes)} hold.", highlight=False)
