"""Reads what a user has as files: keys, receipts, revocations, certificates in any form."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cluster.failures import USAGE, Failure
from mesh.core.errors import InvalidInput
from mesh.trust import jcs
from mesh.trust.certificate import Revocation, read_revocation
from mesh.trust.checkpoint import VerifierKey
from mesh.trust.present import links
from mesh.trust.receipt import Receipt, read_receipt

MAX_FILE = 64 << 20
BESIDE = (".certificate.json", ".certificate.cbor", ".json", ".cbor")
"""Endings of files beside a message that may be its certificate, in this order."""


def read_file(path: Path) -> bytes:
    """Raises Failure: it is not there, or larger than 64 MiB."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except OSError as error:
        raise Failure(f"{path} can't be read: {error.strerror}", "", USAGE) from None
    if len(data) > MAX_FILE:
        raise Failure(f"{path} is larger than {MAX_FILE >> 20} MiB", "", USAGE)
    return data


def read_keys(lines: Sequence[str], files: Sequence[Path]) -> tuple[VerifierKey, ...]:
    """Verifier keys ``NAME+ID+BASE64``; in files one a line, ``#`` begins a comment."""
    found: dict[VerifierKey, None] = {}
    for text in lines:
        found.setdefault(_key(text, "--key"))
    for path in files:
        for number, line in enumerate(_text(path).splitlines(), start=1):
            if line.strip() and not line.lstrip().startswith("#"):
                found.setdefault(_key(line, f"{path}, line {number}"))
    return tuple(found)


def _key(text: str, where: str) -> VerifierKey:
    try:
        return VerifierKey.parse(text)
    except InvalidInput as error:
        raise Failure(
            f"{where}: {error.message}", "a key is NAME+ID+BASE64, on one line", USAGE
        ) from None


def _text(path: Path) -> str:
    try:
        return read_file(path).decode()
    except UnicodeError:
        raise Failure(f"{path} is not text", "", USAGE) from None


def certificate(text: str) -> bytes | links.VerifyLink | str:
    """What ``--certificate`` names: the bytes of a file, of digits, or of a link that holds the
    proof; else the link or id by which a server has it. Failure for anything else."""
    path = Path(text)
    try:
        if re.fullmatch("#?[0-9]{40,}", text):
            return links.proof_of_fragment(text)
        if text.startswith(("http://", "https://")):
            link = links.read_link(text)
            return link.proof or link
        if path.exists():
            return trimmed(read_file(path))
        return links.certificate_id(text)
    except (InvalidInput, OSError) as error:
        raise Failure(
            f"{text[:60]!r} is no certificate: {error}",
            "a file, a link, the digits of a QR code, or an id (with --server)",
            USAGE,
        ) from None


def trimmed(data: bytes) -> bytes:
    """JSON without the line end that editors put behind it; a byte more would be refused."""
    return data.rstrip(b"\r\n") if data[:1] == b"{" else data


def beside(message: Path) -> tuple[bytes, Path] | None:
    for ending in BESIDE:
        path = message.with_suffix(ending)
        if path != message and path.is_file():
            return trimmed(read_file(path)), path
    return None


def read_receipts(paths: Sequence[Path]) -> list[Receipt]:
    out = []
    for path in paths:
        try:
            out.append(read_receipt(trimmed(read_file(path))))
        except InvalidInput as error:
            raise Failure(f"{path} is no receipt: {error.message}", "", USAGE) from None
    return out


def read_revocations(paths: Sequence[Path]) -> list[Revocation]:
    """Files with one, with a page of them as the API gives it, or with one a line."""
    out: list[Revocation] = []
    for path in paths:
        try:
            entries = _entries(_text(path))
            out.extend(read_revocation(jcs.canonical(entry)) for entry in entries)
        except (InvalidInput, ValueError, RecursionError) as error:
            raise Failure(f"{path} holds no revocations: {error}", "", USAGE) from None
    return out


def _entries(text: str) -> Iterator[Any]:
    try:
        documents = [json.loads(text)]
    except ValueError:
        documents = [json.loads(line) for line in text.splitlines() if line.strip()]
    for document in documents:
        if isinstance(document, dict) and "revocations" in document:
            document = document["revocations"]
        yield from document if isinstance(document, list) else [document]
