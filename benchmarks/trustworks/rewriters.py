"""What mail systems do to a message on its way, built on Python's ``email`` and not on our parser.

Each takes and gives raw bytes. Where ``email`` can't read a message, the message passes unchanged,
as it would through a gateway that does not understand it.
"""

from __future__ import annotations

import base64
import email
import email.message
import html
import quopri
import re
from collections.abc import Callable
from urllib.parse import quote

Rewriter = Callable[[bytes], bytes]
_HREF = re.compile(r"""(<a\b[^>]*?\bhref\s*=\s*)(["'])(https?://[^"'<>\s]*)\2""", re.IGNORECASE)
_URL = re.compile(r"https?://[^\s<>\"')\]]*[^\s<>\"')\].,;:!?}*]", re.IGNORECASE)
FOOTER = "This message is confidential. Ask https://gateway.example.net/policy before you print it."
BANNER = "[EXTERNAL] This message came from outside of the organisation."


def text_parts(
    raw: bytes,
    change: Callable[[str, bool], str],
    charset: str | None = None,
    encoding: str | None = None,
    only: slice = slice(None),
) -> bytes:
    """Displayed text parts, decoded, changed, and written anew. ``only``: which of each kind."""
    try:
        message = email.message_from_bytes(raw)
        leaves = [part for part in message.walk() if not isinstance(part.get_payload(), list)]
        done = sum(
            _change(part, change, charset, encoding)
            for kind in ("text/plain", "text/html")
            for part in [
                part
                for part in leaves
                if part.get_content_type() == kind
                and part.get_content_disposition() != "attachment"
            ][only]
        )
        return message.as_bytes() if done else raw
    except (LookupError, ValueError, AttributeError, TypeError, KeyError):
        return raw


def _change(
    part: email.message.Message,
    change: Callable[[str, bool], str],
    charset: str | None,
    encoding: str | None,
) -> bool:
    data = part.get_payload(decode=True)
    assert isinstance(data, bytes)
    declared = part.get_content_charset() or "utf-8"
    text, used = _decode(data, declared)
    text = change(text, part.get_content_type() == "text/html")
    target = charset or used
    try:
        out = text.encode(target)
    except UnicodeError:
        target, out = "utf-8", text.encode("utf-8")
    how = encoding or ("8bit" if max(map(len, out.split(b"\n"))) < 990 else "base64")
    body = {
        "base64": base64.encodebytes,
        "quoted-printable": lambda data: quopri.encodestring(data),
    }.get(how, bytes)(out)
    del part["Content-Transfer-Encoding"]
    part["Content-Transfer-Encoding"] = how
    kind = part.get_content_type()
    del part["Content-Type"]
    part["Content-Type"] = f'{kind}; charset="{target}"'
    part.set_payload(body.decode("ascii", "surrogateescape"))
    return True


def _decode(data: bytes, declared: str) -> tuple[str, str]:
    """As the labels are meant on the web: what calls itself ASCII or Latin-1 is windows-1252."""
    declared = declared.strip().lower()
    if declared in ("us-ascii", "ascii", "iso-8859-1", "latin1", "windows-1252"):
        declared = "cp1252"
    for codec in (declared, "utf-8"):
        try:
            return data.decode(codec), codec if codec != "cp1252" else "windows-1252"
        except (UnicodeError, LookupError):
            continue
    return data.decode("cp1252", "replace"), "windows-1252"


def outlook(raw: bytes) -> bytes:
    """Exchange and Outlook: their own head, styles, spans and empty paragraphs."""

    def change(text: str, is_html: bool) -> str:
        if not is_html:
            return text
        text = re.sub(r"(?i)<p\b([^>]*)>", r'<p class="MsoNormal"\1><span lang=EN-US>', text)
        text = re.sub(r"(?i)</p>", "<o:p></o:p></span></p>", text)
        start = (
            '<html xmlns:o="urn:schemas-microsoft-com:office:office"><head>'
            "<!--[if gte mso 9]><xml><o:OfficeDocumentSettings/></xml><![endif]-->"
            '<style>p.MsoNormal {margin:0cm; font-family:"Calibri"}</style></head>'
            '<body lang="EN-US"><div class="WordSection1">'
        )
        return f"{start}\n{text}\n</div></body></html>"

    return text_parts(raw, change)


def _wrapping(wrap: Callable[[str], str]) -> Rewriter:
    def change(text: str, is_html: bool) -> str:
        if not is_html:
            return _URL.sub(lambda match: wrap(match[0]), text)
        return _HREF.sub(
            lambda match: f'{match[1]}"{html.escape(wrap(html.unescape(match[3])))}"', text
        )

    return lambda raw: text_parts(raw, change)


safe_links = _wrapping(
    lambda url: (
        "https://eur03.safelinks.protection.outlook.com/?url="
        f"{quote(url, safe='')}&data=05%7C02%7Canna&sdata=x%3D&reserved=0"
    )
)


def _defense(url: str) -> str:
    kept = re.sub(r"[^\x21-\x7e]|\*", "*", url)
    lost = "".join(char for char in url if not "!" <= char <= "~" or char == "*")
    if any(ord(char) > 255 for char in lost):
        return url
    spare = base64.urlsafe_b64encode(lost.encode("latin-1")).decode().rstrip("=")
    return f"https://urldefense.com/v3/__{kept}__;{spare}!!tokEN!abc$"


url_defense = _wrapping(_defense)


def _shows(source: str) -> bool:
    """Whether words stand there: in a browser's tree text outside of the body is in it, too, so
    what a gateway adds at the body's ends comes before, or after, all of it."""
    source = re.sub(r"(?is)<!--.*?-->|<(style|script|title)\b.*?</\1", "", source)
    return bool(re.sub(r"(?s)<[^>]*>?", "", source).strip(" \t\r\n\xa0>"))


def footer(raw: bytes) -> bytes:
    """A disclaimer with a link below."""

    def change(text: str, is_html: bool) -> str:
        if not is_html:
            return f"{text}\n\n--\n{FOOTER}\n"
        link = '<a href="https://gateway.example.net/policy">policy</a>'
        added = f'<hr><p style="color:gray">{FOOTER} {link}</p>'
        at = text.lower().rfind("</body")
        at = len(text) if at < 0 or _shows(text[at:]) else at
        return text[:at] + added + text[at:]

    return text_parts(raw, change, only=slice(-1, None))


def banner(raw: bytes) -> bytes:
    """A warning above."""

    def change(text: str, is_html: bool) -> str:
        if not is_html:
            return f"{BANNER}\n\n{text}"
        match = re.search(r"(?i)<body\b[^>]*>", text)
        at = match.end() if match and not _shows(text[: match.end()]) else 0
        return f'{text[:at]}<table><tr><td bgcolor="#ffeb9c">{BANNER}</td></tr></table>{text[at:]}'

    return text_parts(raw, change, only=slice(1))


def charset(raw: bytes) -> bytes:
    return text_parts(raw, lambda text, _: text, charset="utf-8")


def transfer(raw: bytes) -> bytes:
    return text_parts(raw, lambda text, _: text, encoding="base64")


def quoted(raw: bytes) -> bytes:
    return text_parts(raw, lambda text, _: text, encoding="quoted-printable")


def whitespace(raw: bytes) -> bytes:
    """Trailing blanks, tabs for spaces, blank lines, and white space between tags."""

    def change(text: str, is_html: bool) -> str:
        text = re.sub(r"(?m)[ \t]*$", "  ", text).replace("  ", "\t ")
        return re.sub(r"(</(?:p|td|tr|div|li)>)", "\\1\n\n ", text, flags=re.I) if is_html else text

    return text_parts(raw, change)


def image_proxy(raw: bytes) -> bytes:
    """Gmail's: every picture comes from the proxy."""

    def change(text: str, is_html: bool) -> str:
        proxy = r'\1"https://ci3.googleusercontent.com/meips/ADKq_Na=s0-d-e1-ft#\2"'
        pattern = r"""(?i)(<img\b[^>]*?\bsrc\s*=\s*)["'](https?://[^"']*)["']"""
        return re.sub(pattern, proxy, text) if is_html else text

    return text_parts(raw, change)


def forward(raw: bytes) -> bytes:
    """Resent by a list: other sender and subject, new trace fields, old signature gone."""
    first, rest = (raw.partition(b"\n")[0::2]) if raw.startswith(b"From ") else (b"", raw)
    cut = min((at for at in (rest.find(b"\n\n"), rest.find(b"\n\r\n")) if at >= 0), default=0)
    fields = re.sub(rb"(?im)^Subject:", b"Subject: [list] Fwd:", rest[:cut], count=1)
    fields = re.sub(rb"(?im)^(From|DKIM-Signature):", rb"X-Original-\1:", fields)
    head = (
        b"Received: from list.example.net by mx.example.org; Fri, 20 Mar 2026 10:00:00 +0100\n"
        b"From: Anna via List <list@example.net>\nList-Id: <list.example.net>\n"
        b"ARC-Seal: i=1; a=rsa-sha256; cv=none; d=example.net; s=arc; b=AAAA\n"
    )
    return (first + b"\n" if first else b"") + head + fields + rest[cut:]


def line_ends(raw: bytes) -> bytes:
    """The other kind: LF where CRLF stood, CRLF where LF did."""
    return raw.replace(b"\r\n", b"\n") if b"\r\n" in raw else raw.replace(b"\n", b"\r\n")


REWRITERS: dict[str, Rewriter] = {
    "outlook": outlook,
    "safe links": safe_links,
    "url defense": url_defense,
    "footer": footer,
    "banner": banner,
    "charset": charset,
    "transfer encoding": transfer,
    "quoted-printable": quoted,
    "whitespace": whitespace,
    "image proxy": image_proxy,
    "forward": forward,
    "line ends": line_ends,
}
