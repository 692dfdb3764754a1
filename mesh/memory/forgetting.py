"""What a receipt of forgetting says, and how what was copied elsewhere is blacked out.

A receipt tells nothing of what was forgotten: ids, counts, times, and a keyed hash of the request.
Its hash and seal cover all of that; what was found when it was checked again is said beside it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Any

import orjson

from mesh.contracts.memory import ForgetReceipt, ForgetSelector
from mesh.memory.vault import Vault

BLACK = "[forgotten]"
MIN_REDACTED_CHARS = 8
"""Shorter texts are not looked for in journals: "yes" is in all of them and says nothing."""


def describe(selector: ForgetSelector) -> str:
    """The same for equal requests; hashed before it is kept."""
    return selector.model_dump_json(exclude_none=True)


def sealed(receipt: ForgetReceipt, vault: Vault) -> ForgetReceipt:
    """The receipt with its hash and seal."""
    digest = digest_of(receipt)
    return receipt.model_copy(update={"hash": digest, "seal": vault.receipt_seal(digest)})


def authentic(receipt: ForgetReceipt, vault: Vault) -> bool:
    """Whether this instance wrote it and nobody changed it since."""
    if receipt.hash is None or receipt.seal is None:
        return False
    return digest_of(receipt) == receipt.hash and vault.receipt_holds(receipt.hash, receipt.seal)


def digest_of(receipt: ForgetReceipt) -> str:
    """SHA-256 over its canonical JSON (sorted keys, no blanks)."""
    said = receipt.model_dump(mode="json", exclude={"verified_at", "remaining", "hash", "seal"})
    return hashlib.sha256(orjson.dumps(said, option=orjson.OPT_SORT_KEYS)).hexdigest()


class Redactor:
    """Blacks out texts in JSON values, whatever their case and blanks."""

    def __init__(self, texts: Iterable[str]) -> None:
        wanted = {" ".join(text.split()) for text in texts}
        long = sorted((t for t in wanted if len(t) >= MIN_REDACTED_CHARS), key=len, reverse=True)
        words = [r"\s+".join(map(re.escape, text.split())) for text in long]
        self._pattern = re.compile("|".join(words), re.IGNORECASE) if words else None

    def redact(self, value: Any) -> tuple[Any, int]:
        """A copy, and how many places were blacked out."""
        if isinstance(value, str):
            return (value, 0) if self._pattern is None else self._pattern.subn(BLACK, value)
        if isinstance(value, dict):
            pairs = [(self.redact(key), self.redact(item)) for key, item in value.items()]
            return {k: v for (k, _), (v, _) in pairs}, sum(a + b for (_, a), (_, b) in pairs)
        if isinstance(value, list):
            parts = [self.redact(item) for item in value]
            return [part for part, _ in parts], sum(count for _, count in parts)
        return value, 0
