"""``maily trust attach``: puts a certificate into its mail, where verifiers find it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cluster.cli.console import JsonFlag, answer, err


def attach(
    message: Annotated[Path, typer.Argument(metavar="MESSAGE.eml", help="The certified mail.")],
    certificate: Annotated[
        str,
        typer.Option("--certificate", "-c", help="Its certificate: a file, or a QR code's digits."),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Where to. Default: standard output.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Write over a file that is there.")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Put a certificate into its mail: as a header field, and as a part of a multipart/mixed.

    No digest changes by it. The certificate must fit the mail; whose it is is not checked here:
    ``maily verify`` does.
    """
    import sys

    from cluster.failures import USAGE, Failure
    from cluster.verifying import papers
    from mesh.core.errors import InvalidInput
    from mesh.trust.attach import attached, part_in
    from mesh.trust.finding import certificate_in

    if json and out is None:
        raise Failure("--json answers where the mail would go", "--out FILE as well", USAGE)
    if out is not None and out.exists() and not force:
        raise Failure(f"{out} is there already", "choose another --out, or --force", USAGE)
    raw = papers.read_file(message)
    named = papers.certificate(certificate)
    if not isinstance(named, bytes):
        raise Failure("this names a certificate on a server", "get it as a file: …/ID.json", USAGE)
    try:
        made = attached(raw, named)
    except InvalidInput as error:
        raise Failure(error.message, "", USAGE) from None
    _fits(named, raw)
    if out is None:
        sys.stdout.buffer.write(made)
        sys.stdout.flush()
        return
    try:
        out.write_bytes(made)
    except OSError as error:
        raise Failure(f"{out} can't be written: {error.strerror}", "", USAGE) from None
    where = ["header", "part"] if part_in(made) else ["header"]
    if json:
        found = certificate_in(made)
        answer({"out": str(out), "bytes": len(made), "where": where, "found": bool(found)})
        return
    err.print(f"{out}: the certificate is in its {' and '.join(where)}", soft_wrap=True)


def _fits(certificate: bytes, message: bytes) -> None:
    """Whether it is this mail's: with the full form that shows without any key."""
    from cluster.failures import UNHEALTHY, Failure
    from mesh.trust.canonical import canonicalise
    from mesh.trust.certificate import Certificate, read_certificate

    form = read_certificate(certificate)
    if isinstance(form, Certificate) and form.leaf.exact != canonicalise(message).exact:
        raise Failure(
            "this is the certificate of another mail, or the mail was changed after it",
            "attach it to the mail as it was certified, byte for byte",
            UNHEALTHY,
        )
