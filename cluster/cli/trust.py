"""``maily trust``: certificates of mails."""

from __future__ import annotations

import typer

from cluster.cli import attach, snippet

app = typer.Typer(help="Certify mails, and what belongs to it.", no_args_is_help=True)

app.command("attach")(attach.attach)
app.command("snippet")(snippet.snippet)
