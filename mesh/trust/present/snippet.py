"""What a campaign puts into its mails so that a reader can check them: HTML, and a line of text.

It is part of the message, so it is there before the message is certified, and the message's id is
in it: ids are given out ahead of the messages (docs/verify.md). The address in the links counts in
the links digest, the words in the text digest; the pictures are hosted, since mail clients drop
``data:`` ones, and are in neither.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

from mesh.trust.present import links
from mesh.trust.present.badge import HEIGHT, alt_text, badge_width

QR_CSS_PIXELS = 120


@dataclass(frozen=True, slots=True)
class Snippet:
    """For the two alternatives of a message."""

    html: str
    """ASCII, without line ends: no transfer encoding has a reason to change it."""
    text: str
    """One line, ASCII."""


def email_snippet(base: str, id: str) -> Snippet:
    """``base``: the public address of the gateway. Raises InvalidInput.

    One below the other, so that it fits a phone, and no style sheet: what mail clients show.
    Nothing in it is a verdict, and it says so.
    """
    host = links.host_of(base)
    page = escape(links.verify_url(base, id))
    said = escape(alt_text(host))
    qr = escape(links.qr_url(base, id))
    badge = escape(links.badge_url(base, id, scale=2))
    html = (
        f'<div><a href="{page}"><img src="{qr}" width="{QR_CSS_PIXELS}" '
        f'height="{QR_CSS_PIXELS}" border="0" alt="QR code with the same link"></a><br>'
        f'<a href="{page}"><img src="{badge}" width="{badge_width(host)}" height="{HEIGHT}" '
        f'border="0" style="max-width:100%" alt="{said}"></a><br>'
        f'<a href="{page}">{said}</a><br><small>Pictures prove nothing: the page does. '
        "See that its address is the one above.</small></div>"
    )
    return Snippet(html, f"{alt_text(host)}: {links.verify_url(base, id)}")
