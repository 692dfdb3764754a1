#!/usr/bin/env python3
"""Verifies a Maily certificate: one file, the standard library and ``cryptography``, no network.

::

    python maily_verify.py [CERTIFICATE] MESSAGE.eml --key NAME+ID+KEY [--recipient ADDRESS]
           [--receipt FILE --block CHAIN:HASH ... [--contract CHAIN:ADDRESS ...] [--networks N]]
           [--revocation FILE ...]

CERTIFICATE is a file (JSON or CBOR), or what a QR code says: the link or its digits behind the
``#``. Without one it is the certificate in the message itself. The answer is JSON; one line for
people goes to standard error.

Written from docs/spec/certificate-v1.md alone and apart from the code that issues certificates, so
that each checks the other. Steps are numbered as there (§7). Exit status: 0 holds, 1 does not,
2 wrong usage. Trusted keys may also stand in ``trusted-keys.txt`` beside this file, one a line.
Get them from the sender by a way that you trust: whoever gives you the keys can make you believe.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import html
import json
import re
import sys
import unicodedata
from pathlib import Path
from typing import Any
from urllib.parse import unquote

try:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
except ImportError:
    print("maily_verify: a package is missing: python -m pip install cryptography", file=sys.stderr)
    sys.exit(2)


class Refused(Exception):
    """``step`` of §7 does not hold."""

    def __init__(self, step: int, why: str, level: str = "different", **facts: Any) -> None:
        super().__init__(why)
        self.step, self.level, self.facts = step, level, facts


def sha(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def need(condition: object, step: int, why: str) -> None:
    if not condition:
        raise Refused(step, why)


# --- §1 and §2: the message ---------------------------------------------------------------------

UNDER_EXACT = [
    *("from", "sender", "reply-to", "to", "cc", "subject", "date", "message-id", "in-reply-to"),
    *("references", "mime-version", "content-type", "content-transfer-encoding", "list-id"),
    *("list-unsubscribe", "list-unsubscribe-post"),
]
OWN_TYPES = {f"application/vnd.maily.certificate+{kind}" for kind in ("json", "cbor")}


def entity(data: bytes) -> tuple[list[tuple[str, bytes]], bytes]:
    """(name, relaxed value) of each field, and the body."""
    if data[:1] == b"\n":
        return [], data[1:]
    cut = data.find(b"\n\n")
    head, body = (data, b"") if cut < 0 else (data[:cut], data[cut + 2 :])
    fields = []
    for line in re.findall(rb"[^\n]*(?:\n[ \t][^\n]*)*", head):
        name, colon, value = line.partition(b":")
        if colon and line[:1] not in (b" ", b"\t") and b"\n" not in name:
            value = re.sub(rb"[ \t]+", b" ", value.replace(b"\n", b"")).strip(b" \t")
            fields.append((name.rstrip(b" \t").decode("latin-1").lower(), value))
    return fields, body


def values(fields: list[tuple[str, bytes]], name: str) -> list[bytes]:
    return [value for key, value in fields if key == name]


def mime_type(fields: list[tuple[str, bytes]]) -> tuple[str, str, str]:
    """(type, boundary, charset)."""
    value = (values(fields, "content-type") or [b""])[0].decode("latin-1")
    word = "[A-Za-z0-9!#$&^_.+-]+"
    kind = re.match(rf"\s*({word}/{word})\s*(?:;|$)", value, re.ASCII)
    found = []
    for name in ("boundary", "charset"):
        quoted_or_bare = rf'(?:^|;)\s*{name}\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;"]+))'
        match = re.search(quoted_or_bare, value, re.IGNORECASE | re.ASCII)
        bare = match[2] or "" if match else ""
        quoted = match[1] if match else None
        found.append(bare if quoted is None else re.sub(r"\\(.)", r"\1", quoted))
    return kind[1].lower() if kind else "text/plain", found[0].rstrip(" \t"), found[1]


def multipart(body: bytes, boundary: str) -> list[tuple[int, int, int, int]]:
    """(delimiter, start, end, where the next delimiter begins) of each part."""
    out: list[tuple[int, int, int, int]] = []
    delimiter, begun, at = b"--" + boundary.encode("latin-1"), None, 0
    if not boundary:
        return []
    for line in body.split(b"\n"):
        bare = line.rstrip(b" \t")
        if line.startswith(delimiter) and bare in (delimiter, delimiter + b"--"):
            if begun:
                out.append((*begun, max(begun[1], at - 1), at))
            begun = None if bare != delimiter else (at, at + len(line) + 1)
            if begun is None or len(out) > 1000:
                return out
        at += len(line) + 1
    return [*out, (*begun, len(body), len(body))] if begun else out


def relaxed_body(body: bytes) -> bytes:
    lines = [re.sub(rb"[ \t]+", b" ", line).rstrip(b" ") for line in body.split(b"\n")]
    while lines and not lines[-1]:
        lines.pop()
    return b"".join(line + b"\r\n" for line in lines)


def address(value: bytes) -> str:
    text = value.decode("utf-8", "replace")
    angle = text.rfind("<")
    if angle >= 0:
        text = text[angle + 1 :].split(">")[0]
    return lower(text.replace(" ", "").replace("\t", ""))


def lower(text: str) -> str:
    return re.sub("[A-Z]", lambda letter: letter[0].lower(), text.strip(" \t\r\n"))


class Message:
    """What §1 to §4 make of a message."""

    def __init__(self, raw: bytes) -> None:
        data = raw.replace(b"\r\n", b"\n")
        if data.startswith(b"From "):
            data = data[data.find(b"\n") + 1 :] if b"\n" in data else b""
        fields, body = entity(data)
        kind, boundary, _ = mime_type(fields)
        if kind.startswith("multipart/"):
            for at, start, end, following in multipart(body, boundary):
                if mime_type(entity(body[start:end])[0])[0] in OWN_TYPES:
                    body = body[:at] + body[following:]
                    break
        head = [
            name.encode() + b":" + value + b"\r\n"
            for name in UNDER_EXACT
            for value in values(fields, name)
        ]
        self.exact = sha(b"maily-exact-v1\n", sha(relaxed_body(body)), sha(*head))
        senders, ids = values(fields, "from"), values(fields, "message-id")
        domain = address(senders[0]).split("@")[-1] if len(senders) == 1 else ""
        self.domain = domain if re.fullmatch("[a-z0-9.-]{1,255}", domain) else ""
        self.id = ids[0].decode("utf-8", "replace") if len(ids) == 1 and len(ids[0]) < 999 else ""
        to = [address(one) for value in values(fields, "to") for one in value.split(b",")]
        self.people = [one for one in to if "@" in one][:50]
        tags = [
            re.search(rb"(?:^|;)\s*s\s*=\s*([A-Za-z0-9._-]+)", value)
            for value in values(fields, "dkim-signature")[:5]
        ]
        self.selectors = [tag[1].decode() for tag in tags if tag]
        self.seen = bytearray()
        self.links: list[tuple[int, str]] = []
        for text, is_html in shown(fields, body, 0, [1000]):
            self.read(text, is_html)
        self.text = bytes(self.seen)
        self.origins = {origin for _, origin in self.links}

    def read(self, text: str, is_html: bool) -> None:
        for kind, value in html_tokens(text) if is_html else [("text", text)]:
            if kind == "link":
                value = value.strip("".join(map(chr, range(33))))
                self.link(unwrapped(re.sub("[\t\r\n]", "", value)))
                continue
            done = 0
            for match in re.finditer(URL, value):
                url = match[0].rstrip(".,;:!?)]}'*")
                target = unwrapped(url)
                self.add(value[done : match.start()])
                self.link(target)
                self.add(target)
                done = match.start() + len(url)
            self.add(value[done:])

    def link(self, url: str) -> None:
        origin = origin_of(url)
        if origin:
            self.links.append((len(self.seen), origin))

    def add(self, text: str) -> None:
        folded = INVISIBLE.sub("", nfkc(text))
        self.seen += folded.encode("utf-8", "replace")


# --- §3: what a reader sees ---------------------------------------------------------------------

INVISIBLE = re.compile(
    "[\0-\x20\x7f-\xa0\xad\u034f\u115f\u1160\u1680\u17b4\u17b5\u180b-\u180f\u2000-\u200d\u2028"
    "\u2029\u202f\u205f-\u2065\u206a-\u206f\u2800\u3000\u3164\ufe00-\ufe0f\ufeff\uffa0"
    "\ufff9-\ufffb\U000e0000-\U000e0fff]"
)
# Python of other years knows more of Unicode: what came after version 14 and would fold stays.
LATER = re.compile(
    "([\u0897\u1acf-\u1add\u1ae0-\u1aeb\ua7f1\U000105d2\U000105da\U00010d69-\U00010d6d"
    "\U00010efa\U00010efb\U00010efd-\U00010eff\U00011382\U00011384\U0001138b\U00011390\U000113b8"
    "\U000113bb\U000113c2\U000113c9\U000113ce-\U000113d0\U00011f41\U00011f42\U0001611e-\U00016120"
    "\U00016129\U0001612f\U00016d63\U00016d67\U0001ccd6-\U0001ccf9\U0001e030-\U0001e06d"
    "\U0001e08f\U0001e4ec-\U0001e4ef\U0001e5ee\U0001e5ef\U0001e6e3\U0001e6e6\U0001e6ee\U0001e6ef"
    "\U0001e6f5]+)"
)
URL = re.compile(
    r"(?ai)https?://[^<>\"\x00-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+"
)
CHARSETS = {
    **dict.fromkeys(("utf-8", "utf8"), "utf-8"),
    **dict.fromkeys(
        ("us-ascii", "ascii", "iso-8859-1", "latin1", "windows-1252", "cp1252"), "cp1252"
    ),
    **{f"iso-8859-{n}": f"iso8859-{n}" for n in (*range(2, 9), 10, 13, 14, 15, 16)},
    **{f"windows-125{n}": f"cp125{n}" for n in range(9) if n != 2},
    **dict.fromkeys(("gb2312", "gbk", "gb18030"), "gb18030"),
    **{name: name for name in ("koi8-r", "koi8-u", "big5", "euc-jp", "iso-2022-jp")},
    "iso-8859-9": "cp1254",
    "macintosh": "mac-roman",
    "shift_jis": "cp932",
    "euc-kr": "cp949",
    "ks_c_5601-1987": "cp949",
    "utf-16le": "utf-16-le",
    "utf-16be": "utf-16-be",
}


def nfkc(text: str) -> str:
    pieces = LATER.split(text)
    pieces[::2] = [unicodedata.normalize("NFKC", piece) for piece in pieces[::2]]
    return "".join(pieces)


def shown(
    fields: list[tuple[str, bytes]], body: bytes, depth: int, left: list[int]
) -> list[tuple[str, bool]]:
    """(text, is it HTML) of each part that is shown."""
    left[0] -= 1
    if left[0] < 0 or depth > 20:
        return []
    kind, boundary, charset = mime_type(fields)
    if kind.startswith("multipart/"):
        parts = [entity(body[start:end]) for _, start, end, _ in multipart(body, boundary)[:1000]]
        if parts:
            if kind != "multipart/alternative":
                return [text for part in parts for text in shown(*part, depth + 1, left)]
            for part in reversed(parts):
                texts = shown(*part, depth + 1, left)
                if texts:
                    return texts
            return []
        kind = "text/plain"
    disposition = (values(fields, "content-disposition") or [b""])[0].lower()
    if kind not in ("text/plain", "text/html") or disposition.startswith(b"attachment"):
        return []
    encoding = (values(fields, "content-transfer-encoding") or [b""])[0].lower()
    if encoding == b"base64":
        letters = re.sub(rb"[^A-Za-z0-9+/]", b"", body.split(b"=")[0])
        letters = letters[:-1] if len(letters) % 4 == 1 else letters
        body = base64.b64decode(letters + b"==="[: -len(letters) % 4])
    elif encoding == b"quoted-printable":
        body = b"\n".join(line.rstrip(b" \t") for line in body.split(b"\n"))
        body = re.sub(rb"=(\n|[0-9A-Fa-f]{2})", lambda code: unquoted(code[1]), body)
    for codec in (CHARSETS.get(charset.strip(" \t").lower()), "utf-8"):
        try:
            return [(body.decode(codec or "utf-8"), kind == "text/html")]
        except UnicodeError:
            pass
    return [(body.decode("cp1252", "replace"), kind == "text/html")]


def unquoted(code: bytes) -> bytes:
    return b"" if code == b"\n" else bytes.fromhex(code.decode())


def references(text: str) -> str:
    """Character references decoded; numbers of more than eight digits are none of Unicode's."""
    short = re.sub("&#([0-9]{9,})", lambda long: f"&#{long[1].lstrip('0')[:8] or '0'}", text)
    return html.unescape(short)


SPACE = "\t\n\f\r "
ATTRIBUTE = re.compile(
    rf"(=?[^{SPACE}/>=]*)(?:[{SPACE}]*=[{SPACE}]*(\"[^\"]*\"|'[^']*'|[^{SPACE}>]*))?"
)


def html_tag(source: str, at: int) -> tuple[str, list[str], int] | None:
    """(name, links, end) of the tag whose name begins at ``at``."""
    name = re.compile(rf"[^{SPACE}/>]+").match(source, at)
    assert name
    links: list[str] = []
    at = name.end()
    while at < len(source):
        if source[at] in SPACE + "/":
            at += 1
        elif source[at] == ">":
            return name[0].lower(), links, at + 1
        else:
            match = ATTRIBUTE.match(source, at)
            assert match
            value = match[2] or ""
            if value[:1] in ('"', "'") and value:
                if len(value) < 2 or value[-1] != value[0]:
                    return None
                value = value[1:-1]
            pointing = match[1].lower() in ("href", "xlink:href", "action", "formaction")
            if pointing and name[0].lower() != "link":
                links.append(references(value))
            at = match.end()
    return None


def html_tokens(source: str) -> list[tuple[str, str]]:
    """("text", chunk) and ("link", target), in order."""
    foreign = re.search(rf"(?ai)<(svg|math)[{SPACE}/>]", source)
    last = source.rfind(">")
    out: list[tuple[str, str]] = []
    start = at = endless = 0
    gone: set[str] = set()  # ends that do not come any more: keeps hostile input cheap

    def flush(until: int) -> None:
        if start < until:
            out.append(("text", references(source[start:until])))

    while (at := source.find("<", at)) >= 0:
        end, name = -1, ""
        links: list[str] = []
        if re.match(r"</?[A-Za-z]", source[at : at + 3]):
            closing = source[at + 1] == "/"
            if endless < 16 and last > at:
                tag = html_tag(source, at + 1 + closing)
                endless += tag is None
                if tag:
                    name, links, end = ("" if closing else tag[0]), tag[1], tag[2]
        elif source.startswith("<!--", at):
            if source.startswith((">", "->"), at + 4):
                end = source.index(">", at) + 1
            else:
                found = None if "--" in gone else re.compile("--!?>").search(source, at + 4)
                end = found.end() if found else -1
                if not found:
                    gone.add("--")
        elif source[at + 1 : at + 2] in ("!", "?", "/") and source[at + 1 :] and not foreign:
            end = source.find(">", at + 2) + 1 or -1
        if end < 0:
            at += 1
            continue
        flush(at)
        out += [("link", link) for link in links]
        drop = name in ("script", "style", "title")
        if name == "plaintext":
            if source[end:]:
                out.append(("text", source[end:]))
            return out
        if (drop and not foreign) or name in ("textarea", "xmp", "noembed", "noframes", "iframe"):
            ending = re.compile(rf"(?ai)</{name}[{SPACE}/>]")
            close = None if name in gone else ending.search(source, end)
            if not close:
                gone.add(name)
            else:
                if not drop and end < close.start():
                    out.append(("text", references(source[end : close.start()])))
                end = close.start()
        start = at = end
    flush(len(source))
    return out


# --- §4: links ----------------------------------------------------------------------------------


def base64url(text: str) -> bytes:
    text = text.rstrip("=")
    text = text[:-1] if len(text) % 4 == 1 else text
    try:
        return base64.urlsafe_b64decode(text + "==")
    except ValueError:
        return b""


def unwrapped(url: str) -> str:
    for _ in range(5):
        inner = unwrapped_once(url)
        if inner is None or not re.match(r"(?ai)https?://", inner):
            return url
        url = inner
    return url


def unwrapped_once(url: str) -> str | None:
    match = re.match(r"(?ai)https?://([^/?#\\]*)(/[^?#]*)?(?:\?([^#]*))?", url)
    if not match:
        return None
    host, path = match[1].lower(), match[2] or ""
    query: dict[str, str] = {}
    for pair in (match[3] or "").split("&"):
        if "=" in pair:
            query.setdefault(*pair.split("=", 1))
    wanted: list[str] = []
    if host.endswith(".safelinks.protection.outlook.com"):
        wanted = ["url"]
    elif host == "urldefense.proofpoint.com" and path.startswith("/v1/"):
        wanted = ["u"]
    elif host == "urldefense.proofpoint.com" and path.startswith("/v2/"):
        value = query.get("u")
        return None if value is None else unquote(value.replace("-", "%").replace("_", "/"))
    elif host in ("urldefense.com", "urldefense.proofpoint.com"):
        lines = [
            line for line in url.split("\n") if 5 < line.find("/v3/__") + 6 < line.rfind("__;")
        ]
        if not lines:
            return None
        inner, _, letters = lines[0].partition("/v3/__")[2].rpartition("__;")
        letters = re.split("[^A-Za-z0-9_-]", letters, maxsplit=1)[0]
        stars, spare = inner.split("*"), list(base64url(letters).decode("latin-1"))
        joined = stars[0]
        for piece in stars[1:]:
            joined += (spare.pop(0) if spare else "*") + piece
        return joined
    elif host in ("google.com", "www.google.com") and path == "/url":
        wanted = ["q", "url"]
    elif host == "linkprotect.cudasvc.com" and path == "/url":
        wanted = ["a"]
    elif host == "secure-web.cisco.com":
        return unquote(path.split("/")[-1])
    elif host == "mandrillapp.com" and path.startswith("/track/click/") and "p" in query:
        try:
            inner = json.loads(json.loads(base64url(unquote(query["p"])).decode())["p"])["url"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return None
        return inner if isinstance(inner, str) else None
    return next((unquote(query[name]) for name in wanted if name in query), None)


def host_of(text: str) -> tuple[str, str]:
    """(host, what follows it)."""
    match = re.match(r"\[[^\]]*\]|(?:[A-Za-z0-9._-]|[^\0-\x7f])*", text)
    assert match
    return nfkc(match[0]).lower().strip("."), text[match.end() :]


def origin_of(url: str) -> str | None:
    url = url.replace("\\", "/")
    match = re.match(r"([a-zA-Z][a-zA-Z0-9+.-]*):(.*)", url, re.S)
    if match:
        scheme, rest = match[1].lower(), match[2]
    elif url.startswith("//"):
        scheme, rest = "https", url
    else:
        return None
    if scheme == "mailto":
        host, _ = host_of(unquote(re.split("[?#]", rest)[0]).split("@")[-1])
        return f"mailto:{host}" if host else None
    if scheme not in ("http", "https"):
        return f"{scheme}:"
    host, after = host_of(re.split("[/?#]", rest.lstrip("/"))[0].split("@")[-1])
    if not host:
        return None
    port = re.match(r":([0-9]+)", after)
    if not port or len(port[1]) > 9 or (scheme, int(port[1])) in (("http", 80), ("https", 443)):
        return f"{scheme}://{host}"
    return f"{scheme}://{host}:{int(port[1])}"


def links_digest(origins: Any) -> bytes:
    ordered = sorted({origin.encode("utf-8", "replace") for origin in origins})
    return sha(b"maily-links-v1\n", b"\n".join(ordered))


# --- §5: leaf, tree, checkpoint -----------------------------------------------------------------


def commitment(salt: bytes, person: str) -> bytes:
    return sha(b"maily-rcpt-v1\n", salt, lower(person).encode("utf-8", "replace"))


def seal(exact: bytes, recipient: bytes, selector: str, name: str) -> bytes:
    out = [b"maily-seal-v1\n", exact, recipient]
    for text in (selector, name):
        data = text.encode("utf-8", "replace")
        out += [len(data).to_bytes(2, "big"), data]
    return sha(*out)


def leaf_hash(
    salt: bytes, links: bytes, text: bytes, size: int, key: bytes, sealed: bytes, domain: str
) -> bytes:
    name = domain.encode("ascii")
    counted = bytes([len(name)]) + name
    return sha(
        b"\0maily-leaf-v1\n", salt, links, text, size.to_bytes(4, "big"), key, sealed, counted
    )


def tree_root(leaf: bytes, index: int, size: int, path: list[bytes]) -> bytes:
    """Step 5: walks up from the leaf; a level where it has no sibling has no node in the path."""
    need(0 <= index < size <= 2**40, 5, "index is not below size")
    node, left = leaf, list(path)
    last = size - 1
    while last:
        if index & 1 or index < last:
            need(left, 5, "the path is too short")
            other = left.pop(0)
            node = sha(b"\1", other, node) if index & 1 else sha(b"\1", node, other)
        index, last = index >> 1, last >> 1
    need(not left, 5, "the path is too long")
    return node


class Key:
    """``NAME+ID+BASE64``: a C2SP verifier key."""

    def __init__(self, text: str) -> None:
        self.name, _, rest = text.strip().partition("+")
        claimed, _, encoded = rest.partition("+")
        try:
            data = base64.b64decode(encoded, validate=True)
        except ValueError:
            data = b""
        self.id = sha(self.name.encode(), b"\n", data)[:4]
        if data[:1] != b"\1" or len(data) != 33 or self.id.hex() != claimed:
            raise ValueError(f"{text.strip()[:60]!r} is no key: NAME+ID+BASE64, of Ed25519")
        self.public = Ed25519PublicKey.from_public_bytes(data[1:])

    def signed(self, body: str, signature: bytes) -> bool:
        if signature[:4] != self.id:
            return False
        try:
            self.public.verify(signature[4:], body.encode())
        except InvalidSignature:
            return False
        return True


def note_body(origin: str, size: int, root: bytes) -> str:
    return f"{origin}\n{size}\n{base64.b64encode(root).decode()}\n"


def check_note(note: str, root: bytes, size: int, keys: list[Key]) -> list[Key]:
    """Steps 6 and 7 for a whole note."""
    match = re.fullmatch(r"([!-~]{1,300})\n([1-9][0-9]{0,15})\n([^\n]+)\n\n((?:— .+\n)+)", note)
    if not match:
        raise Refused(1, "the checkpoint is malformed")
    point, lines = strict64(match[3]), match[4].split("\n")[:-1]
    signatures = []
    for line in lines:
        parts = re.fullmatch(r"— ([!-*,-~]+) ([A-Za-z0-9+/]+={0,2})", line)
        if not parts or len(lines) > 100:
            raise Refused(1, "a signature line is malformed")
        signatures.append((parts[1], strict64(parts[2])))
        need(len(signatures[-1][1]) > 4, 1, "a signature is too short")
    need(len(point) == 32, 1, "the root has not 32 bytes")
    need(point == root and int(match[2]) == size, 6, "the proof leads to another root")
    name, slash, digits = match[1].rpartition("/")
    need(slash and digits == root.hex()[:16], 6, "the origin is not named by the root")
    body = note_body(match[1], size, root)
    good: list[Key] = []
    for signer, data in signatures:
        for key in keys:
            if key.name == signer == name and key.id == data[:4]:
                right = key not in good and key.signed(body, data)
                need(right, 7, "a signature of a trusted key is wrong, or stands twice")
                good.append(key)
    need(good, 7, "no trusted key has signed the checkpoint")
    return good


def strict64(text: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError:
        raise Refused(1, "base64 is broken") from None
    need(base64.b64encode(data).decode() == text, 1, "base64 is not canonical")
    return data


# --- §6: forms ----------------------------------------------------------------------------------


def canonical_json(data: bytes) -> dict[str, Any]:
    """RFC 8785 with ASCII names and whole numbers: what is not canonical is refused."""

    def refuse(text: str) -> Any:
        raise ValueError(f"{text[:40]} is no whole number")

    def write(value: Any) -> str:
        if isinstance(value, dict):
            return (
                "{" + ",".join(f"{write(key)}:{write(value[key])}" for key in sorted(value)) + "}"
            )
        if isinstance(value, list):
            return "[" + ",".join(map(write, value)) + "]"
        return json.dumps(value, ensure_ascii=False)

    def whole(text: str) -> int:
        return int(text) if len(text) < 18 and abs(int(text)) < 2**53 else refuse(text)

    need(len(data) <= 1 << 20, 1, "more than 1 MiB")
    try:
        value = json.loads(data, parse_float=refuse, parse_constant=refuse, parse_int=whole)
        same = isinstance(value, dict) and write(value).encode() == data
    except (ValueError, RecursionError) as error:
        raise Refused(1, f"not JSON: {error}") from None
    need(same, 1, "not canonical JSON")
    return dict(value)


def members(value: Any, **kinds: Any) -> dict[str, Any]:
    """Checks a closed object: each member by its kind (type, or length of hex)."""
    need(isinstance(value, dict) and set(value) == set(kinds), 1, f"not just {sorted(kinds)}")
    out = {}
    for name, kind in kinds.items():
        item = value[name]
        if isinstance(kind, int):  # hex of so many bytes, 0: any
            good = isinstance(item, str) and re.fullmatch("(?:[0-9a-f]{2})*", item)
            need(good and (not kind or len(item) == 2 * kind), 1, f"{name} is no hex of its length")
            item = bytes.fromhex(item)
        elif kind is int:
            need(type(item) is int and 0 <= item < 2**53, 1, f"{name} is no whole number")
        else:
            need(isinstance(item, kind), 1, f"{name} is not of its kind")
        out[name] = item
    return out


def need_names(document: dict[str, Any], names: str) -> None:
    need(set(document) == set(names.split()), 1, f"not just {names}")


def check_version(document: dict[str, Any], kind: str) -> None:
    need(document.get("type") == kind, 1, f"not a {kind}")
    version = document.get("version")
    need(type(version) is int and version == 1, 2, "version is not 1")


def read_proof(value: Any) -> tuple[int, int, list[bytes]]:
    proof = members(value, index=int, path=list, size=int)
    need(len(proof["path"]) <= 40, 1, "the path is too long")
    path = [members({"node": node}, node=32)["node"] for node in proof["path"]]
    return proof["index"], proof["size"], path


def cbor(data: bytes) -> list[Any]:
    """One array of whole numbers, byte strings and null, in deterministic CBOR."""
    at = 0

    def head() -> tuple[int, int]:
        nonlocal at
        need(at < len(data), 1, "the certificate is cut off")
        major, info = data[at] >> 5, data[at] & 31
        at += 1
        if info < 24:
            return major, info
        width = {24: 1, 25: 2, 26: 4, 27: 8}.get(info, 0)
        number = int.from_bytes(data[at : at + width], "big")
        at += width
        least = {1: 24, 2: 1 << 8, 4: 1 << 16, 8: 1 << 32}.get(width, 1 << 64)
        need(at <= len(data) and number >= least, 1, "a number is not in its shortest form")
        return major, number

    major, count = head()
    need(major == 4 and count == 9 and len(data) <= 2048, 1, "not a certificate")
    out: list[Any] = []
    for _ in range(count):
        if data[at : at + 1] == b"\xf6":
            out.append(None)
            at += 1
            continue
        major, number = head()
        need(major in (0, 2), 1, "a member is not of its kind")
        if major == 0:
            out.append(number)
        else:
            need(at + number <= len(data), 1, "the certificate is cut off")
            out.append(data[at : at + number])
            at += number
    need(at == len(data), 1, "bytes follow the certificate")
    return out


# --- §7: verification ---------------------------------------------------------------------------


def windows(message: Message, begin: int, size: int) -> list[tuple[int, bytes, set[str]]]:
    """(begin, links digest, origins added) for each way to count the links at the ends."""
    end = begin + size
    inside = {origin for at, origin in message.links if begin < at < end}
    before = [origin for at, origin in message.links if at == begin][-8:]
    behind = [origin for at, origin in message.links if at == end][:8]
    out, seen = [], []
    for left in range(len(before), -1, -1):
        for right in range(len(behind), -1, -1):
            origins = inside | set(before[len(before) - left :]) | set(behind[:right])
            if origins not in seen:
                seen.append(origins)
                out.append((begin, links_digest(origins), message.origins - origins))
    return out


def text_digest(text: bytes) -> bytes:
    return sha(b"maily-text-v1\n", text)


def verify(
    certificate: bytes,
    mail: bytes,
    keys: list[Key],
    recipient: str | None = None,
    revocations: list[bytes] | None = None,
    receipt: bytes | None = None,
    blocks: set[tuple[int, str]] | None = None,
    contracts: set[tuple[int, str]] | None = None,
    networks: int = 1,
) -> dict[str, Any]:
    """``holds``, ``level``, ``state``, ``failedStep``, ``reason`` and what differs."""
    result: dict[str, Any] = {"holds": False, "level": "different", "state": "included"}
    try:
        message = Message(mail)
        people = [lower(recipient)] if recipient else message.people
        form = full if certificate[:1] == b"{" else compact
        leaf, point, name, facts = form(certificate, message, people, keys)
        result.update(facts)
        for entry in revocations or []:
            if revokes(entry, leaf, name, keys):
                result["state"] = "revoked"
                raise Refused(8, "the issuer has revoked it", result["level"])
        if receipt is not None:
            known = blocks or set(), contracts or set()
            try:
                result["anchors"] = anchors(receipt, point, keys, *known)
            except Refused as refusal:
                raise Refused(9, str(refusal), result["level"]) from None
            chains = {anchor["chainId"] for anchor in result["anchors"]}
            if len(chains) < networks:
                why = f"{len(chains)} of {networks} networks have the root in a known block"
                raise Refused(9, why, result["level"])
            result["state"] = "final"
        result["holds"] = True
    except Refused as refusal:
        result.update(refusal.facts, failedStep=refusal.step, reason=str(refusal))
        result["level"] = refusal.level
    return result


def full(
    certificate: bytes, message: Message, people: list[str], keys: list[Key]
) -> tuple[bytes, tuple[bytes, int], str, dict[str, Any]]:
    document = canonical_json(certificate)
    need_names(document, "checkpoint leaf proof type version")
    check_version(document, "maily-certificate")
    document = members(document, checkpoint=str, leaf=dict, proof=dict, type=str, version=int)
    leaf = members(
        document["leaf"],
        dkim=(dict, type(None)),
        domain=str,
        exact=32,
        links=list,
        messageId=str,
        recipient=32,
        salt=16,
        text=32,
        textBytes=int,
    )
    selector, key = "", bytes(16)
    if leaf["dkim"] is not None:
        dkim = members(leaf["dkim"], key=16, selector=str)
        selector, key = dkim["selector"], dkim["key"]
        need(any(key) and len(selector.encode()) <= 255, 1, "the DKIM key is no key")
    origins = leaf["links"]
    one_line = all(isinstance(item, str) and "\n" not in item for item in origins)
    need(one_line and len(origins) <= 4096, 1, "links are not texts of one line")
    in_order = sorted({item.encode() for item in origins}) == [item.encode() for item in origins]
    need(in_order, 1, "links are not sorted, each once")
    fits = len(leaf["messageId"].encode()) <= 4096 and leaf["textBytes"] < 2**32
    need(fits and leaf["domain"].isascii() and len(leaf["domain"]) < 256, 1, "too long")
    links, salt, size = links_digest(origins), leaf["salt"], leaf["textBytes"]
    sealed = seal(leaf["exact"], leaf["recipient"], selector, leaf["messageId"])
    hashed = leaf_hash(salt, links, leaf["text"], size, key, sealed, leaf["domain"])
    index, of, path = read_proof(document["proof"])
    root = tree_root(hashed, index, of, path)
    need(len(document["checkpoint"]) <= 32_768, 1, "the checkpoint is too long")
    signer = check_note(document["checkpoint"], root, of, keys)[0].name

    exact = message.exact == leaf["exact"]
    whole, linked = text_digest(message.text), links_digest(message.origins) == links
    added, missing = message.origins - set(origins), set(origins) - message.origins
    around = None
    if exact and whole == leaf["text"] and linked:
        level = "exact"
    elif size and whole == leaf["text"] and linked:
        level = "same text"
    else:
        around = found_within(message, size, leaf["text"], links)
        level = "same text with additions" if around else "different"
        if around:
            added, missing = around[2], set()
        elif linked and origins:
            level = "same links only"
    held = any(commitment(salt, one) == leaf["recipient"] for one in people)
    same = {True: "same", False: "other"}
    facts: dict[str, Any] = {
        "level": level,
        "signer": signer,
        "domain": leaf["domain"],
        "sender": same[message.domain == leaf["domain"]],
        "messageId": same[message.id == leaf["messageId"]],
        "recipient": same[held] if people else "unknown",
        "addedLinks": sorted(added),
        "missingLinks": sorted(missing),
        "addedText": added_text(message, around[0], size) if around else "",
        "differs": [
            what
            for what, differs in (
                ("headers or body", not exact),
                ("text", whole != leaf["text"] and not exact and not around),
                ("links", not linked and not around),
            )
            if differs
        ],
    }
    if level in ("same links only", "different"):
        why = "the text or the links are not the certified ones; the certificate is genuine"
        raise Refused(4, why, **facts)
    return hashed, (root, of), signer, facts


def found_within(
    message: Message, size: int, text: bytes, links: bytes
) -> tuple[int, bytes, set[str]] | None:
    """The certified text somewhere in a longer one, with its links."""
    spare = len(message.text) - size
    if size < 32 or spare <= 0:
        return None
    for begin in range(min(spare, 8192) + 1):
        if (
            message.text[begin] & 0xC0 != 0x80
            and text_digest(message.text[begin : begin + size]) == text
        ):
            return next((one for one in windows(message, begin, size) if one[1] == links), None)
    return None


def added_text(message: Message, begin: int, size: int) -> str:
    return (message.text[:begin] + b" \xe2\x80\xa6 " + message.text[begin + size :]).decode(
        "utf-8", "replace"
    )


def compact(
    certificate: bytes, message: Message, people: list[str], keys: list[Key]
) -> tuple[bytes, tuple[bytes, int], str, dict[str, Any]]:
    version, salt, sealed, key, size, index, of, path, signature = cbor(certificate)
    need(type(version) is int and version == 1, 2, "version is not 1")
    strings = ((salt, 16), (sealed, 32), (signature, 68), (path, None), (key or b"k" * 16, 16))
    for item, length in strings:
        good = isinstance(item, bytes) and length in (None, len(item))
        need(good, 1, "a member is not of its kind")
    need(key is None or (isinstance(key, bytes) and any(key)), 1, "the DKIM key is no key")
    for number in (size, index, of):
        need(type(number) is int and number <= 2**40, 1, "a member is not of its kind")
    need(size < 2**32 and len(path) % 32 == 0 and len(path) <= 1280, 1, "a length is wrong")
    nodes = [path[at : at + 32] for at in range(0, len(path), 32)]
    readings: list[tuple[int | None, bytes, bytes, set[str]]] = []
    spare = len(message.text) - size
    if spare == 0:
        digests = text_digest(message.text), links_digest(message.origins)
        readings.append((None, *digests, set()))
    elif size >= 32 and spare > 0:
        for begin in (0, spare) if spare <= 8192 else (0,):
            digest = text_digest(message.text[begin : begin + size])
            readings += [
                (begin, digest, links, added)
                for _, links, added in windows(message, begin, size)[:16]
            ]
    tree_root(bytes(32), index, of, nodes)
    for begin, text, links, added in readings:
        leaf = leaf_hash(salt, links, text, size, key or bytes(16), sealed, message.domain)
        root = tree_root(leaf, index, of, nodes)
        for one in keys:
            if one.signed(note_body(f"{one.name}/{root.hex()[:16]}", of, root), signature):
                exact = begin is None and any(
                    seal(message.exact, commitment(salt, person), named, message.id) == sealed
                    for person in people or [""]
                    for named in {*message.selectors, ""}
                )
                level = "exact" if exact else "same text" if begin is None else None
                facts: dict[str, Any] = {
                    "level": level or "same text with additions",
                    "signer": one.name,
                    "domain": message.domain,
                    "sender": "same",
                    "addedLinks": sorted(added),
                    "addedText": "" if begin is None else added_text(message, begin, size),
                    "differs": [] if exact else ["headers or body, or the recipient"],
                }
                if size == 0 and not exact:
                    raise Refused(
                        4, "an empty text says nothing by itself", **facts | {"level": "different"}
                    )
                return leaf, (root, of), one.name, facts
    if not readings:
        raise Refused(4, "the text is not the certified one", differs=["text"])
    raise Refused(7, "no trusted key has signed a tree with this message")


def revokes(data: bytes, leaf: bytes, name: str, keys: list[Key]) -> bool:
    """Step 8: whether this is a proven revocation of the leaf, by a key of the same name."""
    try:
        document = canonical_json(data)
        need_names(document, "checkpoint entry proof type version")
        check_version(document, "maily-revocation")
        document = members(document, checkpoint=str, entry=dict, proof=dict, type=str, version=int)
        entry = members(document["entry"], leaf=32, reason=int, time=int)
        index, size, path = read_proof(document["proof"])
        tail = entry["time"].to_bytes(8, "big") + bytes([min(entry["reason"], 255)])
        hashed = sha(b"\0maily-revoke-v1\n", entry["leaf"], tail)
        signers = check_note(
            document["checkpoint"], tree_root(hashed, index, size, path), size, keys
        )
    except Refused:
        return False
    return entry["leaf"] == leaf and entry["reason"] <= 4 and signers[0].name == name


# --- Step 9: the chain --------------------------------------------------------------------------

ROUNDS = []
_state = 1
for _ in range(24):  # the round constants are made by a linear feedback shift register
    _constant = 0
    for _bit in range(7):
        if _state & 1:
            _constant |= 1 << ((1 << _bit) - 1)
        _state = (_state << 1) ^ (0x171 if _state >> 7 else 0)
    ROUNDS.append(_constant)


def keccak256(data: bytes) -> bytes:
    """Keccak with the padding that Ethereum uses (0x01, not SHA-3's 0x06)."""
    mask, rate = (1 << 64) - 1, 136
    padded = bytearray(data + b"\1" + bytes(-(len(data) + 1) % rate))
    padded[-1] |= 0x80
    lanes = [[0] * 5 for _ in range(5)]
    for block in range(0, len(padded), rate):
        for lane in range(rate // 8):
            at = block + 8 * lane
            lanes[lane % 5][lane // 5] ^= int.from_bytes(padded[at : at + 8], "little")
        for constant in ROUNDS:
            sums = [col[0] ^ col[1] ^ col[2] ^ col[3] ^ col[4] for col in lanes]
            for x in range(5):
                turned = sums[(x + 1) % 5]
                mix = sums[x - 1] ^ ((turned << 1 | turned >> 63) & mask)
                lanes[x] = [lane ^ mix for lane in lanes[x]]
            x, y, current = 1, 0, lanes[1][0]
            for turn in range(24):
                x, y = y, (2 * x + 3 * y) % 5
                shift = (turn + 1) * (turn + 2) // 2 % 64
                moved = (current << shift | current >> (64 - shift)) & mask
                current, lanes[x][y] = lanes[x][y], moved
            for y in range(5):
                row = [lanes[x][y] for x in range(5)]
                for x in range(5):
                    lanes[x][y] = row[x] ^ (~row[(x + 1) % 5] & mask & row[(x + 2) % 5])
            lanes[0][0] ^= constant
    return b"".join(lanes[i % 5][i // 5].to_bytes(8, "little") for i in range(4))


def rlp(data: bytes) -> Any:
    item, rest = rlp_item(data, 0)
    need(not rest, 9, "bytes follow an item of RLP")
    return item


def rlp_item(data: bytes, depth: int) -> tuple[Any, bytes]:
    need(data and depth <= 16, 9, "RLP is cut off or too deep")
    kind, data = data[0], data[1:]
    if kind < 0x80:
        return bytes([kind]), data
    base = 0x80 if kind < 0xC0 else 0xC0
    length = kind - base
    if length > 55:
        width = length - 55
        number = data[:width]
        length = int.from_bytes(number, "big")
        shortest = len(number) == width and number[0] and length > 55
        need(shortest, 9, "a length in RLP is not canonical")
        data = data[width:]
    need(length <= len(data), 9, "RLP is cut off")
    body, rest = data[:length], data[length:]
    if base == 0x80:
        need(length != 1 or body[0] >= 0x80, 9, "a byte in RLP is not canonical")
        return body, rest
    items = []
    while body:
        item, body = rlp_item(body, depth + 1)
        items.append(item)
    return items, rest


def trie(root: bytes, index: int, proof: list[bytes]) -> bytes:
    """The value at RLP(index), or Refused."""
    number = index.to_bytes((index.bit_length() + 7) // 8, "big")
    short = len(number) == 1 and number[0] < 0x80
    key = (number if short else bytes([0x80 + len(number)]) + number).hex()
    node: Any = root
    nodes = iter(proof)
    while True:
        if isinstance(node, bytes):
            encoded = next(nodes, b"")
            need(len(node) == 32 and keccak256(encoded) == node, 9, "a node is not the right one")
            node = rlp(encoded)
        need(isinstance(node, list) and len(node) in (2, 17), 9, "a node of the trie is malformed")
        if len(node) == 17:
            node, key, done = (
                (node[int(key[0], 16)], key[1:], False) if key else (node[16], "", True)
            )
        else:
            need(isinstance(node[0], bytes) and node[0], 9, "a path of the trie is malformed")
            path = node[0].hex()
            flag = int(path[0], 16)
            need(flag < 4 and (flag & 1 or path[1] == "0"), 9, "a path's flag is unknown")
            tail, done = path[1:] if flag & 1 else path[2:], bool(flag & 2)
            fits = key == tail if done else key.startswith(tail)
            need(fits, 9, "the proof leads elsewhere")
            node, key = node[1], key[len(tail) :]
        if done:
            used = next(nodes, None) is None
            need(used and isinstance(node, bytes) and node, 9, "the proof shows nothing")
            return bytes(node)


def chain_root(anchor: dict[str, Any], header: list[Any]) -> bytes:
    """The root that the anchor's log or input holds."""
    if anchor["method"] == "event":
        receipt = trie(header[5], anchor["index"], anchor["nodes"])
        fields = rlp(receipt[1:] if receipt[0] < 0x80 else receipt)
        need(isinstance(fields, list) and len(fields) >= 4, 9, "the receipt is malformed")
        need(fields[0] == b"\1", 9, "the transaction failed")
        logs = fields[3]
        need(isinstance(logs, list) and anchor["logIndex"] < len(logs), 9, "there is no such log")
        log: Any = logs[anchor["logIndex"]]
        need(isinstance(log, list) and len(log) >= 3, 9, "the log is malformed")
        topics = log[1]
        event = keccak256(b"Anchored(bytes32)")
        announced = isinstance(topics, list) and len(topics) == 2 and topics[0] == event
        need(log[0] == bytes.fromhex(anchor["contract"]) and announced, 9, "the log is another's")
        found = topics[1]
    else:
        transaction = trie(header[4], anchor["index"], anchor["nodes"])
        kind = transaction[0] if transaction[0] < 0x80 else 0
        place = {1: 6, 2: 7}.get(kind, 5)
        readable = kind in (1, 2) or transaction[0] >= 0xC0
        need(readable, 9, f"transactions of type {kind} are not read")
        fields = rlp(transaction[1:] if kind else transaction)
        need(isinstance(fields, list) and len(fields) > place, 9, "the transaction is malformed")
        found = fields[place]
    need(isinstance(found, bytes) and len(found) == 32, 9, "the chain has no root there")
    return bytes(found)


def anchors(
    data: bytes,
    point: tuple[bytes, int],
    keys: list[Key],
    blocks: set[tuple[int, str]],
    contracts: set[tuple[int, str]],
) -> list[dict[str, Any]]:
    """Step 9. The header policy is pinned blocks: the reader says which hashes it knows."""
    root, size = point
    document = canonical_json(data)
    need_names(document, "anchors checkpoint type version")
    check_version(document, "maily-receipt")
    document = members(document, anchors=list, checkpoint=str, type=str, version=int)
    try:
        check_note(document["checkpoint"], root, size, keys)
    except Refused as refusal:
        raise Refused(9, f"the receipt's checkpoint: {refusal}") from None
    need(len(document["anchors"]) <= 16, 1, "too many anchors")
    out = []
    for value in document["anchors"]:
        null = type(None)
        anchor = members(
            value,
            chainId=int,
            contract=(str, null),
            header=0,
            index=int,
            logIndex=(int, null),
            method=str,
            proof=list,
        )
        event = anchor["method"] == "event"
        need(event or anchor["method"] == "calldata", 1, "the method is unknown")
        of_event = [anchor[name] is not None for name in ("contract", "logIndex")]
        need(of_event == [event, event] and len(anchor["proof"]) <= 64, 1, "a member is misplaced")
        if event:
            members({"contract": anchor["contract"]}, contract=20)
            index = anchor["logIndex"]
            need(type(index) is int and 0 <= index <= 2**16, 1, "logIndex is no number")
        anchor["nodes"] = [members({"node": node}, node=0)["node"] for node in anchor["proof"]]
        if event and contracts and (anchor["chainId"], anchor["contract"]) not in contracts:
            continue
        header = rlp(anchor["header"])
        need(isinstance(header, list) and len(header) >= 15, 9, "the header is malformed")
        sized = all(isinstance(header[at], bytes) and len(header[at]) == 32 for at in (4, 5))
        counted = all(isinstance(header[at], bytes) and len(header[at]) <= 8 for at in (8, 11))
        need(sized and counted, 9, "the header is malformed")
        need(chain_root(anchor, header) == root, 9, "the chain has another root")
        block = keccak256(anchor["header"]).hex()
        if (anchor["chainId"], block) in blocks:
            number, time_s = (int.from_bytes(header[at], "big") for at in (8, 11))
            seen = {"chainId": anchor["chainId"], "block": number, "hash": block, "time": time_s}
            out.append(seen)
    return out


# --- The command line ---------------------------------------------------------------------------


def pair(text: str) -> tuple[int, str]:
    chain, _, value = text.partition(":")
    return int(chain), value.lower().removeprefix("0x")


def named(text: str) -> bytes:
    """The certificate in a file, in the digits of a QR code, or in a link that holds them."""
    digits = text.partition("#")[2] if "#" in text else text
    if re.fullmatch("[0-9]{40,4200}", digits):
        number = int(digits)
        data = number.to_bytes((number.bit_length() + 7) // 8, "big")
        if data[0] != 1 or digits[0] == "0":
            raise ValueError("digits are missing")
        return data[1:]
    if text.startswith(("http://", "https://")):
        raise ValueError("this link does not hold the certificate itself: nothing follows its #")
    return from_file(Path(text))


def from_file(path: Path) -> bytes:
    """JSON without the line end that editors put behind it."""
    data = path.read_bytes()
    return data.rstrip(b"\r\n") if data[:1] == b"{" else data


def inside(raw: bytes) -> bytes:
    """The certificate that the message itself holds, in a part or a header field."""
    data = raw.replace(b"\r\n", b"\n")
    fields, body = entity(data.partition(b"\n")[2] if data.startswith(b"From ") else data)
    kind, boundary, _ = mime_type(fields)
    texts = [values(fields, "maily-certificate")[:1]]
    if kind.startswith("multipart/"):
        parts = [entity(body[start:end]) for _, start, end, _ in multipart(body, boundary)]
        texts.insert(0, [inner for head, inner in parts if mime_type(head)[0] in OWN_TYPES][:1])
    for text in texts:
        if text:
            return base64.b64decode(re.sub(rb"[ \t\n]", b"", text[0]), validate=True)
    raise ValueError("no certificate is in the message: name one before it")


def summary(result: dict[str, Any]) -> str:
    if result["holds"]:
        seen = result.get("anchors", [])
        blocks = "".join(f", block {one['block']} of chain {one['chainId']}" for one in seen)
        return f"HOLDS: {result['level']}, {result['state']}{blocks}"
    return f"DOES NOT HOLD: step {result['failedStep']}: {result['reason']}"


def main(arguments: list[str] | None = None) -> int:
    head, _, tail = (__doc__ or "").partition("\n\n::\n\n")
    parser = argparse.ArgumentParser(
        usage="python maily_verify.py [CERTIFICATE] MESSAGE.eml --key NAME+ID+KEY [options]",
        description=head,
        epilog=tail.partition("\n\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "papers",
        nargs="+",
        metavar="PAPER",
        help="the certificate, unless it is in the message, and the message",
    )
    parser.add_argument("--key", action="append", default=[], help="a trusted key: NAME+ID+BASE64")
    parser.add_argument("--recipient", help="whom the message came to; else who stands in To")
    parser.add_argument("--revocation", action="append", default=[], type=Path, metavar="FILE")
    parser.add_argument("--receipt", type=Path, metavar="FILE", help="the batch receipt")
    parser.add_argument(
        "--block",
        action="append",
        default=[],
        type=pair,
        metavar="CHAIN:HASH",
        help="a block that you know is on its chain",
    )
    parser.add_argument(
        "--contract", action="append", default=[], type=pair, metavar="CHAIN:ADDRESS"
    )
    parser.add_argument("--networks", type=int, default=1, help="chains that must have the root")
    options = parser.parse_args(arguments)
    if len(options.papers) > 2:
        parser.error("one certificate and one message")
    known = Path(__file__).with_name("trusted-keys.txt")
    try:
        lines = known.read_text().splitlines() if known.exists() else []
        lines = [line for line in lines if line.strip() and not line.startswith("#")]
        keys = [Key(text) for text in (*options.key, *lines)]
        if not keys:
            raise ValueError("nobody is trusted: give the sender's --key NAME+ID+BASE64")
        message = Path(options.papers[-1]).read_bytes()
        result = verify(
            named(options.papers[0]) if len(options.papers) == 2 else inside(message),
            message,
            keys,
            options.recipient,
            [from_file(path) for path in options.revocation],
            from_file(options.receipt) if options.receipt else None,
            set(options.block),
            set(options.contract),
            options.networks,
        )
    except (OSError, ValueError) as error:
        print(f"maily_verify: {error}", file=sys.stderr)
        return 2
    print(json.dumps(result, indent=2))
    print(json.dumps(summary(result))[1:-1], file=sys.stderr)
    return 0 if result["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
