"""Patterns that guardrails look for, and the words that make a claim.

Every repetition that could be tried from many places is bounded: a brief is a stranger's text,
and a pattern that backtracks would stop the whole worker.
"""

from __future__ import annotations

import re

INVISIBLE = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180e"
    r"\u200b-\u200f\u2028-\u202e\u2060-\u2069\u3164\ufeff\uffa0\ufff9-\ufffb\ud800-\udfff"
    r"\U000e0000-\U000e0fff]"
)
"""Control characters, zero-width ones and fillers, direction overrides, lone surrogates, and the
tag characters and variation selectors that carry text which only a machine reads."""

HTML_TAG = re.compile(r"<[a-zA-Z/!?][^<>]*>?")
CODE_FENCE = re.compile(r"```[a-z]*\n?|`")
MARKDOWN_LINK = re.compile(r"!?\[([^\[\]]{0,200})\]\([^()\s]*\)")
MARKDOWN_MARK = re.compile(r"(?m)^\s{0,3}(?:#{1,6}\s+|[-*•]\s+|\d{1,2}\)\s+|>\s+)|\*\*|__|~~")
LABEL = re.compile(
    r"^\s*(?:subject(?: line)?|preheader|preview(?: text)?|paragraph|body|text|email|title|"
    r"heading|closing|opening|angle|objective|answer|output)\s*\d?\s*:\s*",
    re.IGNORECASE,
)

MERGE_TAG = re.compile(r"\{\{\s{0,4}([^{}|]{0,80}?)\s{0,4}(?:\|([^{}]{0,220}))?\}\}")
PLACEHOLDER = re.compile(
    r"\[([^\[\]]{1,60})\]|\{([^{}]{1,60})\}|<([A-Za-z][A-Za-z' _]{1,40})>|(?<!\w)_{3,}(?!\w)"
)
TEMPLATE_SYNTAX = re.compile(r"\{\{|\}\}|\{%|%\}|\{#|#\}|\$\{|\*\||\|\*|%%|<%|%>|\[\[|\]\]")
"""Of the usual mailing and template languages: must never reach the sender from free text."""

URL = re.compile(
    r"(?:\b[a-z][a-z0-9+.-]{1,20}:/{0,2}[^\s<>\"']+|\bwww\.[^\s<>\"']+)", re.IGNORECASE
)
EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){0,8}")
DOMAIN = re.compile(
    r"(?<![\w@.])(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8}[^\W\d_]{2,24}(?![\w])(?:/[^\s<>\"']*)?"
)
PHONE = re.compile(r"(?<!\w)\+?\(?\d[\d ()/.-]{6,30}\d(?!\w)")
DOTS = str.maketrans({"\u3002": ".", "\uff0e": ".", "\uff61": ".", "\u2024": "."})
"""Characters that mail programs read as the dot of a domain (RFC 3490 §3.1)."""

NUMBER = re.compile(
    r"(?P<before>[$€£¥]\s?)?(?P<n>\d+(?:[.,:]\d+)*)"
    r"(?P<after>\s?(?:%|percent\b|per cent\b|prozent\b|pour cent\b|por ciento\b|[$€£¥]"
    r"|(?:usd|eur|gbp|dollars?|euros?|pounds?)\b))?",
    re.IGNORECASE,
)
NUMBER_WORDS = re.compile(
    r"\b(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|fifteen|twenty|thirty|"
    r"forty|fifty|sixty|seventy|eighty|ninety|hundred|thousand|million)(?:[- ]\w+)?[- ]"
    r"(?:percent|per cent|dollars?|euros?|pounds?|days?|hours?|weeks?|months?|years?|times)\b",
    re.IGNORECASE,
)
SENTENCE_END = re.compile(r"(?<=[.!?…。！？])[\"'”’)]*\s+(?=[^\s])")
WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")

CLAIMS: tuple[tuple[str, ...], ...] = (
    ("free", "complimentary", "gratis", "kostenlos", "gratuit", "no cost"),
    ("guarante", "garant", "warrant"),
    ("refund", "money-back", "money back", "rückerstatt", "rembours", "reembols", "rimbors"),
    (
        *(
            "discount",
            "% off",
            "percent off",
            "sale",
            "sales",
            "markdown",
            "half price",
            "half-price",
        ),
        *(
            "half off",
            "clearance",
            "bargain",
            "save",
            "saving",
            "savings",
            "deal",
            "deals",
            "offer",
        ),
        *("rabatt", "nachlass", "ermäßig", "remise", "réduction", "solde", "descuento", "rebaja"),
        *("sconto", "saldi", "desconto", "korting", "discounted", "promotion", "special price"),
    ),
    ("coupon", "voucher", "promo code", "gutschein", "code"),
    ("gift", "bonus", "giveaway", "geschenk", "cadeau", "regalo"),
    ("prize", "winner", "win", "lottery", "sweepstake", "gewinn", "raffle", "contest"),
    ("award", "certified", "accredited", "patented", "clinically", "scientifically", "proven"),
    ("best-selling", "bestselling", "bestseller", "number one", "no. 1", "#1", "world's best"),
    ("luxury", "premium", "high-end"),
    ("exclusive",),
    ("organic", "sustainable", "eco-friendly", "climate"),
    ("limited time", "limited-time", "last chance", "today only", "only today", "hurry", "act now"),
    (
        "while supplies",
        "while stocks",
        "limited edition",
        "limited stock",
        "sold out",
        "selling out",
    ),
    ("shipping", "delivery", "versand", "livraison", "envío", "spedizione"),
    ("member", "members", "membership", "loyalty", "subscriber", "subscribers"),
    ("monday",),
    ("tuesday",),
    ("wednesday",),
    ("thursday",),
    ("friday", "fridays"),
    ("saturday", "weekend"),
    ("sunday", "weekend"),
    ("january",),
    ("february",),
    ("april",),
    ("june",),
    ("july",),
    ("august",),
    ("september",),
    ("october",),
    ("november",),
    ("december",),
    ("today",),
    ("tonight",),
    ("tomorrow",),
    ("yesterday",),
    ("next week", "this week", "next month", "this month", "next year"),
    ("christmas",),
    ("easter",),
    ("halloween",),
    ("black friday",),
    ("cancer", "disease", "cure", "cures", "heal", "heals"),
)
"""Groups of words that promise something. A text may use a group only if the brief does."""

BOILERPLATE = re.compile(
    r"(?:\bdear\b|\bhiring manager\b|\bsincerely\b|\bbest regards\b|\bkind regards\b|\bwarm regards"
    r"\b|\bi hope this (?:message|email|letter)\b|\bmy name is\b|\bas an ai\b|\blanguage model\b"
    r"|\bin conclusion\b|\bsubject line\b|\bthis email\b|\bthe email\b|\bemail marketing\b"
    r"|\bmarketing email\b|\bplaceholder\b|\bthe brief\b|\bthe facts\b|\bmarketing campaign\b"
    r"|\btarget audience\b|\bkey points?\b|\bcall to action\b|\bignore (?:all|the|any)\b"
    r"|\bprevious instructions?\b|\bsystem prompt\b|\bjson\b|\badd a link\b|\bhttps?\b)",
    re.IGNORECASE,
)
"""Signs that the text speaks of its own making, or is a letter's dressing."""
