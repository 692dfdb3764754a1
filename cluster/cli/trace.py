"""``maily trace ID``: why a task came out as it did, as a tree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.text import Text
from rich.tree import Tree

from cluster.cli.console import JsonFlag, answer, err, load, out

if TYPE_CHECKING:
    from mesh.core.settings import Settings

BAR = 24
"""Characters of the time bar."""
STATES = {
    "succeeded": "[green]✓[/]",
    "failed": "[red]✗[/]",
    "cancelled": "[red]✗[/]",
    "running": "[cyan]▸[/]",
    "waiting": "[yellow]◦[/]",
    "queued": "[dim]·[/]",
}


def trace(
    task_id: Annotated[str, typer.Argument(help="The task's id.", metavar="ID")],
    url: Annotated[str | None, typer.Option(help="Of another gateway.")] = None,
    full: Annotated[
        bool, typer.Option("--full", help="Every candidate, repair and call, nothing shortened.")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Show why a task came out as it did: attempts, steps, choices, models, tokens, cost, time."""
    view = fetch(load(), task_id, url, quiet=json)
    if json:
        answer(view)
        return
    out.print(draw(view, full=full))


def fetch(settings: Settings, task_id: str, url: str | None, *, quiet: bool) -> dict[str, Any]:
    """The trace as the API gives it. Failure when there is no such task."""
    from uuid import UUID

    from cluster.cli.write import api_key
    from cluster.client import TaskClient
    from cluster.failures import USAGE, Failure

    try:
        UUID(task_id)
    except ValueError:
        raise Failure(
            f"{task_id!r} is no task id", "`maily write` shows it; it looks like 0198…-…", USAGE
        ) from None

    def waiting(reason: str) -> None:
        if not quiet:
            err.print(f"[dim]waiting: {reason[:200]}[/]", highlight=False)

    key = api_key(settings.home / "secrets" / "api-key")
    with TaskClient(url or settings.gateway_url, key, waiting) as client:
        return client.trace(task_id)


def draw(view: Mapping[str, Any], *, full: bool = False) -> Tree:
    """The tree. ``view``: a TaskTrace as JSON."""
    totals = view["totals"]
    head = Text.from_markup(
        f"{_mark(view['state'])} [bold]{escape(view['kind'])}[/] {view['state']} in "
        f"[bold]{_span(view['seconds'])}[/]"
    )
    if view.get("queued_s") is not None:
        head.append(f", of them {_span(view['queued_s'])} queued", "dim")
    if view.get("degraded"):
        head.append("  degraded", "yellow")
    head.append(f"\n{_sums(totals)}", "dim")
    if view.get("trace_id"):
        head.append(f"\ntrace {view['trace_id']}", "dim")
    tree = Tree(head, guide_style="dim")
    if view.get("error"):
        tree.add(_error(view["error"]))
    whole = max(float(view["seconds"]), 1e-9)
    for attempt in view["attempts"]:
        branch = tree.add(_attempt(attempt))
        if attempt.get("choice"):
            _choice(branch, attempt["choice"], full)
        for step in attempt["steps"]:
            _step(branch, step, whole, full)
    if not view["attempts"]:
        tree.add("[dim]nobody has claimed it yet[/]")
    for source in view.get("incomplete") or ():
        tree.add(f"[yellow]the {escape(source)} did not answer: this is not all[/]")
    return tree


def _attempt(attempt: Mapping[str, Any]) -> Text:
    line = Text(f"attempt {attempt['attempt']}", "bold")
    line.append(f"  {attempt['worker'] or 'unknown worker'}", "cyan")
    if attempt.get("seconds") is not None:
        line.append(f"  {_span(attempt['seconds'])}")
    outcome = attempt.get("outcome") or "runs"
    line.append(f"  {outcome}", "red" if outcome in ("lost", "failed") else "dim")
    return line


def _choice(branch: Tree, choice: Mapping[str, Any], full: bool) -> None:
    node = branch.add(Text.assemble(("why this worker: ", "dim"), choice["reason"] or "not said"))
    for candidate in choice["candidates"][: None if full else 4]:
        line = Text(str(candidate["worker"]), "cyan")
        if candidate.get("score") is not None:
            line.append(f"  {candidate['score']:.3f}")
        parts = "  ".join(f"{k} {_short(v)}" for k, v in candidate["parts"].items())
        line.append(f"  {parts}", "dim")
        node.add(line)


def _step(branch: Tree, step: Mapping[str, Any], whole: float, full: bool) -> None:
    line = Text.from_markup(f"{_mark(step['state'])} [bold]{escape(step['name'])}[/]")
    if step["agent"]:
        line.append(f"  {step['agent']}", "cyan")
    for prompt in step["prompts"]:
        line.append(f"  {prompt}", "dim")
    line.append(f"  {_span(step['seconds'])}  ")
    line.append(bar(step["offset_s"], step["seconds"], whole), "green")
    if step["degraded"]:
        line.append("  degraded", "yellow")
    if step["tries"] > 1:
        line.append(f"  {step['tries']} tries", "yellow")
    if step["totals"]["calls"]:
        line.append(f"\n  {_sums(step['totals'])}", "dim")
    node = branch.add(line)
    if step.get("error"):
        node.add(_error(step["error"]))
    for read in step["reads"]:
        node.add(_read(read, full))
    for decision in step["decisions"]:
        _decision(node, decision, full)
    for retried in step["retried"][-(50 if full else 3) :]:
        node.add(Text(f"thrown away (try {retried['n']}): {_short(retried['reason'])}", "yellow"))
    if step["handed_to"]:
        node.add(Text(f"handed to {step['handed_to']}", "cyan"))
    calls = step["calls"]
    for call in calls if full else calls[:6]:
        node.add(_call(call))
    if len(calls) > 6 and not full:
        node.add(Text(f"… and {len(calls) - 6} calls more: --full", "dim"))
    children = step["children"]
    for child in children if full else children[:12]:
        _step(node, child, whole, full)
    if len(children) > 12 and not full:
        node.add(Text(f"… and {len(children) - 12} steps more: --full", "dim"))


def _read(read: Mapping[str, Any], full: bool) -> Text:
    line = Text("read ", "dim")
    line.append(f"{read['kind']} {read['ref']}", "magenta")
    if read.get("erased"):
        line.append("  erased since", "red")
    if read.get("score") is not None:
        line.append(f"  {read['score']:.3f}")
    if read["outcome"] != "ok":
        line.append(f"  {read['outcome']} {read['error']}", "red")
    if read.get("text"):
        line.append(f"  “{read['text'] if full else _short(read['text'], 60)}”", "dim")
    elif read["label"]:
        line.append(f"  {read['label']}", "dim")
    if read.get("folded", 1) > 1:
        line.append(f"  and {read['folded'] - 1} more", "dim")
    return line


def _decision(node: Tree, decision: Mapping[str, Any], full: bool) -> None:
    line = Text(f"{decision['what']}: ", "dim")
    line.append(_short(decision["chosen"], 400 if full else 80), "bold")
    if decision["reason"]:
        line.append(f"  ({decision['reason']})", "dim")
    if decision["degraded"]:
        line.append("  template", "yellow")
    branch = node.add(line)
    candidates: Sequence[Mapping[str, Any]] = decision["candidates"]
    for candidate in candidates if full else candidates[:5]:
        text = Text()
        score = candidate.get("score")
        if isinstance(score, int | float):
            text.append(f"{score:6.3f}  ", "green")
        shown = {k: v for k, v in candidate.items() if k != "score"}
        value = next((shown[k] for k in ("text", "value", "label", "name") if k in shown), shown)
        text.append(_short(value, 400 if full else 80))
        branch.add(text)
    for repair in decision["repairs"] if full else decision["repairs"][:3]:
        branch.add(Text(f"mended: {_short(repair)}", "yellow"))
    for cite in decision.get("cites") or ():
        branch.add(Text(f"rests on {cite}", "magenta"))


def _call(call: Mapping[str, Any]) -> Text:
    line = Text("asked ", "dim")
    line.append(call["engine"] or "no engine", "blue")
    line.append(f" {call['model'] or call['requested']}")
    if call["route"]:
        line.append(f" by route {call['route']}", "dim")
    line.append(f"  {call['prompt_tokens']}→{call['completion_tokens']} tokens")
    line.append(f"  {_span(call['seconds'])}")
    if call.get("ttft_s") is not None:
        line.append(f"  first after {_span(call['ttft_s'])}", "dim")
    if call.get("cost_micros"):
        line.append(f"  {call['cost_micros'] / 1e6:.6f}")
    if call["outcome"] != "ok":
        line.append(f"  {call['outcome']} {call['error']}", "red")
    extra = [one for one in call["tries"] if one["kind"] != "first"]
    for one in extra:
        line.append(f"  {one['kind']} {one['engine']} {one['outcome']}", "yellow")
    if call.get("folded", 1) > 1:
        line.append(f"  ({call['folded']} calls)", "dim")
    return line


def _error(error: Mapping[str, Any]) -> Text:
    return Text(f"{error.get('code', 'error')}: {error.get('message', '')}", "red")


def _sums(totals: Mapping[str, Any]) -> str:
    words = [
        f"{totals['calls']} calls",
        f"{totals['prompt_tokens']}→{totals['completion_tokens']} tokens",
        f"{_span(totals['model_seconds'])} in models",
    ]
    if totals.get("cost_micros"):
        words.append(f"cost {totals['cost_micros'] / 1e6:.6f}")
    if totals["reads"]:
        words.append(f"{totals['reads']} read")
    if totals["repairs"]:
        words.append(f"{totals['repairs']} mended")
    if totals["extra_tries"]:
        words.append(f"{totals['extra_tries']} extra tries")
    if totals["degraded_steps"]:
        words.append(f"{totals['degraded_steps']} degraded")
    return ", ".join(words)


def bar(offset: float, seconds: float, whole: float) -> str:
    """When it ran within the whole: ``──██──``, ``BAR`` characters."""
    start = min(BAR - 1, int(offset / whole * BAR))
    length = min(BAR - start, max(1, round(seconds / whole * BAR)))
    return "─" * start + "█" * length + "─" * (BAR - start - length)


def _mark(state: str) -> str:
    return STATES.get(state, "·")


def _span(seconds: float) -> str:
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.2f} s" if seconds < 60 else f"{seconds / 60:.1f} min"


def _short(value: Any, limit: int = 120) -> str:
    text = value if isinstance(value, str) else str(value)
    text = " ".join(text.split())
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
