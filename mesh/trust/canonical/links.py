"""Where links lead: known wrappers taken off, then the origin (spec §4). The list is closed."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
import unicodedata
from collections.abc import Callable, Iterable
from urllib.parse import unquote

MAX_UNWRAPS = 5

_HTTP = re.compile(r"https?://", re.IGNORECASE | re.ASCII)
_SPLIT = re.compile(r"https?://([^/?#\\]*)(/[^?#]*)?(?:\?([^#]*))?", re.IGNORECASE | re.ASCII)
_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*):")
_HOST = re.compile(r"\[[^\]]*\]|(?:[A-Za-z0-9._-]|[^\x00-\x7f])*")
_PORT = re.compile(r":([0-9]+)")
_BASE64URL = re.compile(r"[A-Za-z0-9_-]*")
_TRIM = "".join(map(chr, range(33)))


def unwrap(url: str) -> str:
    """The URL inside the wrappers of mail gateways and click trackers."""
    for _ in range(MAX_UNWRAPS):
        inner = _inner(url)
        if inner is None:
            break
        url = inner
    return url


def _inner(url: str) -> str | None:
    match = _SPLIT.match(url)
    if match is None:
        return None
    host, path, query = match[1].lower(), match[2] or "", match[3] or ""
    opener = _OPENERS.get(host)
    if opener is None and host.endswith(".safelinks.protection.outlook.com"):
        opener = _safe_links
    inner = opener(path, query, url) if opener else None
    return inner if inner is not None and _HTTP.match(inner) else None


def _parameter(query: str, name: str) -> str | None:
    """The first parameter of this name, as it stands in the query."""
    for piece in query.split("&"):
        key, equals, value = piece.partition("=")
        if key == name and equals:
            return value
    return None


def _plain(query: str, *names: str) -> str | None:
    for name in names:
        value = _parameter(query, name)
        if value is not None:
            return unquote(value)
    return None


def _safe_links(path: str, query: str, url: str) -> str | None:
    return _plain(query, "url")


def _proofpoint(path: str, query: str, url: str) -> str | None:
    if path.startswith("/v1/"):
        return _plain(query, "u")
    if path.startswith("/v2/"):
        value = _parameter(query, "u")
        return None if value is None else unquote(value.replace("-", "%").replace("_", "/"))
    return _proofpoint_3(path, query, url)


def _proofpoint_3(path: str, query: str, url: str) -> str | None:
    # By hand, on one line: a pattern would look at all the rest from each place where it may begin.
    for line in url.split("\n"):
        start, end = line.find("/v3/__") + 6, line.rfind("__;")
        if 6 <= start < end:
            letters = _BASE64URL.match(line, end + 3)
            assert letters is not None  # it matches the empty string too
            spare = iter(_base64url(letters[0]).decode("latin-1"))
            return "".join(next(spare, "*") if one == "*" else one for one in line[start:end])
    return None


def _google(path: str, query: str, url: str) -> str | None:
    return _plain(query, "q", "url") if path == "/url" else None


def _barracuda(path: str, query: str, url: str) -> str | None:
    return _plain(query, "a") if path == "/url" else None


def _cisco(path: str, query: str, url: str) -> str | None:
    return unquote(path.rpartition("/")[2])


def _mandrill(path: str, query: str, url: str) -> str | None:
    value = _parameter(query, "p") if path.startswith("/track/click/") else None
    if value is None:
        return None
    try:
        outer = json.loads(_base64url(unquote(value)).decode())
        inner = json.loads(outer["p"])["url"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return inner if isinstance(inner, str) else None


_OPENERS: dict[str, Callable[[str, str, str], str | None]] = {
    "urldefense.proofpoint.com": _proofpoint,
    "urldefense.com": _proofpoint_3,
    "google.com": _google,
    "www.google.com": _google,
    "linkprotect.cudasvc.com": _barracuda,
    "secure-web.cisco.com": _cisco,
    "mandrillapp.com": _mandrill,
}


def _base64url(text: str) -> bytes:
    text = text.rstrip("=")
    try:
        return base64.urlsafe_b64decode(text[: len(text) - (len(text) % 4 == 1)] + "==")
    except (binascii.Error, ValueError):
        return b""


def trim(value: str) -> str:
    """What browsers do to an attribute's URL before they read it."""
    value = value.strip(_TRIM)
    return value.replace("\t", "").replace("\r", "").replace("\n", "")


def origin(url: str) -> str | None:
    """``https://example.com``; None for what leads nowhere else (relative, fragment)."""
    url = url.replace("\\", "/")
    match = _SCHEME.match(url)
    if match is None:
        return _web_origin("https", url) if url.startswith("//") else None
    scheme, rest = match[1].lower(), url[match.end() :]
    if scheme in ("http", "https"):
        return _web_origin(scheme, rest)
    if scheme == "mailto":
        host = _host(unquote(re.split(r"[?#]", rest)[0]).rpartition("@")[2])
        return f"mailto:{host}" if host else None
    return f"{scheme}:"


def _web_origin(scheme: str, rest: str) -> str | None:
    authority = re.split(r"[/?#]", rest.lstrip("/"), maxsplit=1)[0].rpartition("@")[2]
    host = _host(authority)
    if not host:
        return None
    found = _HOST.match(authority)
    assert found is not None  # it matches the empty string too
    port = _PORT.match(authority, found.end())
    number = int(port[1]) if port and len(port[1]) < 10 else None
    if number is None or number == {"http": 80, "https": 443}[scheme]:
        return f"{scheme}://{host}"
    return f"{scheme}://{host}:{number}"


def _host(text: str) -> str:
    match = _HOST.match(text)
    assert match is not None  # it matches the empty string too
    return unicodedata.normalize("NFKC", match[0]).lower().strip(".")


def links_digest(origins: Iterable[str]) -> bytes:
    """L1 of a set of origins."""
    ordered = sorted(origin.encode("utf-8", "replace") for origin in set(origins))
    return hashlib.sha256(b"maily-links-v1\n" + b"\n".join(ordered)).digest()
