"""Messages from where people have them: files, folders, mailboxes, lines of JSON, standard input.

Read as streams: a mailbox of gigabytes takes the memory of one message. Bytes are kept as they
are, for a digest is made of them; of an mbox only its quoting of ``From `` is undone.
"""

from __future__ import annotations

import base64
import json
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from cluster.failures import USAGE, Failure
from mesh.trust.canonical.headers import recipients_of, split_message

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
MAILS = (".eml", ".msg", ".mail", ".mime")
"""Endings of files that a folder is searched for."""
LINES = (".ndjson", ".jsonl")
MBOX = (".mbox", ".mbx")
_QUOTED = re.compile(rb"^>(>*From )")
_HEAD_BYTES = 65_536

Kind = Literal["message", "mbox", "lines"]


@dataclass(frozen=True, slots=True)
class Item:
    """One message to certify. ``line``: as the API takes it, with its line end."""

    where: str
    """For people: a file, and the number in it."""
    line: bytes
    read: int
    """Bytes of the source that it took."""


def items(source: str, recipient: str | None) -> Iterator[Item]:
    """Everything in ``source``: a file, a folder or ``-``. ``recipient``: of every message; None:
    the first address in its To. Raises Failure."""
    if source == "-":
        yield from _from_stream(sys.stdin.buffer, "standard input", None, recipient)
        return
    path = Path(source)
    try:
        if path.is_dir():
            yield from _from_folder(path, recipient)
            return
        with path.open("rb") as opened:
            yield from _from_stream(opened, str(path), _kind_of(path), recipient)
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise Failure(f"{source} can't be read: {why}", "give a file or a folder", USAGE) from None


def size_of(source: str) -> int | None:
    """Bytes to be read, for a progress bar; None: not known."""
    if source == "-":
        return None
    path = Path(source)
    try:
        if path.is_dir():
            return sum(mail.stat().st_size for mail in _mails(path))
        return path.stat().st_size
    except OSError:
        return None


def _mails(folder: Path) -> list[Path]:
    """Mails in a folder and below; of a Maildir the files of ``cur`` and ``new``."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and (path.suffix.lower() in MAILS or path.parent.name in ("cur", "new"))
    )


def _from_folder(folder: Path, recipient: str | None) -> Iterator[Item]:
    mails = _mails(folder)
    if not mails:
        raise Failure(
            f"{folder} holds no mail", f"files that end in {', '.join(MAILS)}, or a Maildir", USAGE
        )
    for path in mails:
        with path.open("rb") as opened:
            yield _message(_bounded(opened, str(path)), str(path), recipient)


def _kind_of(path: Path) -> Kind | None:
    ending = path.suffix.lower()
    if ending in LINES:
        return "lines"
    return "mbox" if ending in MBOX else "message" if ending in MAILS else None


def _from_stream(
    opened: BinaryIO, where: str, kind: Kind | None, recipient: str | None
) -> Iterator[Item]:
    first = opened.readline(MAX_MESSAGE_BYTES)
    kind = kind or _guess(first)
    if kind == "lines":
        yield from _lines(_chain(first, opened), where, recipient)
    elif kind == "mbox":
        for number, raw in enumerate(_split(_chain(first, opened)), start=1):
            yield _message(raw, f"{where}, message {number}", recipient)
    else:
        yield _message(first + _bounded(opened, where), where, recipient)


def _guess(first: bytes) -> Kind:
    if first.lstrip()[:1] == b"{":
        return "lines"
    return "mbox" if first.startswith(b"From ") else "message"


def _chain(first: bytes, opened: BinaryIO) -> Iterator[bytes]:
    if first:
        yield first
    while line := opened.readline(MAX_MESSAGE_BYTES):
        yield line


def _split(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Messages of an mbox: each begins with ``From `` behind an empty line (RFC 4155)."""
    held: list[bytes] = []
    size = 0
    empty = True
    for line in lines:
        if empty and line.startswith(b"From "):
            if held:
                yield _joined(held)
            held, size, empty = [], 0, False
            continue
        size += len(line)
        if size > MAX_MESSAGE_BYTES:
            raise Failure(
                f"a message of the mailbox is larger than {MAX_MESSAGE_BYTES} bytes", "", USAGE
            )
        empty = line in (b"\n", b"\r\n")
        held.append(_QUOTED.sub(rb"\1", line))
    if held:
        yield _joined(held)


def _joined(held: list[bytes]) -> bytes:
    """Without the empty line that parts it from the next."""
    if held[-1] in (b"\n", b"\r\n") and len(held) > 1:
        held = held[:-1]
    return b"".join(held)


def _lines(lines: Iterable[bytes], where: str, recipient: str | None) -> Iterator[Item]:
    """As they are, for the gateway checks them; only a missing recipient is filled in."""
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text:
            continue
        named = f"{where}, line {number}"
        if recipient is not None:
            try:
                fields = json.loads(text)
            except ValueError as error:
                raise Failure(f"{named} is not JSON: {error}", "one object a line", USAGE) from None
            if not isinstance(fields, dict):
                raise Failure(f"{named} is no JSON object", "one object a line", USAGE)
            text = json.dumps({"recipient": recipient, **fields}).encode()
        yield Item(named, text + b"\n", len(line))


def _bounded(opened: BinaryIO, where: str) -> bytes:
    raw = opened.read(MAX_MESSAGE_BYTES + 1)
    if len(raw) > MAX_MESSAGE_BYTES:
        raise Failure(f"{where} is larger than {MAX_MESSAGE_BYTES} bytes", "", USAGE)
    return raw


def _message(raw: bytes, where: str, recipient: str | None) -> Item:
    fields = {
        "message_base64": base64.b64encode(raw).decode(),
        "recipient": recipient or _first_recipient(raw, where),
    }
    return Item(where, json.dumps(fields).encode() + b"\n", len(raw))


def _first_recipient(raw: bytes, where: str) -> str:
    found = recipients_of(split_message(raw[:_HEAD_BYTES]))
    if found:
        return found[0]
    raise Failure(f"{where} does not say whom it goes to", "give --recipient ADDRESS", USAGE)
