"""Text that tries to give orders: found, taken apart, and never obeyed.

Briefs and memories are strangers' text and stand in prompts as data. Three things keep it so:

- the marks by which a chat template tells its parts (``<|im_start|>``, ``[INST]``, ``### System``)
  are removed, so that data can't end its own message;
- sentences that speak to a model instead of to a reader are dropped before a prompt is made, and
  refused in what comes back;
- what a model answers is text for one field. It is never read as a tool call, and links, tags,
  figures and names in it must stand in the brief (``guard.check``), whatever it was told.

The list of signs is no proof of safety, only the first of these layers.
"""

from __future__ import annotations

import html
import re
import unicodedata

from mesh.agents.guard import patterns as p

ROLE_MARK = re.compile(
    r"<\|[^|<>\n]{0,60}\|?>|<｜[^｜<>\n]{0,60}｜>|\[/?(?:INST|SYS|SYSTEM|USER|ASSISTANT)\]"
    r"|<<\s?/?SYS\s?>>|</?s>|</?(?:system|user|assistant|developer|tool|function|instructions?|"
    r"tool_call|function_call|tool_response|think|memory|brief|data)\b[^<>]{0,80}>"
    r"|(?:^|(?<=\s))#{2,6}\s*(?:system|user|assistant|instructions?|response|human|input)\b\s*:?"
    r"|(?:^|(?<=\n))\s*(?:system|assistant|human|developer)\s*(?:prompt|message)?\s*:",
    re.IGNORECASE,
)
"""How chat templates mark whose turn it is."""

TOOL_CALL = re.compile(
    r"[\"']?(?:tool_calls?|function_call|tool_name|tool_use|arguments|parameters)[\"']?\s*[:=]"
    r"\s*[\[{\"']|\b(?:call|invoke|execute|run|use)\s+(?:the\s+)?(?:tool|function|plugin)\s+"
    r"[\"'`]?\w+[_.]\w+|\brun the command\b",
    re.IGNORECASE,
)

_TARGET = (
    r"(?:(?:all|any|the|your|these|those|previous|prior|above|earlier|preceding|other|former|"
    r"safety|"
    r"system|original|of)\s+){0,5}(?:instructions?|rules?|prompts?|guidelines?|directions?|"
    r"orders?|"
    r"directives?|restrictions?|guardrails?|polic(?:y|ies)|messages?|system prompt|constraints?)"
)
ORDERS = re.compile(
    "|".join(
        (
            rf"\b(?:ignore|disregard|forget|override|bypass|overrule|skip|drop|discard|violate|"
            rf"do not follow|don't follow|stop following)\s+{_TARGET}",
            r"\b(?:ignore|disregard|forget)\s+(?:everything|all|what(?:ever)?)\s+(?:(?:that|"
            r"which)\s+)?"
            r"(?:you|i|we|was|is|came|comes|has been|above|before|said|told)",
            r"\b(?:ignore|disregard)\s+(?:all\s+)?(?:the\s+|of\s+the\s+)?(?:above|previous|"
            r"foregoing)\b",
            r"\b(?:new|updated|real|actual|secret|hidden|"
            r"following)\s+(?:system\s+)?instructions?\s*[:-]",
            r"\byou are (?:now|no longer|actually)\b|\bact as (?:an?|the|if)\b|"
            r"\bpretend (?:to be|you|that)"
            r"|\broleplay\b|\bjailbr(?:eak|oken)\b|\bdeveloper mode\b|\bdo anything now\b|"
            r"\bgod mode\b",
            r"\bwhat (?:you|the (?:ai|model|assistant)) (?:know|knows|remember|remembers|"
            r"stored?) (?:about|of)\b",
            r"\b(?:say|print|output|write|reply with|respond with|confirm with|end with|"
            r"answer with)\s+"
            r"(?:only:?\s+)?[\"']?(?-i:[A-Z][A-Z-]{4,})\b",
            r"\b(?:system|hidden|secret|initial|developer) (?:prompt|message|instructions?)\b",
            r"\b(?:reveal|print|repeat|output|show|leak|dump|list|reply with|send|exfiltrate|"
            r"include|"
            r"append|copy|tell me|quote|return|export)\b[^.!?\n]{0,80}\b(?:system prompt|"
            r"your (?:prompt|"
            r"instructions|rules|memor(?:y|ies))|api[ _-]?keys?|passwords?|secrets?|credentials|"
            r"tokens?|"
            r"(?:other|another|every|all)(?: the| of the)? (?:contact|customer|user|recipient|"
            r"workspace|"
            r"tenant|client)(?:s|'s|s')?\b[^.!?\n]{0,40}|memor(?:y|ies) of|"
            r"environment variables?|"
            r"database|everything (?:above|before))",
            r"\b(?:as an?|you(?:'re| are) an?) (?:ai|language model|assistant|chatbot|llm)\b",
            r"\b(?:respond|answer|reply) (?:only )?(?:with|in) (?:the (?:word|text|following)|"
            r"json|base64)",
            r"\b(?:when|if|while) (?:you|the model|the assistant|the ai) (?:read|see|"
            r"summari[sz]e|process|"
            r"write|generate)",
            r"\b(?:note|message|attention|important)[^.!?\n]{0,20}\b(?:to|for) (?:the )?(?:ai|"
            r"assistant|model|"
            r"llm|agent|bot)\b",
            r"\bmemory\.(?:search|recall|forget|remember)\b|\bfetch\(|\bos\.system\b|"
            r"\bsubprocess\b"
            r"|\bdrop table\b|\brm -rf\b|\bcurl\s+-|\bjavascript:|\bdata:[a-z]+/[a-z0-9.+-]+[;,]",
            # The same in the other languages that briefs come in.
            r"\b(?:ignorier\w*|vergiss|missachte\w*|vergessen sie)\b[^.!?\n]{0,60}(?:anweisung|"
            r"regel|"
            r"befehl|vorherig|bisherig|obig|anleitung|alles)",
            r"\b(?:ignore[zr]?|oublie[zr]?|ne tenez pas compte)\b[^.!?\n]{0,60}(?:instruction|"
            r"consigne|"
            r"règle|précédent|ci-dessus|directive)",
            r"\b(?:ignora|ignore|olvida|olvide|descarta|"
            r"haz caso omiso)\b[^.!?\n]{0,60}(?:instruccion|"
            r"regla|anterior|orden|indicacion)",
            r"\b(?:ignora|dimentica|trascura)\b[^.!?\n]{0,60}(?:istruzion|regol|precedent)",
            r"\b(?:ignore|esqueça|desconsidere)\b[^.!?\n]{0,60}(?:instruç|regra|anterior)",
            r"\b(?:negeer|vergeet)\b[^.!?\n]{0,60}(?:instructie|regel|opdracht|vorige|"
            r"bovenstaande)",
            r"(?:игнорируй|забудь)\w*[^.!?\n]{0,60}(?:инструкц|правил|предыдущ|указан)",
            r"(?:忽略|无视|忘记|忘掉)[^。!?\n]{0,30}(?:指令|指示|规则|提示|之前|以上)",
            r"(?:指示|命令|ルール)[^。\n]{0,20}(?:無視|忘れ)",
            r"(?:تجاهل|انس)[^.!?\n]{0,60}(?:التعليمات|السابقة|القواعد)",
            r"\b(?:system ?prompt|systemanweisung|invite système|prompt del sistema)\b",
        )
    ),
    re.IGNORECASE,
)
"""Sentences that speak to a model about its orders."""

_BASE64 = re.compile(r"(?<![\w+/=])[A-Za-z0-9+/]{40,}={0,2}(?![\w+/=])")
_ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})|\\x([0-9a-fA-F]{2})")
_LOOKALIKES = str.maketrans(
    "аеорсухіјѕԁɡһӏՕοαεικνρτυχΑΒΕΖΗΙΚΜΝΟΡΤΥΧАВЕКМНОРСТУХІЈЅ",
    "aeopcyxijsdghlOoaeiknptuxABEZHIKMNOPTYXABEKMHOPCTYXIJS",
)
"""Cyrillic, Greek and Armenian letters that look Latin, for finding orders, not for writing."""


def plain(text: str) -> str:
    """How the signs are looked for: escapes undone, compatibility forms, nothing invisible."""
    if "\\" in text:
        text = _ESCAPE.sub(lambda match: chr(int(match[1] or match[2], 16)), text)
    text = html.unescape(text) if "&" in text else text
    text = p.INVISIBLE.sub("", unicodedata.normalize("NFKC", text))
    return text.replace("’", "'")


def signs(text: str) -> list[str]:
    """What in it tries to give orders; empty: nothing that we know of."""
    seen = plain(text)
    disguises = {seen.translate(_LOOKALIKES), _joined(seen)} - {seen}
    found = []
    for name, pattern in (("role mark", ROLE_MARK), ("tool call", TOOL_CALL), ("order", ORDERS)):
        match = pattern.search(seen)
        if match is None and name == "order":
            # Letters of other scripts, spaced letters ("i g n o r e"): seen once more without.
            for other in disguises:
                match = match or pattern.search(other)
        if match is not None:
            found.append(f"{name}: {match.group()[:60].strip()}")
    if _BASE64.search(seen):
        found.append("encoded text")
    return found


def neutral(text: str) -> str:
    """The text without role marks and invisible characters. Idempotent.

    It still says what it says: whether a sentence is fit for a prompt tells ``signs``.
    """
    text = p.INVISIBLE.sub("", text)
    for _ in range(8):
        stripped = ROLE_MARK.sub(" ", text)
        if stripped == text:
            break
        text = stripped
    else:
        text = re.sub(r"[<>|#\[\]｜]", " ", text)
    return text


def quoted(text: str, mark: str = "text") -> str:
    """The text as a prompt may hold it: neutral, on one line, between marks it can't contain."""
    body = re.sub(r"\s+", " ", neutral(text)).replace("«", "‹").replace("»", "›").strip()
    return f"{mark} «{body}»"


def before_marks(text: str) -> str:
    """What stands before the first role mark: whoever fakes a turn means the rest as orders."""
    match = ROLE_MARK.search(text)
    return text if match is None else text[: match.start()]


def _joined(text: str) -> str:
    """Runs of single letters parted by blanks, dots or hyphens become words."""
    return re.sub(
        r"(?<!\w)(?:[^\W\d_][ .\-_*]){2,}[^\W\d_](?!\w)",
        lambda match: re.sub(r"[ .\-_*]", "", match.group()),
        text,
    )
