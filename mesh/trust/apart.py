"""What is worked out in a process apart: ``python -m mesh.trust.apart``.

Messages to verify come from anybody, and to canonicalise a large one takes seconds; sheets and
pictures take a tenth of one. Here that stops nobody else, can be ended at its deadline, and has
neither secrets nor a database within reach.

Requests and answers are CBOR behind their length (four bytes), one after the other on the standard
streams. The message that was opened last stays, so that it can be verified again with what was
looked up about it. The process ends with its parent's end of the pipe, or when idle.
"""

from __future__ import annotations

import contextlib
import resource
import select
import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, BinaryIO

import cbor2

from mesh.core.errors import InvalidInput
from mesh.trust.canonical import Canonical, canonicalise
from mesh.trust.certificate import Revocation, read_certificate, read_revocation
from mesh.trust.checkpoint import VerifierKey
from mesh.trust.finding import certificate_in, links_in
from mesh.trust.receipt import HeaderPolicy, Receipt, Sighting, read_receipt
from mesh.trust.verdict import TrustPolicy, Verdict
from mesh.trust.verify import verify

IDLE_S = 300.0
MEMORY_BYTES = 2 * 1024**3
"""Of address space: a message that would take more ends its own verification."""
MAX_SHOWN = 2_000
"""Characters of added text, and origins in lists, that an answer holds."""

Request = dict[str, Any]


class Desk:
    """Answers requests, one at a time."""

    def __init__(self) -> None:
        self._message: Canonical | None = None
        self._known: dict[str, Callable[[Request], Any]] = {
            "open": self._open,
            "verify": self._verify,
            "qr": _qr,
            "badge": _badge,
            "sheet": _sheet,
        }

    def answer(self, request: Request) -> dict[str, Any]:
        """``{"good": …}``, ``{"wrong": message, "field": …}`` for what can't be read, or
        ``{"broken": traceback}``."""
        try:
            return {"good": self._known[request["do"]](request)}
        except InvalidInput as error:
            return {"wrong": str(error), "field": str(error.details.get("field", ""))}
        except (MemoryError, RecursionError) as error:
            self._message = None
            return {"wrong": f"it takes too much to read ({type(error).__name__})", "field": ""}
        except Exception:
            # Not foreseen: its owner logs it, and this process goes on.
            self._message = None
            return {"broken": traceback.format_exc(limit=-6)}

    def _open(self, request: Request) -> Any:
        message: bytes = request["message"]
        self._message = canonicalise(message)
        if not request["look"]:
            return {"certificate": None, "links": []}
        found = certificate_in(message)
        links = [] if found else [[link.base, link.id] for link in links_in(message)]
        return {"certificate": found.data if found else None, "links": links}

    def _verify(self, request: Request) -> Any:
        if self._message is None:
            raise InvalidInput("no message was opened")
        certificate: bytes = request["certificate"]
        receipt: bytes | None = request["receipt"]
        policy = TrustPolicy(
            keys=tuple(map(VerifierKey.parse, request["keys"])),
            headers=_policy(request["sightings"]) if receipt else None,
            networks=max(1, request["networks"]),
        )
        verdict = verify(
            certificate,
            self._message,
            policy,
            recipient=request["recipient"],
            receipt=_receipt(receipt) if receipt else None,
            revocations=_revocations(request["revocations"]),
        )
        return {**_plain(verdict), "index": _index(certificate)}


def _policy(sightings: list[list[Any]]) -> HeaderPolicy | None:
    seen = tuple(Sighting(name, chain, block, final) for name, chain, block, final in sightings)
    names = frozenset(item.source for item in seen)
    return HeaderPolicy("quorum", sources=names or frozenset({"nobody"}), sightings=seen)


def _receipt(data: bytes) -> Receipt:
    try:
        return read_receipt(data)
    except InvalidInput as error:
        raise InvalidInput(f"the receipt can't be read: {error}", {"field": "receipt"}) from error


def _revocations(entries: list[bytes]) -> list[Revocation]:
    return [read_revocation(entry) for entry in entries]


def _index(certificate: bytes) -> int | None:
    try:
        return read_certificate(certificate).proof.index
    except InvalidInput:
        return None


def _plain(verdict: Verdict) -> dict[str, Any]:
    """A verdict as numbers and texts; long texts are cut."""
    told = asdict(verdict)
    for name in ("added_before", "added_after"):
        told[name] = told[name][:MAX_SHOWN]
    for name in ("added_origins", "missing_origins", "signers", "differs"):
        told[name] = list(told[name])[:MAX_SHOWN]
    told["level"] = verdict.level.value
    told["holds"] = verdict.holds
    told["seen"] = list(told["seen"])
    return told


def _qr(request: Request) -> bytes:
    from mesh.trust.present import qr

    options = replace(
        qr.WHOLE if request["whole"] else qr.LINK, title="QR code: where to check this email"
    )
    if request["pixels"] is not None:
        options = replace(options, pixels=request["pixels"])
    draw = qr.qr_png if request["form"] == "png" else qr.qr_svg
    return draw(request["text"], options)


def _badge(request: Request) -> bytes:
    from mesh.trust.present import badge

    options = badge.BadgeOptions(theme=request["theme"], scale=request["scale"])
    draw = badge.badge_png if request["form"] == "png" else badge.badge_svg
    return draw(request["host"], options)


def _sheet(request: Request) -> bytes:
    from mesh.contracts.trust import CertificateView
    from mesh.trust.present import pdf

    view = CertificateView.model_validate_json(request["view"])
    font = request["font"]
    options = pdf.SheetOptions(font=None if font is None else Path(font))
    return pdf.certificate_sheet(
        view, request["base"], tuple(request["keys"]), request["compact"], options
    )


def read_frame(source: BinaryIO) -> bytes | None:
    """None: the other side has closed."""
    head = source.read(4)
    if len(head) < 4:
        return None
    size = int.from_bytes(head, "big")
    data = source.read(size)
    return data if len(data) == size else None


def write_frame(target: BinaryIO, data: bytes) -> None:
    target.write(len(data).to_bytes(4, "big") + data)
    target.flush()


def main() -> None:
    with contextlib.suppress(ValueError, OSError):  # a smaller limit holds already
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    desk = Desk()
    source, target = sys.stdin.buffer, sys.stdout.buffer
    # A request comes only when the one before is answered, so nothing waits in the buffer.
    while select.select([source], [], [], IDLE_S)[0]:
        data = read_frame(source)
        if data is None:
            return
        write_frame(target, cbor2.dumps(desk.answer(cbor2.loads(data))))


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
        main()
