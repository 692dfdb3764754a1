"""``maily memory``: search, remember, forget for good, take out and bring in."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from cluster.cli.connect import connected
from cluster.cli.console import JsonFlag, answer, err, out

app = typer.Typer(help="What is remembered, and forgetting it.", no_args_is_help=True)

IMPORT_BYTES = 800_000
"""Of one request; a gateway takes a megabyte."""
NDJSON = "application/x-ndjson"

Where = Annotated[
    str,
    typer.Option(
        "--namespace", "-n", help="workspace, contact:NAME, conversation:ID or campaign:ID."
    ),
]
Url = Annotated[str | None, typer.Option(help="Of another gateway.")]


@app.command("search")
def search(
    text: Annotated[str, typer.Argument(help="What to recall.")],
    namespace: Annotated[
        list[str] | None,
        typer.Option("--namespace", "-n", help="As for remember; may be repeated."),
    ] = None,
    k: Annotated[int, typer.Option("-k", help="At most so many.", min=1, max=100)] = 10,
    tag: Annotated[list[str] | None, typer.Option(help="Only with it; may be repeated.")] = None,
    mode: Annotated[str, typer.Option(help="hybrid, dense or text.")] = "hybrid",
    language: Annotated[str | None, typer.Option(help="Two letters, for stemming.")] = None,
    url: Url = None,
    json: JsonFlag = False,
) -> None:
    """Recall: by meaning and by words, best first."""
    body: dict[str, Any] = {
        "text": text,
        "namespaces": [_namespace(name) for name in namespace or ["workspace"]],
        "k": k,
        "mode": mode,
        "filter": {"tags": tag or []},
    }
    if language is not None:
        body["language"] = language
    with connected(url, quiet=json) as client:
        told = client.call("POST", "/v1/memory/search", body)
    if json:
        answer(told)
        return
    for number, hit in enumerate(told["hits"], start=1):
        item, parts = hit["item"], hit["parts"]
        dense = "-" if parts["dense"] is None else f"{parts['dense']:.3f}"
        words = "-" if parts["text"] is None else f"{parts['text']:.3f}"
        out.print(f"[bold]{number:>2}[/] {escape(item['text'])}", highlight=False, soft_wrap=True)
        out.print(
            f"   [dim]{hit['score']:.4f}  meaning {dense}  words {words}  "
            f"recency {parts['recency']:.2f}  {item['kind']}  {item['id']}[/]",
            highlight=False,
            soft_wrap=True,
        )
    if not told["hits"]:
        out.print("Nothing is remembered of that.")
    if told["degraded"]:
        err.print(f"[yellow]degraded:[/] {escape(told['reason'] or '')}", soft_wrap=True)


@app.command("remember")
def remember(
    text: Annotated[str, typer.Argument(help="What to remember: one statement.")],
    namespace: Where = "workspace",
    kind: Annotated[
        str, typer.Option(help="fact, preference, turn, document or outcome.")
    ] = "fact",
    tag: Annotated[list[str] | None, typer.Option(help="May be repeated.")] = None,
    about: Annotated[
        list[str] | None, typer.Option(help="A contact that it is about; may be repeated.")
    ] = None,
    importance: Annotated[float | None, typer.Option(min=0, max=1)] = None,
    pinned: Annotated[bool, typer.Option("--pinned", help="Neither fades nor expires.")] = False,
    language: Annotated[str | None, typer.Option(help="Two letters, for stemming.")] = None,
    url: Url = None,
    json: JsonFlag = False,
) -> None:
    """Remember something; what is there already is not written again."""
    item: dict[str, Any] = {
        "namespace": _namespace(namespace),
        "kind": kind,
        "text": text,
        "tags": tag or [],
        "contacts": about or [],
        "pinned": pinned,
    }
    item |= {} if importance is None else {"importance": importance}
    item |= {} if language is None else {"language": language}
    with connected(url, quiet=json) as client:
        (kept,) = client.call("POST", "/v1/memory/items", {"items": [item]})["items"]
    if json:
        answer(kept)
        return
    out.print(f"{kept['id']}  {kept['kind']}, {kept['state']}", highlight=False)


@app.command("forget")
def forget(
    item: Annotated[str | None, typer.Option(help="One memory, by its id.")] = None,
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", help="A whole namespace.")
    ] = None,
    contact: Annotated[
        str | None, typer.Option(help="A person: the namespace, and all that is about them.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
    url: Url = None,
    json: JsonFlag = False,
) -> None:
    """Forget for good: rows, keys, index, snapshots, caches, journals. There is no way back."""
    from cluster.failures import USAGE, Failure

    wanted: dict[str, Any] = {}
    wanted |= {} if item is None else {"item": item}
    wanted |= {} if namespace is None else {"namespace": _namespace(namespace)}
    wanted |= {} if contact is None else {"contact": contact}
    if len(wanted) != 1:
        raise Failure(
            "say what to forget", "exactly one of --item, --namespace and --contact", USAGE
        )
    if not (yes or json):
        typer.confirm("There is no way back. Forget it?", abort=True)
    with connected(url, quiet=json) as client:
        receipt = client.call("POST", "/v1/memory/forget", wanted)
    if json:
        answer(receipt)
        return
    erased = ", ".join(f"{n} {what}" for what, n in receipt["erased"].items() if n) or "nothing"
    out.print(f"Erased: {erased}.")
    out.print(f"Found when it was looked for again: {receipt['remaining']}.")
    if receipt["scrub"]["note"]:
        out.print(f"[yellow]{escape(receipt['scrub']['note'])}[/]", soft_wrap=True)
    out.print(f"[dim]receipt {receipt['id']}  {receipt['hash']}[/]", soft_wrap=True)


@app.command("receipt")
def receipt(
    receipt_id: Annotated[str, typer.Argument(help="Its id.", metavar="ID")],
    url: Url = None,
    json: JsonFlag = False,
) -> None:
    """Check a receipt of forgetting: can anything of it be found now?"""
    with connected(url, quiet=json) as client:
        found = client.call("GET", f"/v1/memory/receipts/{receipt_id}")
    if json:
        answer(found)
        return
    state = "done" if found["finished_at"] else "going on"
    out.print(f"{state}: {found['erased'].get('items', 0)} memories erased, "
              f"{found['remaining']} found now.")  # fmt: skip


@app.command("stats")
def stats(url: Url = None, json: JsonFlag = False) -> None:
    """How much is remembered, and who looks after it."""
    with connected(url, quiet=json) as client:
        found = client.call("GET", "/v1/memory/stats")
    if json:
        answer(found)
        return
    out.print(
        f"{found['items']:,} memories in {found['namespaces']:,} namespaces, "
        f"{found['pinned']:,} pinned, {found['bytes'] / 1e6:,.1f} MB"
    )
    for what in ("by_kind", "by_state", "shards"):
        parts = ", ".join(f"{name} {n:,}" for name, n in sorted(found[what].items()))
        out.print(f"[dim]{what.removeprefix('by_')}:[/] {parts or '-'}", highlight=False)


@app.command("export")
def export(
    file: Annotated[Path | None, typer.Argument(help="Default: standard output.")] = None,
    namespace: Annotated[str | None, typer.Option("--namespace", "-n", help="Only this.")] = None,
    vectors: Annotated[bool, typer.Option("--vectors", help="With the embeddings.")] = False,
    url: Url = None,
) -> None:
    """Every memory as a line of JSON."""
    params = {"vectors": "true"} if vectors else {}
    if namespace is not None:
        params |= {key: value for key, value in _namespace(namespace).items() if value}
    with connected(url, quiet=True) as client:
        parts = client.download("/v1/memory/export", params)
        if file is None:
            for part in parts:
                sys.stdout.buffer.write(part)
            sys.stdout.flush()
            return
        with file.open("wb") as target:
            lines = 0
            for part in parts:
                target.write(part)
                lines += part.count(b"\n")
    err.print(f"{lines:,} memories written to {file}", soft_wrap=True)


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="Lines as export writes them.", exists=True)],
    url: Url = None,
    json: JsonFlag = False,
) -> None:
    """Bring in lines of JSON; what is there already is not written again."""
    total = {"stored": 0, "repeated": 0}
    with connected(url, quiet=json) as client, file.open("rb") as source:
        for part in _parts(source):
            report = client.upload("/v1/memory/import", part, NDJSON)
            for name in total:
                total[name] += report[name]
    if json:
        answer(total)
        return
    out.print(f"{total['stored']:,} stored, {total['repeated']:,} were there already")


def _parts(lines: Iterator[bytes]) -> Iterator[bytes]:
    part: list[bytes] = []
    size = 0
    for line in lines:
        if part and size + len(line) > IMPORT_BYTES:
            yield b"".join(part)
            part, size = [], 0
        part.append(line)
        size += len(line)
    if part:
        yield b"".join(part)


def _namespace(text: str) -> dict[str, str]:
    """``contact:anna`` → its JSON. Failure."""
    from pydantic import ValidationError

    from cluster.failures import USAGE, Failure
    from mesh.contracts.memory import Namespace

    kind, _, name = text.partition(":")
    try:
        return Namespace.model_validate({"kind": kind, "id": name}).model_dump(mode="json")
    except ValidationError:
        raise Failure(
            f"{text!r} is no namespace",
            "workspace, contact:NAME, conversation:ID or campaign:ID",
            USAGE,
        ) from None
