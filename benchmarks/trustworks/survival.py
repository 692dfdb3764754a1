"""Real mail through what mail systems do to it: which certificate still holds, and whose.

Each message is certified, rewritten in every way, and verified against its own certificate. Then
against everybody else's: a verifier can accept a foreign one only if the exact digest is the same,
or the certified text is the message's, or stands within it. Such pairs are looked up for *all*
pairs, not for a sample, by digests and by the first 32 bytes of every text at every place that the
verifier tries; each that is found is verified in full.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from benchmarks.trustworks.papers import batch, policy
from benchmarks.trustworks.rewriters import REWRITERS
from mesh.trust.canonical import Canonical, canonicalise
from mesh.trust.levels import MAX_BEFORE, MIN_WINDOW, Level
from mesh.trust.standalone.maily_verify import Message
from mesh.trust.verify import verify

UNTOUCHED = "as sent"
SURVIVES = (Level.EXACT, Level.TEXT, Level.EXTENDED)


@dataclass(slots=True)
class Found:
    """What was counted; adds up over shares of the messages."""

    levels: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    """By rewriter: how many copies at which level."""
    changed: Counter[str] = field(default_factory=Counter)
    """By rewriter: copies with other bytes than the message."""
    survived_changed: Counter[str] = field(default_factory=Counter)
    crashes: list[str] = field(default_factory=list)
    apart: int = 0
    """Copies whose canonical form the two implementations see differently."""
    candidates: int = 0
    """Foreign certificates that were verified in full."""
    same_words: int = 0
    """… that hold, and rightly: the certified words do stand in the message."""
    false: list[str] = field(default_factory=list)
    """… that hold although they do not."""

    def __add__(self, other: Found) -> Found:
        whole = Found(
            changed=self.changed + other.changed,
            survived_changed=self.survived_changed + other.survived_changed,
            crashes=self.crashes + other.crashes,
            apart=self.apart + other.apart,
            candidates=self.candidates + other.candidates,
            same_words=self.same_words + other.same_words,
            false=self.false + other.false,
        )
        for part in (self, other):
            for name, levels in part.levels.items():
                whole.levels[name].update(levels)
        return whole


class Mailbag:
    """Certified messages, and the ways to find whose certificate could fit a message."""

    def __init__(self, mails: list[bytes]) -> None:
        self.mails = mails
        closed = batch(mails)
        self.papers = [certificate.to_json() for certificate in closed.certificates]
        self.leaves = [certificate.leaf for certificate in closed.certificates]
        self.texts = [canonicalise(raw).text.data for raw in mails]
        self._exact: dict[bytes, list[int]] = defaultdict(list)
        self._text: dict[bytes, list[int]] = defaultdict(list)
        self._start: dict[bytes, list[int]] = defaultdict(list)
        for number, (leaf, text) in enumerate(zip(self.leaves, self.texts, strict=True)):
            self._exact[leaf.exact].append(number)
            self._text[leaf.text].append(number)
            if len(text) >= MIN_WINDOW:
                self._start[text[:MIN_WINDOW]].append(number)

    def fitting(self, message: Canonical) -> set[int]:
        """Every certificate that the verifier could accept for the message."""
        data = message.text.data
        found = {*self._exact.get(message.exact, ()), *self._text.get(message.text_digest, ())}
        starts = self._start
        for begin in range(min(len(data) - MIN_WINDOW, MAX_BEFORE) + 1):
            for number in starts.get(data[begin : begin + MIN_WINDOW], ()):
                if data.startswith(self.texts[number], begin):
                    found.add(number)
        return found

    def examine(self, numbers: Iterable[int]) -> Found:
        """Each of these messages as sent and after every rewriter."""
        found = Found()
        for number in numbers:
            raw = self.mails[number]
            for name, rewrite in {UNTOUCHED: bytes, **REWRITERS}.items():
                try:
                    self._copy(found, name, number, rewrite(raw))
                except Exception as caught:  # a mail that crashes a verifier is what is looked for
                    digest = hashlib.sha256(raw).hexdigest()[:12]
                    found.crashes.append(f"{name} of {digest}: {type(caught).__name__}: {caught}")
        return found

    def _copy(self, found: Found, name: str, number: int, copy: bytes) -> None:
        trust, message = policy(), canonicalise(copy)
        level = verify(self.papers[number], message, trust).level
        found.levels[name][level] += 1
        if copy != self.mails[number]:
            found.changed[name] += 1
            found.survived_changed[name] += level in SURVIVES
        other = Message(copy)
        found.apart += (other.exact, other.text, other.origins) != (
            message.exact,
            message.text.data,
            message.text.origins,
        )
        for foreign in self.fitting(message) - {number}:
            found.candidates += 1
            if not verify(self.papers[foreign], message, trust).holds:
                continue
            # The other implementation says whether the certified words are there.
            words = Message(self.mails[foreign]).text
            if words == other.text or (len(words) >= MIN_WINDOW and words in other.text):
                found.same_words += 1
            else:
                found.false.append(f"{name}: certificate {foreign} for message {number}")
