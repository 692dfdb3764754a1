"""Email → MJML → responsive HTML, and plain text. Pure and quick (well under 5 ms).

Text is data everywhere: it is escaped for the place where it stands, and only merge tags of the
email come through as they are, their fallbacks escaped too (the mailing system puts a fallback
into the HTML as it finds it). Addresses of buttons must be http, https or mailto.
"""

from __future__ import annotations

import html
import re
from urllib.parse import quote, urlsplit

import mjml

from mesh.agents.guard import patterns as p
from mesh.agents.guard.clean import tag_text, without_tags
from mesh.contracts.email import Block, Email, MergeTag
from mesh.core.errors import Internal, InvalidInput

_SCHEMES = frozenset({"http", "https", "mailto"})
_RTL = frozenset({"ar", "fa", "he", "ur"})


def safe_url(url: str) -> str:
    """The address in ASCII, percent-encoded where a quote or bracket could end its attribute.

    Raises InvalidInput unless it is http, https or mailto.
    """
    stripped = url.strip()
    if p.INVISIBLE.search(stripped) or urlsplit(stripped).scheme.lower() not in _SCHEMES:
        raise InvalidInput("a button's address must be http, https or mailto", {"field": "url"})
    return quote(stripped, safe="%/:?#[]@!$&()*+,;=-._~")


def escape(text: str, tags: dict[str, MergeTag]) -> str:
    """Escaped for HTML text and for quoted attributes; the email's merge tags stay whole."""
    out: list[str] = []
    last = 0
    for match in p.MERGE_TAG.finditer(text):
        tag = tags.get(match[1])
        if tag is None:
            continue
        out.append(_plain(text[last : match.start()]))
        out.append(html.escape(tag_text(tag), quote=True))
        last = match.end()
    out.append(_plain(text[last:]))
    return "".join(out)


def _plain(text: str) -> str:
    """Escape, and take template syntax apart: what is not a tag of ours must not act as one."""
    text = p.INVISIBLE.sub("", text)
    text = html.escape(text, quote=True)
    return text.replace("{", "&#123;").replace("}", "&#125;")


def _ascii(text: str) -> str:
    """Character references for all but plain ASCII: mrml copies the title into an attribute and
    writes what it takes for unprintable, and backslashes, in Rust's notation."""
    return "".join(c if c.isascii() and c != "\\" else f"&#{ord(c)};" for c in text)


def to_mjml(email: Email) -> str:
    """The MJML source. Raises InvalidInput for an address that is not allowed."""
    tags = {tag.name: tag for tag in email.merge_tags}
    parts = [_block(block, tags) for block in email.blocks]
    language = email.language if re.fullmatch(r"[a-z]{2}(-[A-Z]{2})?", email.language) else "en"
    direction = "rtl" if language[:2] in _RTL else "ltr"
    align = "right" if direction == "rtl" else "left"
    return (
        f'<mjml lang="{language}" dir="{direction}"><mj-head>'
        f"<mj-title>{_ascii(_plain(without_tags(email.subject)))}</mj-title>"
        f"<mj-preview>{escape(email.preheader, tags)}</mj-preview>"
        '<mj-attributes><mj-all font-family="Helvetica, Arial, sans-serif" />'
        f'<mj-text font-size="16px" line-height="24px" color="#1f2933" align="{align}" />'
        '<mj-button background-color="#1f4fd8" color="#ffffff" border-radius="6px" '
        'font-size="16px" inner-padding="14px 28px" /></mj-attributes></mj-head>'
        '<mj-body background-color="#f3f4f6" width="600px">'
        '<mj-section background-color="#ffffff" padding="24px 8px"><mj-column>'
        + "".join(parts)
        + "</mj-column></mj-section></mj-body></mjml>"
    )


def _block(block: Block, tags: dict[str, MergeTag]) -> str:
    text = escape(block.text, tags)
    if block.kind == "heading":
        return (
            '<mj-text font-size="26px" line-height="32px" font-weight="700">'
            f'<h1 style="margin:0;font-size:26px;line-height:32px;">{text}</h1></mj-text>'
        )
    if block.kind == "bullets":
        items = "".join(
            f'<li style="margin:0 0 8px 0;">{escape(i, tags)}</li>' for i in block.items
        )
        return f'<mj-text><ul style="margin:0;padding:0 0 0 24px;">{items}</ul></mj-text>'
    if block.kind == "button":
        address = html.escape(safe_url(block.url or ""), quote=True)
        return f'<mj-button href="{address}">{text}</mj-button>'
    return f"<mj-text>{text.replace(chr(10), '<br />')}</mj-text>"


def render_html(email: Email) -> str:
    """Responsive HTML. Raises InvalidInput for an address that is not allowed."""
    source = to_mjml(email)
    try:
        return str(mjml.mjml2html(source))
    except Exception as error:  # the Rust binding raises bare exceptions of several types
        raise Internal("the email could not be rendered", {"reason": str(error)[:200]}) from error


def _bare(text: str, tags: dict[str, MergeTag]) -> str:
    """For plain text: the email's merge tags whole, other template syntax taken apart."""
    out: list[str] = []
    last = 0
    for match in p.MERGE_TAG.finditer(text):
        if match[1] in tags:
            out += [_apart(text[last : match.start()]), tag_text(tags[match[1]])]
            last = match.end()
    return "".join([*out, _apart(text[last:])])


def _apart(text: str) -> str:
    text = p.INVISIBLE.sub("", text)
    while p.TEMPLATE_SYNTAX.search(text):  # "%%%" holds the pair twice
        text = p.TEMPLATE_SYNTAX.sub(lambda m: " ".join(m[0]), text)
    return text


def render_text(email: Email) -> str:
    """Plain text: blocks parted by blank lines, buttons as label and address."""
    tags = {tag.name: tag for tag in email.merge_tags}
    parts: list[str] = []
    for block in email.blocks:
        text = _bare(block.text, tags)
        if block.kind == "heading":
            parts.append(f"{text}\n{'=' * min(60, len(without_tags(text)))}")
        elif block.kind == "bullets":
            parts.append("\n".join(f"- {_bare(item, tags)}" for item in block.items))
        elif block.kind == "button":
            parts.append(f"{text}: {safe_url(block.url or '')}")
        else:
            parts.append(text)
    return "\n\n".join(parts) + "\n"
