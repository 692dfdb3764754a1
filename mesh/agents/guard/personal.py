"""Personal data in a text: email addresses, phone numbers, payment cards, IBANs.

Found by form and checked by their check digits, so that an order number is no card. What the
brief itself gives may stay (a shop's own phone number); cards never do: no marketing email has
any business with one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from mesh.agents.guard import patterns as p

Kind = Literal["email", "phone", "card", "iban"]

MASKS: dict[Kind, str] = {"email": "•••@•••", "phone": "•••", "card": "•••", "iban": "•••"}
_CARD = re.compile(r"(?<![\w.])\d(?:[ -]?\d){12,18}(?![\w])")
_IBAN = re.compile(r"(?<!\w)[A-Za-z]{2}\d{2}(?:[ ]?[A-Za-z0-9]){11,30}(?!\w)")
_IBAN_COMPACT = re.compile(r"[A-Z]{2}\d{2}[A-Z0-9]{11,30}")


@dataclass(frozen=True, slots=True)
class Found:
    """One piece of personal data. ``key`` is its normal form, the same however it was spaced."""

    kind: Kind
    start: int
    end: int
    key: str


def personal_data(text: str) -> list[Found]:
    """Everything found, in the order of the text, without overlaps."""
    found: list[Found] = []
    for match in _IBAN.finditer(text):
        # Words that follow may look like more of it: the longest part that checks counts.
        raw = match.group()
        ends = [m.end() for m in re.finditer(r"[A-Za-z0-9]+", raw)]
        for end in reversed(ends):
            key = raw[:end].replace(" ", "").upper()
            if is_iban(key):
                found.append(Found("iban", match.start(), match.start() + end, key))
                break
    for match in _CARD.finditer(text):
        key = re.sub(r"\D", "", match.group())
        if is_card(key) and not _overlaps(match.span(), found):
            found.append(Found("card", *match.span(), key))
    for match in p.EMAIL.finditer(text):
        end = match.start() + len(match.group().rstrip("."))
        if not _overlaps((match.start(), end), found):
            found.append(Found("email", match.start(), end, match.group().rstrip(".").casefold()))
    for match in p.PHONE.finditer(text):
        key = re.sub(r"\D", "", match.group())
        if 7 <= len(key) <= 15 and not _overlaps(match.span(), found) and _is_phone(match.group()):
            found.append(Found("phone", *match.span(), key))
    return sorted(found, key=lambda item: item.start)


def known_keys(text: str) -> frozenset[str]:
    """Normal forms of what a trusted text holds and another may repeat: all kinds but cards."""
    return frozenset(item.key for item in personal_data(text) if item.kind != "card")


def foreign(text: str, known: frozenset[str]) -> list[Found]:
    """What may not stand in it."""
    return [item for item in personal_data(text) if item.kind == "card" or item.key not in known]


def mask(text: str, known: frozenset[str] = frozenset()) -> tuple[str, list[Found]]:
    """The text with what is not known covered, and what that was. Idempotent."""
    hidden = foreign(text, known)
    for item in reversed(hidden):
        text = text[: item.start] + MASKS[item.kind] + text[item.end :]
    return text, hidden


def is_card(digits: str) -> bool:
    """Luhn's check (ISO/IEC 7812-1) over 13 to 19 digits that are not all alike."""
    if not 13 <= len(digits) <= 19 or len(set(digits)) < 2:
        return False
    total = 0
    for index, char in enumerate(reversed(digits)):
        digit = int(char) * (2 if index % 2 else 1)
        total += digit - 9 if digit > 9 else digit
    return total % 10 == 0


def is_iban(compact: str) -> bool:
    """ISO 13616: the remainder by 97 is 1."""
    if not _IBAN_COMPACT.fullmatch(compact) or not compact.isascii():
        return False
    moved = compact[4:] + compact[:4]
    return int("".join(str(int(char, 36)) for char in moved)) % 97 == 1


def _is_phone(text: str) -> bool:
    """Dates and figures look alike: a phone number starts with +, 0 or a bracket, or has groups
    as long as no date's."""
    if re.fullmatch(r"(?:\d{1,4}[./-]){2}\d{1,4}", text):
        return False
    return text[0] in "+0(" or len(re.sub(r"\D", "", text)) >= 9


def _overlaps(span: tuple[int, int], found: list[Found]) -> bool:
    return any(span[0] < item.end and item.start < span[1] for item in found)
