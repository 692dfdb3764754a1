"""``maily write BRIEF``: have an email written and watch it being written."""

from __future__ import annotations

import json as json_module
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.panel import Panel
from rich.text import Text

from cluster.cli.console import JsonFlag, answer, err, load, out, stop

if TYPE_CHECKING:
    from cluster.client import StreamEvent, TaskClient
    from mesh.core.settings import Settings


def write(
    brief: Annotated[
        str, typer.Argument(help="A .json brief, a text file, or the brief itself in words.")
    ],
    out_file: Annotated[
        Path | None, typer.Option("--out", help="Write the mail's HTML to this file.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="For the same email again.")] = None,
    model: Annotated[str | None, typer.Option(help="Default: the runtime's model.")] = None,
    url: Annotated[str | None, typer.Option(help="Of another gateway.")] = None,
    json: JsonFlag = False,
) -> None:
    """Write an email from a brief; its tokens stream as they come."""
    run_write(brief, out_file=out_file, seed=seed, model=model, url=url, json=json)


def run_write(
    brief: str,
    *,
    settings: Settings | None = None,
    out_file: Path | None = None,
    seed: int | None = None,
    model: str | None = None,
    url: str | None = None,
    json: bool = False,
) -> None:
    """What the verb does. Ends the process when no email came of it."""
    from cluster.client import TaskClient

    settings = settings or load()
    body = {"brief": read_brief(brief), "seed": seed, "model": model}
    key = api_key(settings.home / "secrets" / "api-key")

    def waiting(reason: str) -> None:
        if not json:
            err.print(f"[dim]waiting: {reason[:200]}[/]", highlight=False)

    with TaskClient(url or settings.gateway_url, key, waiting) as client:
        task = client.create({name: value for name, value in body.items() if value is not None})
        view = _watch(client, task, quiet=json)
    result = view.get("result")
    if out_file is not None and result is not None:
        try:
            out_file.write_text(result["html"], encoding="utf-8")
        except OSError as error:
            stop(
                f"{out_file} can't be written: {error.strerror}",
                "choose another --out; the email is in `maily write --json`'s answer too",
            )
    if json:
        answer(view)
    if view["state"] != "succeeded":
        problem = view.get("error") or {}
        if json:
            raise typer.Exit(1)
        stop(
            f"the task ended as {view['state']}: {problem.get('message', 'no reason given')}",
            "`maily status` says which part is unwell; `maily logs` shows the logs",
        )
    if not json:
        _show(view, out_file)


def read_brief(argument: str) -> dict[str, Any]:
    """A brief as the API takes it. Failure when the file can't be read."""
    from cluster.failures import USAGE, Failure

    path = Path(argument)
    try:
        is_file = path.is_file()
    except OSError:  # a long sentence is no file name
        is_file = False
    if not is_file:
        if path.suffix == ".json":
            raise Failure(f"{argument} does not exist", "give the path of a .json brief", USAGE)
        return {"goal": argument}
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Failure(f"{argument} can't be read: {error}", "give a UTF-8 text", USAGE) from None
    if path.suffix != ".json":
        return {"goal": text.strip()}
    try:
        value = json_module.loads(text)
    except ValueError as error:
        raise Failure(f"{argument} is not valid JSON: {error}", "correct it", USAGE) from None
    if not isinstance(value, dict):
        raise Failure(f"{argument} holds no JSON object", "see the README for a brief", USAGE)
    return value


def api_key(path: Path) -> str:
    from cluster.failures import NOT_RUNNING, Failure

    if key := os.environ.get("MAILY_API_KEY"):
        return key
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        raise Failure(
            f"there is no API key at {path}",
            "`maily up` makes one at its first start; or set MAILY_API_KEY",
            NOT_RUNNING,
        ) from None


def _watch(client: TaskClient, task: Mapping[str, Any], *, quiet: bool) -> dict[str, Any]:
    """Show the events until the last, then the finished task. Ctrl-C cancels the task."""
    try:
        for event in client.events(task["id"]):
            if not quiet:
                _print_event(event)
    except KeyboardInterrupt:
        client.cancel(task["id"])
        stop(f"interrupted: task {task['id']} is cancelled", exit_code=130)
    return client.get(task["id"])


def _print_event(event: StreamEvent) -> None:
    data = event.data
    match event.type:
        case "task.started" if data.get("resumed_from"):
            out.print(f"[dim]another worker goes on after {data['resumed_from']}[/]")
        case "step.started":
            out.print(f"\n[bold cyan]{data.get('step', '')}[/] [dim]{data.get('agent', '')}[/]")
        case "tokens":
            out.print(Text(str(data.get("text", ""))), end="", soft_wrap=True)
        case "step.retried":
            out.print(f"\n[yellow]again:[/] [dim]{data.get('reason', '')}[/]", highlight=False)
        case "step.finished" if data.get("degraded"):
            out.print("\n[yellow]the template stands in here (degraded)[/]")
        case _:
            pass


def _show(view: Mapping[str, Any], out_file: Path | None) -> None:
    result = view["result"]
    email = result["email"]
    out.print()
    head = Text()
    head.append("Subject    ", "bold")
    head.append(f"{email['subject']}\n")
    head.append("Preheader  ", "bold")
    head.append(f"{email['preheader']}\n\n")
    head.append(result["text"])
    out.print(Panel(head, title="The email", border_style="green"))
    others = [text for text in email["subject_candidates"] if text != email["subject"]]
    if others:
        out.print("Other subjects: " + " · ".join(others), markup=False)
    if view["degraded"]:
        out.print("[yellow]Degraded:[/] parts of it are the template, not the model's work.")
    if out_file is not None:
        out.print(f"HTML written to {out_file}", soft_wrap=True)
