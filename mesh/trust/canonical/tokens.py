"""HTML into what a reader could see, and where tags point (spec §3, "HTML tokens").

Not a browser's tree: three implementations must agree byte for byte. The rules lean to one side:
whatever a browser might show stays, so no forged words hide behind a tokenizer's quirk.
"""

from __future__ import annotations

import html
import re
from collections.abc import Generator, Iterator, Sequence
from typing import NamedTuple

MAX_ENDLESS = 16
"""After so many tags without an end none is sought any more: each costs a look at all the rest."""

_NAME = re.compile(r"[^\t\n\f\r />]+")
_SKIP = re.compile(r"[\t\n\f\r /]*")
_ATTRIBUTE = re.compile(r"=?[^\t\n\f\r />=]*")
_EQUALS = re.compile(r"[\t\n\f\r ]*=[\t\n\f\r ]*")
_BARE = re.compile(r"[^\t\n\f\r >]*")
_COMMENT_END = re.compile(r"--!?>")
_FOREIGN = re.compile(r"<(?:svg|math)(?=[\t\n\f\r />])", re.IGNORECASE | re.ASCII)
# A whole tag, whatever its attributes: for the many that point nowhere it is all that is asked.
_WHOLE = re.compile(
    r"""<(/?)([A-Za-z][^\t\n\f\r />]*+)[\t\n\f\r /]*+
    (?:
        (?: =[^\t\n\f\r />=]*+ | [^\t\n\f\r />=]++ )
        (?:
            [\t\n\f\r ]*+ = [\t\n\f\r ]*+
            (?: "[^"]*+" | '[^']*+' | (?!["'])[^\t\n\f\r >]*+ )
          | (?![\t\n\f\r ]*+ =)
        )
        [\t\n\f\r /]*+
    )*+>""",
    re.VERBOSE,
)
_END = {
    name: re.compile(rf"</{name}(?=[\t\n\f\r />])", re.IGNORECASE | re.ASCII)
    for name in (["script", "style", "title", "textarea", "xmp", "noembed", "noframes", "iframe"])
}
_CONTENT = frozenset({*_END, "plaintext"})
_DROPPED = frozenset({"script", "style", "title"})
_POINTING = frozenset({"href", "xlink:href", "action", "formaction"})


_LONG_NUMBER = re.compile("&#([0-9]{9,})")


def _unescape(text: str) -> str:
    """Character references decoded. Python reads no number of thousands of digits; eight are
    enough to be none of Unicode's."""
    if "&" not in text:
        return text
    return html.unescape(
        _LONG_NUMBER.sub(lambda match: f"&#{match[1].lstrip('0')[:8] or '0'}", text)
    )


class Token(NamedTuple):
    """Text to read, or where a link points (``is_link``). Every token ends a chunk."""

    is_link: bool
    value: str


class _Tag(NamedTuple):
    name: str
    links: Sequence[str]
    end: int


def tokens(source: str) -> Iterator[Token]:
    """In reading order, in time proportional to the source, whatever it holds."""
    return _Reader(source).read()


def _is_letter(character: str) -> bool:
    return character.isascii() and character.isalpha()


class _Reader:
    def __init__(self, source: str) -> None:
        self._source = source
        self._foreign = _FOREIGN.search(source) is not None
        # What was sought and is not there need not be sought again: keeps hostile input cheap.
        self._missing: set[str] = set()
        self._absent_from: dict[str, int] = {}
        self._last_end = source.rfind(">")
        self._endless = 0

    def read(self) -> Iterator[Token]:
        source, start, at = self._source, 0, 0
        while (at := source.find("<", at)) >= 0:
            whole = self._pointless(at)
            tag = None if whole else self._markup(at)
            if whole:
                name, end = whole[1] or whole[2].lower(), whole.end()
            elif tag:
                name, end = tag.name, tag.end
            else:
                at += 1
                continue
            if start < at:
                yield Token(False, _unescape(source[start:at]))
            if tag:
                yield from [Token(True, link) for link in tag.links]
            if name in _CONTENT:
                end = yield from self._content(name, end)
            start = at = end
        if start < len(source):
            yield Token(False, _unescape(source[start:]))

    def _pointless(self, at: int) -> re.Match[str] | None:
        """The tag at ``at`` if it ends and no attribute of it can point anywhere."""
        if self._endless >= MAX_ENDLESS or at > self._last_end:
            return None
        whole = _WHOLE.match(self._source, at)
        if whole is None:
            return None
        lower = whole[0].lower()
        return None if "href" in lower or "action" in lower else whole

    def _markup(self, at: int) -> _Tag | None:
        """What begins at ``at``; None: it is text. Nothing but a start tag has a name."""
        source = self._source
        follows = source[at + 1 : at + 2]
        if _is_letter(follows):
            return self._tag(at + 1)
        if follows == "/" and _is_letter(source[at + 2 : at + 3]):
            closing = self._tag(at + 2)
            return closing and closing._replace(name="/")
        if source.startswith("<!--", at):
            end = self._comment(at + 4)
        elif follows in ("!", "?", "/") and not self._foreign:
            end = self._find(">", at + 2) + 1
        else:
            end = 0
        return _Tag("/", (), end) if end > 0 else None

    def _content(self, name: str, at: int) -> Generator[Token, None, int]:
        """Elements whose content is no markup. Returns where reading goes on."""
        source = self._source
        if name == "plaintext":
            if at < len(source):
                yield Token(False, source[at:])
            return len(source)
        if (name in _DROPPED and self._foreign) or name in self._missing:
            return at
        match = _END[name].search(source, at)
        if match is None:
            self._missing.add(name)
            return at
        if name not in _DROPPED and at < match.start():
            yield Token(False, _unescape(source[at : match.start()]))
        return match.start()

    def _comment(self, at: int) -> int:
        if self._source.startswith(">", at):
            return at + 1
        if self._source.startswith("->", at):
            return at + 2
        if "--" in self._missing:
            return -1
        match = _COMMENT_END.search(self._source, at)
        if match is None:
            self._missing.add("--")
            return -1
        return match.end()

    def _find(self, what: str, at: int) -> int:
        if at >= self._absent_from.get(what, len(self._source)):
            return -1
        found = self._source.find(what, at)
        if found < 0:
            self._absent_from[what] = at
        return found

    def _tag(self, at: int) -> _Tag | None:
        """The tag whose name starts at ``at``; None when it never ends."""
        if self._endless >= MAX_ENDLESS or self._find(">", at) < 0:
            return None
        tag = self._whole_tag(at)
        self._endless += tag is None
        return tag

    def _whole_tag(self, at: int) -> _Tag | None:
        source = self._source
        match = _NAME.match(source, at)
        assert match is not None  # a letter stands there
        name, at = match[0].lower(), match.end()
        links: list[str] = []
        while True:
            at = _SKIP.match(source, at).end()  # type: ignore[union-attr]
            if at >= len(source):
                return None
            if source[at] == ">":
                return _Tag(name, links, at + 1)
            attribute = _ATTRIBUTE.match(source, at)
            assert attribute is not None
            at, value = attribute.end(), ""
            equals = _EQUALS.match(source, at)
            if equals:
                at = equals.end()
                quote = source[at : at + 1]
                if quote in ('"', "'") and quote:
                    end = self._find(quote, at + 1)
                    if end < 0:
                        return None
                    value, at = source[at + 1 : end], end + 1
                else:
                    bare = _BARE.match(source, at)
                    assert bare is not None
                    value, at = bare[0], bare.end()
            if attribute[0].lower() in _POINTING and name != "link":
                links.append(_unescape(value))
