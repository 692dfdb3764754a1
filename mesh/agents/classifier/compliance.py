"""Rules that a marketing email has to keep, looked for in its text. Hints, no legal advice.

Sources: CAN-SPAM Act (15 U.S.C. §7704) and the FTC's compliance guide; GDPR (EU 2016/679);
ePrivacy directive 2002/58/EC art. 13; UCP directive 2005/29/EC annex I. What the text can't show
(consent, a working opt-out, the header) is named where it matters and never counted as broken.
"""

from __future__ import annotations

import re

from mesh.agents.guard import patterns as p
from mesh.agents.guard.clean import without_tags
from mesh.agents.guard.injection import signs
from mesh.agents.guard.personal import personal_data
from mesh.contracts.agents import ComplianceFinding, ComplianceRisk

_UNSUBSCRIBE = re.compile(
    r"unsubscrib\w*|opt[ -]?out|manage (?:your )?(?:preferences|subscription)|stop receiving|"
    r"abmeld\w*|abbestell\w*|austragen|désabonn\w*|désinscri\w*|darse? de baja|cancelar (?:la )?"
    r"suscripción|disiscri\w*|cancellati\b|cancelar (?:a )?inscrição|uitschrijven|afmelden",
    re.IGNORECASE,
)
_ADDRESS = re.compile(
    r"\b\d{1,5}\w?\s+(?:[A-Z][\w.'-]+\s+){1,4}(?:street|st\.?|road|rd\.?|avenue|ave\.?|lane|"
    r"ln\.?|"
    r"drive|boulevard|blvd|square|way|place|court)\b"
    r"|\b[A-ZÄÖÜ][\wäöüß.-]*(?:straße|strasse|str\.|gasse|allee|weg|platz|ring)\s+\d{1,4}"
    r"|\b\d{1,4}(?: bis)?,?\s+(?:rue|avenue|boulevard|place|chemin|quai)\s+\w+"
    r"|\b(?:calle|avenida|plaza|paseo|via|viale|piazza|rua|praça)\s+[\w' ]{2,40},?\s*\d{1,4}"
    r"|\bP\.?\s?O\.?\s?Box\s+\d+|\bPostfach\s+\d+|\b\d{4,5}\s+[A-ZÄÖÜ][a-zäöüß]+|"
    r"\b[A-Z]{2}\s+\d{5}\b",
    re.IGNORECASE,
)
_FALSE_REPLY = re.compile(r"^\s*(?:re|fwd?|aw|wg|tr|rv)\s*:", re.IGNORECASE)
_FALSE_OFFICIAL = re.compile(
    r"\b(?:invoice|receipt|payment|account|security|delivery|parcel|order|tax|"
    r"legal)\b[^.]{0,30}\b(?:suspended|"
    r"overdue|failed|locked|limited|on hold|final notice|action required|verify)\b|"
    r"\byour (?:account|"
    r"card) (?:has been|was|will be)\b",
    re.IGNORECASE,
)
_PRIZE = re.compile(
    r"\byou(?:'ve| have)? (?:won|been (?:selected|chosen))\b|\bclaim your (?:prize|reward|"
    r"gift)\b|"
    r"\bwinner\b|\bdu hast gewonnen\b|\bvous avez gagné\b|\bhas ganado\b",
    re.IGNORECASE,
)
_FREE = re.compile(
    r"\b(?:100 ?% free|free of charge|free gift|totally free|free money)\b", re.IGNORECASE
)
_HEALTH = re.compile(
    r"\b(?:cures?|heals?|treats?|prevents?)\b[^.]{0,40}\b(?:cancer|diabetes|disease|depression|"
    r"covid|"
    r"arthritis)\b|\bmiracle (?:pill|cure|diet)\b|\blose \d+ (?:pounds|kilos|kg)\b",
    re.IGNORECASE,
)
_MONEY = re.compile(
    r"\bguaranteed (?:income|returns?|profit)\b|\brisk[- ]free\b|\bget rich\b|\bdouble your\b|"
    r"\bmake \$?\d[\d,.]* (?:a|per) (?:day|week|month)\b",
    re.IGNORECASE,
)
_SUPERLATIVE = re.compile(
    r"\b(?:number one|no\.? ?1|#1|world's best|the best in|cheapest|lowest price|guaranteed)\b",
    re.IGNORECASE,
)
_DEADLINE = re.compile(
    r"\b(?:only|last|final)\b[^.]{0,30}\b(?:hours?|minutes?|chance|left|days?)\b|\bact now\b|"
    r"\bhurry\b",
    re.IGNORECASE,
)
_SPECIAL = re.compile(
    r"\byour (?:illness|diagnosis|religion|sexual|pregnan\w+|disability|union|political|"
    r"ethnic)\w*\b",
    re.IGNORECASE,
)
_WEIGHT = {"info": 0.05, "warning": 0.15, "violation": 0.4}


def compliance(subject: str, text: str, sender: str = "") -> ComplianceRisk:
    """``text``: the readable whole of the email, with link labels and addresses."""
    subject, body = without_tags(subject), without_tags(text)
    whole = f"{subject}\n{body}"
    found: list[ComplianceFinding] = []

    def add(rule: str, severity: str, reason: str, source: str, evidence: str = "") -> None:
        found.append(
            ComplianceFinding.model_validate(
                {
                    "rule": rule,
                    "severity": severity,
                    "reason": reason,
                    "source": source,
                    "evidence": evidence[:200],
                }
            )
        )

    if not _UNSUBSCRIBE.search(whole):
        add(
            "no_unsubscribe",
            "warning",
            "no way to opt out is named; the mailing system must add one",
            "CAN-SPAM §7704(a)(5), ePrivacy art. 13(2)",
        )
    if not _ADDRESS.search(body):
        add(
            "no_postal_address",
            "warning",
            "no postal address of the sender is named; the mailing system must add one",
            "CAN-SPAM §7704(a)(5)(A)(iii)",
        )
    if match := _FALSE_REPLY.search(subject):
        add(
            "deceptive_subject",
            "violation",
            "the subject looks like an answer to a mail of the reader",
            "CAN-SPAM §7704(a)(2)",
            match.group().strip(),
        )
    if match := _FALSE_OFFICIAL.search(whole):
        add(
            "poses_as_service_message",
            "violation",
            "it reads like a message about the reader's account",
            "CAN-SPAM §7704(a)(2), UCPD art. 6",
            match.group(),
        )
    if match := _PRIZE.search(whole):
        add("prize", "violation", "it promises a prize", "UCPD annex I (31)", match.group())
    for pattern, rule, severity, reason, source in (
        (_HEALTH, "health_claim", "violation", "it promises a cure", "UCPD annex I (17)"),
        (_MONEY, "earnings_claim", "violation", "it promises income", "FTC Act §5"),
        (
            _FREE,
            "free_claim",
            "warning",
            "what is called free must cost nothing",
            "UCPD annex I (20)",
        ),
        (_SUPERLATIVE, "superlative", "info", "it must be possible to prove", "UCPD art. 6, 12"),
        (_DEADLINE, "pressure", "info", "the deadline must be true", "UCPD annex I (7)"),
        (
            _SPECIAL,
            "special_category",
            "violation",
            "it speaks of a protected trait",
            "GDPR art. 9",
        ),
    ):
        if match := pattern.search(whole):
            add(rule, severity, reason, source, match.group())
    data = [item for item in personal_data(body) if item.kind in ("card", "iban")]
    if data:
        add(
            "personal_data",
            "violation",
            f"it holds a {data[0].kind} number in clear",
            "GDPR art. 5(1)(c), 32",
        )
    if not sender.strip() and not p.EMAIL.search(body):
        add("sender_unknown", "info", "the text doesn't say who sends it", "CAN-SPAM §7704(a)(1)")
    if order := signs(whole):
        add(
            "hidden_instructions", "warning", "it holds orders to a machine", "guardrails", order[0]
        )
    risk = 1.0
    for finding in found:
        risk *= 1.0 - _WEIGHT[finding.severity]
    return ComplianceRisk(risk=round(1.0 - risk, 3), findings=found)
