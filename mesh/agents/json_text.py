"""Read the text values out of a JSON object while it is still being written.

The model answers in JSON because a schema holds it in form, but people who watch want words:
this gives each string value's characters as soon as they are there, keys and syntax left out.
"""

from __future__ import annotations

_ESCAPES = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


class JsonText:
    """Feed pieces of a JSON object; each ``feed`` gives the text that became readable.

    Flat objects with string values are what agents ask for; nested values are read as well, keys
    by their innermost name. An answer that is no object is taken as plain text of the field
    ``""``. Never raises: what is broken ends up incomplete.
    """

    def __init__(self) -> None:
        self.fields: dict[str, str] = {}
        self.complete = False
        """True once the outermost object is closed."""
        self._plain: bool | None = None
        self._depth = 0
        self._in_string = False
        self._is_key = False
        self._expect_key = False
        self._stack: list[str] = []
        self._key = ""
        self._buffer: list[str] = []
        self._escape: str | None = None
        self._high: int | None = None

    def feed(self, piece: str) -> str:
        """Characters of values that this piece completes. A line feed parts two values."""
        out: list[str] = []
        for char in piece:
            if self._plain is None and not char.isspace():
                self._plain = char != "{"
            if self._plain:
                out.append(char)
                self.fields[""] = self.fields.get("", "") + char
            elif self._plain is False:
                self._step(char, out)
        return "".join(out)

    def _step(self, char: str, out: list[str]) -> None:
        if self._in_string:
            self._string(char, out)
        elif char == '"':
            self._in_string = True
            self._is_key = self._expect_key and bool(self._stack) and self._stack[-1] == "{"
            self._buffer = []
            if not self._is_key and self.fields:
                out.append("\n")
            if not self._is_key:
                self.fields.setdefault(self._key, "")
        elif char in "{[":
            self._stack.append(char)
            self._expect_key = char == "{"
        elif char in "}]":
            if self._stack:
                self._stack.pop()
            self.complete = self.complete or not self._stack
        elif char == ",":
            self._expect_key = bool(self._stack) and self._stack[-1] == "{"
        elif char == ":":
            self._expect_key = False

    def _string(self, char: str, out: list[str]) -> None:
        if self._escape is not None:
            self._escape += char
            if self._escape[0] == "u":
                if len(self._escape) == 5:
                    self._unicode(self._escape[1:], out)
                    self._escape = None
            else:
                self._emit(_ESCAPES.get(self._escape, ""), out)
                self._escape = None
        elif char == "\\":
            self._escape = ""
        elif char == '"':
            self._in_string = False
            if self._is_key:
                self._key = "".join(self._buffer)
        else:
            self._emit(char, out)

    def _unicode(self, digits: str, out: list[str]) -> None:
        try:
            unit = int(digits, 16)
        except ValueError:
            return
        if 0xD800 <= unit < 0xDC00:
            self._high = unit
        elif 0xDC00 <= unit < 0xE000:
            if self._high is not None:
                self._emit(chr(0x10000 + ((self._high - 0xD800) << 10) + unit - 0xDC00), out)
            self._high = None
        else:
            self._emit(chr(unit), out)

    def _emit(self, text: str, out: list[str]) -> None:
        if self._is_key:
            self._buffer.append(text)
        else:
            self.fields[self._key] = self.fields.get(self._key, "") + text
            out.append(text)
