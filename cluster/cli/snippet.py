"""``maily trust snippet``: what a mail shows so that its reader can check it."""

from __future__ import annotations

from typing import Annotated

import typer

from cluster.cli.console import JsonFlag, answer, load, out


def snippet(
    certificate: Annotated[
        str, typer.Argument(metavar="ID", help="The certificate's id, given out ahead.")
    ],
    base: Annotated[
        str | None, typer.Option(metavar="URL", help="Default: setting trust.public_url.")
    ] = None,
    text: Annotated[
        bool, typer.Option("--text", help="The line for plain text, not the HTML.")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """The badge, QR code and link for one mail: to be in it before it is certified."""
    from mesh.trust.present.snippet import email_snippet

    if base is None:
        settings = load()
        base = settings.trust.public_url or settings.gateway_url
    made = email_snippet(base, certificate)
    if json:
        answer({"html": made.html, "text": made.text})
        return
    out.print(made.text if text else made.html, markup=False, highlight=False, soft_wrap=True)
