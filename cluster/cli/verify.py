"""``maily verify MESSAGE.eml``: is this the certified mail? Offline, unless asked to go out."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.cli import console
from cluster.cli.console import JsonFlag, answer

if TYPE_CHECKING:
    from cluster.verifying.judge import Judge, Outcome, Wanted
    from cluster.verifying.server import TrustServer

EPILOG = (
    "Exit codes: 0 it holds · 1 it does not · 2 wrong usage · 6 a server or node did not answer · "
    "9 no certificate was found · 10 revoked. Of several messages: 0 if all hold, the code that "
    "the others share, else 1."
)


def verify(
    messages: Annotated[
        list[str], typer.Argument(metavar="MESSAGE.eml…", help="Messages; - is standard input.")
    ],
    certificate: Annotated[
        str | None,
        typer.Option(
            "--certificate",
            "-c",
            help="A file, a link, a QR code's digits, or an id. Default: in or beside the message.",
        ),
    ] = None,
    key: Annotated[
        list[str] | None, typer.Option(metavar="NAME+ID+BASE64", help="A key that you trust.")
    ] = None,
    keys: Annotated[
        list[Path] | None,
        typer.Option(help="Files of keys, one a line. Default: trusted-keys in the home."),
    ] = None,
    recipient: Annotated[
        str | None, typer.Option(help="Whom it came to. Default: who stands in To.")
    ] = None,
    receipt: Annotated[
        list[Path] | None, typer.Option(help="The batch's receipt; may be repeated.")
    ] = None,
    headers: Annotated[
        str | None,
        typer.Option(
            metavar="POLICY",
            help="Whom to believe about blocks: pinned:FILE, node:URL or quorum:URL,URL/NEEDED. "
            "Default: trusted-blocks in the home.",
        ),
    ] = None,
    contract: Annotated[
        list[str] | None,
        typer.Option(metavar="CHAIN:ADDRESS", help="Only events of these registries count."),
    ] = None,
    networks: Annotated[
        int, typer.Option(min=1, max=16, help="How many networks must have the batch.")
    ] = 1,
    revocations: Annotated[
        list[Path] | None, typer.Option(help="Revocations; may be repeated.")
    ] = None,
    server: Annotated[
        str | None, typer.Option(metavar="URL", help="Where to get what is missing.")
    ] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Ask nobody.")] = False,
    exact: Annotated[bool, typer.Option("--exact", help="Only the whole message counts.")] = False,
    final: Annotated[
        bool, typer.Option("--final", help="Only what networks have for good counts.")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Check mails against their certificates: by yourself, offline, without the issuer."""
    from cluster.cli import verify_show
    from cluster.failures import USAGE, Failure
    from cluster.verifying import fetch, papers
    from cluster.verifying.headers import read_spec
    from cluster.verifying.judge import Judge, Wanted
    from cluster.verifying.server import TrustServer

    if certificate is not None and len(messages) > 1:
        raise Failure("--certificate is of one message", "give one message at a time", USAGE)
    if server and offline:
        raise Failure("--server and --offline exclude each other", "leave out one", USAGE)
    home = _home()
    if headers is None and (home / "trusted-blocks").is_file():
        headers = f"pinned:{home / 'trusted-blocks'}"
    wanted = Wanted(
        keys=papers.read_keys(key or [], keys or _default(home / "trusted-keys", bool(key))),
        certificate=certificate,
        recipient=recipient,
        receipts=tuple(papers.read_receipts(receipt or [])),
        revocations=tuple(papers.read_revocations(revocations or [])),
        revocations_given=bool(revocations),
        headers=read_spec(headers, offline=offline) if headers else None,
        contracts=frozenset(map(_contract, contract or [])),
        networks=networks,
    )
    if wanted.receipts and wanted.headers is None:
        raise Failure(
            "a receipt speaks of blocks, and nobody says which blocks are real",
            "--headers pinned:FILE, node:URL or quorum:URL,URL/NEEDED",
            USAGE,
        )
    with fetch.client() as http:
        source = TrustServer(server, http) if server else None
        wanted, where = _keys(wanted, source, home)
        outcomes = _judge(messages, Judge(wanted, source, http))
    codes = [_code(outcome, exact=exact, final=final) for outcome in outcomes]
    for outcome, code in zip(outcomes, codes, strict=True):
        if code and outcome.verdict and outcome.verdict.holds:
            outcome.notes.append("it holds, but not as strictly as was asked: --exact, --final")
    if json:
        told = [
            outcome.as_json() | {"exit_code": code}
            for outcome, code in zip(outcomes, codes, strict=True)
        ]
        answer(told[0] if len(told) == 1 else told)
    elif len(outcomes) == 1:
        verify_show.one(outcomes[0], codes[0], where)
    else:
        verify_show.table(outcomes, codes)
    failed = set(codes) - {0}
    raise typer.Exit(0 if not failed else failed.pop() if len(failed) == 1 else 1)


def _home() -> Path:
    """Without settings: whoever verifies need not have an instance."""
    from mesh.core.settings_tree import default_home

    return console.current.home or default_home(os.environ)


def _default(path: Path, given: bool) -> list[Path]:
    return [path] if not given and path.is_file() else []


def _contract(text: str) -> tuple[int, bytes]:
    from cluster.failures import USAGE, Failure

    match = re.fullmatch(r"([0-9]{1,16}):(?:0x)?([0-9a-fA-F]{40})", text, re.ASCII)
    if not match:
        raise Failure(f"--contract {text} is not CHAIN:ADDRESS", "e.g. 1:0x12…ef", USAGE)
    return int(match[1]), bytes.fromhex(match[2])


def _keys(wanted: Wanted, server: TrustServer | None, home: Path) -> tuple[Wanted, str]:
    """The keys, and whose word that is. Failure when there are none."""
    from cluster.failures import USAGE, Failure

    if wanted.keys:
        return wanted, "yours"
    if server is None:
        raise Failure(
            "nobody is trusted: there is no key to check signatures with",
            f"--key NAME+ID+BASE64, --keys FILE, or put the lines into {home / 'trusted-keys'}",
            USAGE,
        )
    return replace(wanted, keys=server.keys()), f"as {server.base} says now"


def _judge(names: list[str], judge: Judge) -> list[Outcome]:
    from cluster.verifying.papers import MAX_FILE, read_file

    outcomes = []
    for name in names:
        path = None if name == "-" else Path(name)
        data = sys.stdin.buffer.read(MAX_FILE) if path is None else read_file(path)
        outcomes.append(judge.judge(name, data, path))
    return outcomes


def _code(outcome: Outcome, *, exact: bool, final: bool) -> int:
    from cluster.failures import NO_CERTIFICATE, NO_NETWORK, OK, REVOKED, UNHEALTHY

    verdict = outcome.verdict
    if verdict is None:
        return NO_CERTIFICATE
    if verdict.state == "revoked":
        return REVOKED
    if not verdict.holds:
        return NO_NETWORK if verdict.failed_step == 9 and outcome.unreachable else UNHEALTHY
    enough = (not exact or verdict.level == "exact") and (not final or verdict.state == "final")
    return OK if enough else UNHEALTHY
