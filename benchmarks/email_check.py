"""Is an email valid? Written anew from the contract, without a line of the guardrails' own code:
who is checked must not hold the ruler.

Valid means: the fields and lengths that the contract states; every address in HTML, plain text
and buttons is one of the brief's; every merge tag is one of the brief's, with its fallback; no
other template syntax, script or handler; nothing invisible.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from html.parser import HTMLParser
from typing import Any
from urllib.parse import unquote, urlsplit

_TAG = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
_TEMPLATE = re.compile(r"\{%|%\}|\$\{|\*\||\|\*|<%|%>|\[\[|\]\]|%%[A-Z]")
_URL = re.compile(r"(?:https?|ftp|javascript|vbscript|data|file):[^\s<>\"')\]]+", re.IGNORECASE)
_WWW = re.compile(r"\bwww\.[^\s<>\"')\]]+", re.IGNORECASE)
_MAIL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
_FIGURE = re.compile(r"\d+(?:[.,:]\d+)*")
_KINDS = {"heading", "paragraph", "bullets", "button"}


def problems(brief: Mapping[str, Any], result: Mapping[str, Any]) -> list[str]:
    """What is wrong with ``result`` (``email``, ``html``, ``text``) for ``brief``; empty: valid."""
    email = result.get("email")
    if not isinstance(email, Mapping):
        return ["no email"]
    found = _shape(email)
    links = {_same(str(link["url"])) for link in brief.get("links", [])}
    tags = {str(tag["name"]): str(tag["fallback"]) for tag in brief.get("merge_tags", [])}
    for block in email.get("blocks", []):
        if block.get("kind") == "button" and _same(str(block.get("url"))) not in links:
            found.append(f"button to {block.get('url')}")
    html, text = str(result.get("html", "")), str(result.get("text", ""))
    page = _Page()
    page.feed(html)
    found += page.wrong
    found += [f"link to {url}" for url in page.links if _same(url) not in links]
    fields = [str(email.get("subject", "")), str(email.get("preheader", ""))]
    for block in email.get("blocks", []):
        fields += [str(block.get("text", "")), *map(str, block.get("items", []))]
    for shown in ("".join(page.texts), text, "\n".join(fields)):
        found += _written(shown, brief, links, tags)
    return list(dict.fromkeys(found))


def invented_figures(brief: Mapping[str, Any], result: Mapping[str, Any]) -> list[str]:
    """Figures that readers see and the brief doesn't hold: prices, dates, percentages made up."""
    email = result.get("email") or {}
    fields = [str(email.get("subject", "")), str(email.get("preheader", ""))]
    for block in email.get("blocks", []):
        fields += [str(block.get("text", "")), *map(str, block.get("items", []))]
    parts = [str(brief.get(key, "")) for key in ("goal", "product", "brand", "audience")]
    parts += [str(tag.get("fallback", "")) for tag in brief.get("merge_tags", [])]
    parts += [str(link.get("label", "")) for link in brief.get("links", [])]
    held = set(_FIGURE.findall(" ".join([*parts, *map(str, brief.get("key_points", []))])))
    return [figure for figure in _FIGURE.findall(" ".join(fields)) if figure not in held]


def _shape(email: Mapping[str, Any]) -> list[str]:
    found = []
    for name, most in (("subject", 90), ("preheader", 140)):
        value = email.get(name)
        if not isinstance(value, str) or not 1 <= len(value) <= most:
            found.append(f"{name}: {value!r}"[:80])
        elif "\n" in value:
            found.append(f"{name} of several lines")
    candidates = email.get("subject_candidates", [])
    if not isinstance(candidates, list) or not 1 <= len(candidates) <= 5:
        found.append("subject_candidates")
    blocks = email.get("blocks")
    if not isinstance(blocks, list) or not 1 <= len(blocks) <= 30:
        return [*found, "blocks"]
    for block in blocks:
        if block.get("kind") not in _KINDS:
            found.append(f"a block of kind {block.get('kind')!r}")
        elif block["kind"] == "bullets":
            items = block.get("items")
            if not isinstance(items, list) or not 1 <= len(items) <= 6 or not all(items):
                found.append("bullets without items")
        elif not 1 <= len(str(block.get("text") or "")) <= 1_200:
            found.append(f"an empty or endless {block['kind']}")
    if not any(block.get("kind") == "paragraph" for block in blocks):
        found.append("no paragraph")
    return found


def _written(
    text: str, brief: Mapping[str, Any], links: set[str], tags: Mapping[str, str]
) -> list[str]:
    found = []
    for inner in _TAG.findall(text):
        name, _, fallback = inner.partition("|")
        if name.strip() not in tags:
            found.append(f"merge tag {name.strip()[:40]!r}")
        elif _bare(fallback) not in ("", _bare(tags[name.strip()])):
            found.append(f"fallback of {name.strip()}")
    rest = _TAG.sub("", text)
    if "{{" in rest or "}}" in rest or _TEMPLATE.search(rest):
        found.append("template syntax")
    hosts = {urlsplit(link).hostname or "" for link in links}
    strange = [url for url in _URL.findall(rest) if _same(url.rstrip(".,;:!?")) not in links]
    strange += [
        url
        for url in _WWW.findall(rest)
        if url.lower().split("/")[0].removeprefix("www.") not in hosts
    ]
    found += [f"address {url[:60]}" for url in strange]
    said = " ".join(str(brief.get(key, "")) for key in ("goal", "product", "brand", "audience"))
    said += " ".join(map(str, brief.get("key_points", [])))
    mails = [mail for mail in _MAIL.findall(rest) if mail.lower() not in said.lower()]
    found += [f"mail address {mail[:60]}" for mail in mails]
    hidden = {c for c in rest if unicodedata.category(c) in ("Cf", "Co", "Cs") and c != "\u200d"}
    hidden |= {c for c in rest if unicodedata.category(c) == "Cc" and c not in "\n\r\t"}
    if hidden:
        found.append("invisible characters: " + ", ".join(f"U+{ord(c):04X}" for c in hidden))
    return found


def _same(url: str) -> str:
    """One form of an address: case of scheme and host, escapes, a bare host's slash."""
    parts = urlsplit(url.strip())
    path = unquote(parts.path) or "/"
    query = f"?{unquote(parts.query)}" if parts.query else ""
    fragment = f"#{unquote(parts.fragment)}" if parts.fragment else ""
    return f"{parts.scheme.lower()}://{parts.netloc.lower()}{path}{query}{fragment}"


def _bare(text: str) -> str:
    return re.sub(r"[{}|<>%\s]", "", text)


class _Page(HTMLParser):
    """Links, readable text, and what has no place in mail."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.links: list[str] = []
        self.texts: list[str] = []
        self.wrong: list[str] = []
        self._mute = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "iframe", "object", "embed", "form", "base", "svg"):
            self.wrong.append(f"<{tag}>")
        if tag in ("style", "title"):
            self._mute += tag == "style"
        for name, value in attrs:
            if name.startswith("on"):
                self.wrong.append(f"handler {name}")
            elif name in ("href", "src", "action", "background") and value and tag != "link":
                # Style sheets of the mail framework itself are no links of the email.
                self.links.append(value)

    def handle_endtag(self, tag: str) -> None:
        if tag == "style" and self._mute:
            self._mute -= 1

    def handle_data(self, data: str) -> None:
        if not self._mute:
            self.texts.append(data + "\n")
