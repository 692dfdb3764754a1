"""``maily trust``: certify messages, see how far they are, take back, forget."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer
from rich.markup import escape

from cluster.cli import attach, snippet, trust_show
from cluster.cli.connect import connected
from cluster.cli.console import JsonFlag, answer, out

if TYPE_CHECKING:
    from cluster.client import TaskClient

app = typer.Typer(help="Certificates of messages.", no_args_is_help=True)
app.command("attach")(attach.attach)
app.command("snippet")(snippet.snippet)

FEW = 5
"""So many certificates are shown by id."""
Url = Annotated[str | None, typer.Option(help="Of another gateway.")]
BatchId = Annotated[str, typer.Argument(metavar="BATCH", help="Its id.")]


@app.command("certify")
def certify(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE|DIR|-…",
            help="Mails, mboxes, lines of JSON, folders of mails or Maildirs; - is standard input.",
        ),
    ],
    recipient: Annotated[
        str | None, typer.Option(help="Of every message. Default: the first address in To.")
    ] = None,
    name: Annotated[str, typer.Option(help="Of the batch, for people.")] = "",
    rolling: Annotated[
        bool,
        typer.Option("--rolling", help="Into the batch of single mails, which closes by itself."),
    ] = False,
    keep_open: Annotated[
        bool, typer.Option("--keep-open", help="Leave the batch open for more.")
    ] = False,
    key: Annotated[
        str | None,
        typer.Option(help="Names the batch: with the same key an interrupted run goes on."),
    ] = None,
    lines_to: Annotated[
        str | None,
        typer.Option(
            "--certificates", metavar="FILE", help="Write each message's certificate id there."
        ),
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Until the batch is final on its networks.")
    ] = False,
    url: Url = None,
    json: JsonFlag = False,
) -> None:
    """Certify messages: each gets a certificate in a batch that is anchored as one."""
    from cluster.cli.trust_certify import Certifying, Plan

    if rolling and (keep_open or key or name or wait):
        _usage("--rolling has no batch of its own", "leave the other options out")
    if keep_open and wait:
        _usage("a batch that stays open never becomes final", "--keep-open or --wait")
    plan = Plan(
        sources=tuple(sources),
        recipient=recipient,
        name=name,
        rolling=rolling,
        close=not (keep_open or rolling),
        key=key,
        lines_to=lines_to,
    )
    with connected(url, quiet=json) as client:
        told = Certifying(client, plan, quiet=json).run()
        if wait:
            told["batch"] = _watch(client, told["batch"]["id"], quiet=json, forever=False)
    if json:
        answer(told)
        return
    count, repeated = told["messages"], told["repeated"]
    out.print(
        f"{count:,} message{'s' if count > 1 else ''} certified"
        + (f", {repeated:,} of them before" if repeated else "")
    )
    if count <= FEW:
        for line in told["certificates"]:
            out.print(f"{line['id']}  {escape(line['message_id'])}", highlight=False)
    if told["batch"] is not None and not wait:
        trust_show.batch(told["batch"])


@app.command("batch")
def batch(batch_id: BatchId, url: Url = None, json: JsonFlag = False) -> None:
    """How far a batch is, and where its root is kept."""
    with connected(url, quiet=json) as client:
        view = client.call("GET", f"/v1/trust/batches/{_piece(batch_id)}")
    if json:
        answer(view)
        return
    trust_show.batch(view)


@app.command("batches")
def batches(
    limit: Annotated[int, typer.Option(help="At most so many.", min=1, max=500)] = 20,
    url: Url = None,
    json: JsonFlag = False,
) -> None:
    """The batches, newest first."""
    with connected(url, quiet=json) as client:
        page = client.call("GET", f"/v1/trust/batches?limit={limit}")
    if json:
        answer(page)
        return
    trust_show.batches(page["batches"])


@app.command("close")
def close(batch_id: BatchId, url: Url = None, json: JsonFlag = False) -> None:
    """Take no more messages: build the batch's tree, sign its root, have it anchored."""
    with connected(url, quiet=json) as client:
        view = client.call("POST", f"/v1/trust/batches/{_piece(batch_id)}/close")
    if json:
        answer(view)
        return
    trust_show.batch(view)


@app.command("certificates")
def certificates(batch_id: BatchId, url: Url = None) -> None:
    """Index, certificate's id and Message-ID of each message, as lines of JSON."""
    with connected(url, quiet=True) as client:
        for part in client.download(f"/v1/trust/batches/{_piece(batch_id)}/certificates", {}):
            sys.stdout.buffer.write(part)
        sys.stdout.flush()


@app.command("show")
def show(
    certificate: Annotated[str, typer.Argument(metavar="ID", help="A certificate's id.")],
    url: Url = None,
    json: JsonFlag = False,
) -> None:
    """What anybody sees of a certificate."""
    with connected(url, quiet=json) as client:
        view = client.call("GET", f"/v1/trust/certificates/{_piece(certificate)}")
    if json:
        answer(view)
        return
    trust_show.certificate(view)


@app.command("networks")
def networks(url: Url = None, json: JsonFlag = False) -> None:
    """The networks that keep the roots: health, head, balance, alarms."""
    with connected(url, quiet=json) as client:
        found = client.call("GET", "/v1/trust/networks")
    if json:
        answer(found)
        return
    trust_show.networks(found)


@app.command("watch")
def watch(
    batch_id: BatchId,
    forever: Annotated[
        bool, typer.Option("--follow", help="Go on after it is final: revocations too.")
    ] = False,
    url: Url = None,
    json: JsonFlag = False,
) -> None:
    """Follow a batch until it is final; with --json a line an event."""
    with connected(url, quiet=json) as client:
        _watch(client, batch_id, quiet=False, forever=forever, json=json)


@app.command("revoke")
def revoke(
    certificate: Annotated[str, typer.Argument(metavar="ID", help="A certificate's id.")],
    reason: Annotated[
        str,
        typer.Option(
            help="other, sent in error, content withdrawn, key compromised or person's request."
        ),
    ] = "other",
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
    url: Url = None,
    json: JsonFlag = False,
) -> None:
    """Take a certificate back, at once and for good."""
    if not (yes or json):
        typer.confirm("There is no way back. Revoke it?", abort=True)
    with connected(url, quiet=json) as client:
        path = f"/v1/trust/certificates/{_piece(certificate)}/revoke"
        view = client.call("POST", path, {"reason": reason})
    if json:
        answer(view)
        return
    trust_show.certificate(view)


@app.command("forget")
def forget(
    certificate: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="One certificate, by its id.")
    ] = None,
    batch_id: Annotated[str | None, typer.Option("--batch", help="With --recipient.")] = None,
    recipient: Annotated[
        str | None, typer.Option(help="All that went to this address in --batch.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
    url: Url = None,
    json: JsonFlag = False,
) -> None:
    """Forget what certificates tell of a person, for good. The others' proofs hold."""
    if (certificate is None) == (batch_id is None or recipient is None):
        _usage("say what to forget", "a certificate's id, or --batch and --recipient")
    if not (yes or json):
        typer.confirm("There is no way back. Forget it?", abort=True)
    with connected(url, quiet=json) as client:
        if certificate is not None:
            path = f"/v1/trust/certificates/{_piece(certificate)}/forget"
            receipt = client.call("POST", path)
        else:
            path = f"/v1/trust/batches/{_piece(batch_id or '')}/forget"
            receipt = client.call("POST", path, {"recipient": recipient})
    if json:
        answer(receipt)
        return
    count = len(receipt["certificates"])
    told = "certificate tells" if count == 1 else "certificates tell"
    out.print(f"{count:,} {told} of nobody any more.")
    if receipt.get("note"):
        out.print(f"[yellow]{escape(receipt['note'])}[/]", soft_wrap=True)


@app.command("keys")
def keys(url: Url = None, json: JsonFlag = False) -> None:
    """The public keys that sign: a line each, as verifiers take them."""
    with connected(url, quiet=json) as client:
        found = client.call("GET", "/v1/trust/keys")
    if json:
        answer(found)
        return
    for line in found["keys"]:
        out.print(line, markup=False, highlight=False, soft_wrap=True)


def _watch(
    client: TaskClient, batch_id: str, *, quiet: bool, forever: bool, json: bool = False
) -> dict[str, Any]:
    """Show what happens until it is final; the batch then. Raises Failure."""
    import json as json_module

    from cluster.failures import UNHEALTHY, Failure

    path = f"/v1/trust/batches/{_piece(batch_id)}"
    for event in client.follow(f"{path}/events"):
        if event.type == "error":
            raise Failure(str(event.data.get("message", "the stream failed")), "", UNHEALTHY)
        data = dict(event.data["batch"] if event.type == "snapshot" else event.data)
        if json:
            line = {"event": event.type, "cursor": event.cursor, **data}
            sys.stdout.write(json_module.dumps(line) + "\n")
            sys.stdout.flush()
        elif not quiet:
            trust_show.event(event.type, data)
        if data.get("state") == "final" and not forever:
            break
    return client.call("GET", path)


def _usage(message: str, fix: str) -> None:
    from cluster.failures import USAGE, Failure

    raise Failure(message, fix, USAGE)


def _piece(text: str) -> str:
    """As a piece of a path."""
    return quote(text, safe="")
