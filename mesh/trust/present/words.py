"""What levels, states and steps are called in front of people: the same everywhere, no jargon."""

from __future__ import annotations

from mesh.trust.levels import Level

LEVELS: dict[Level, str] = {
    Level.EXACT: "The whole message is the certified one: text, links, subject, attachments.",
    Level.TEXT: (
        "Text and links are the certified ones. Subject, attachments, pictures and styling are "
        "not covered."
    ),
    Level.EXTENDED: (
        "The certified text is in it with its links, and more was added. What was added is not "
        "certified, nor are subject, attachments, pictures and styling."
    ),
    Level.LINKS: "Only the links lead where the certified ones do. The text is another.",
    Level.DIFFERENT: "This is not the certified message.",
}

STATES: dict[str, str] = {
    "open": "Taken in; its batch is still being filled. Nothing is proven yet.",
    "included": "Signed by the issuer. No public network has it yet, as far as was looked.",
    "submitted": "Signed by the issuer, and on its way to a public network.",
    "confirmed": "A public network has it; its block could still be dropped.",
    "final": "A public network has it for good: it existed when that block was made.",
    "orphaned": "The block that had it was dropped; it is being sent again.",
    "revoked": "The issuer has taken it back.",
}

STEPS: dict[int, str] = {
    1: "the certificate can be read",
    2: "its version is known",
    3: "the message is brought into canonical form",
    4: "the message is the certified one",
    5: "the path has the length that its place demands",
    6: "the path leads to the checkpoint's root",
    7: "a trusted key has signed the checkpoint",
    8: "it has not been revoked",
    9: "a public network has the root",
}
"""By their numbers in the specification, §7."""
