"""Is a text in the language it should be in? Scripts, then function words.

A heuristic: it tells languages apart that mail is mostly written in, and says nothing (None) of
short texts and languages it does not know. It never calls a right text wrong for want of words.
"""

from __future__ import annotations

import unicodedata

from mesh.agents.guard import patterns as p


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


FUNCTION_WORDS: dict[str, frozenset[str]] = {
    "en": _words(
        "the and of to in is you that it for on are with your we our this have from be will "
        "all at can not an by as or has their they more get when now here out if"
    ),
    "de": _words(
        "der die das und ist nicht ein eine zu den mit für von auf dem sich wir sie ihr euch "
        "uns im des auch bei wird sind oder aus nach jetzt mehr hier unser unsere ihre"
    ),
    "fr": _words(
        "le la les des et est une un pour dans que qui sur avec vous nous votre notre vos nos "
        "pas au aux du ce cette sont plus par ou de en"
    ),
    "es": _words(
        "el la los las de y en que un una para con por su sus es no del se al más nuestra "
        "nuestro tu lo está como son te o"
    ),
    "it": _words(
        "il lo la i gli le di e che un una per con non è del della nel sono si dei tuo tua "
        "nostro nostra più ti al alla o"
    ),
    "pt": _words(
        "o a os as de e que um uma para com não do da em no na é se por mais seu sua nosso "
        "nossa você dos das ao ou"
    ),
    "nl": _words(
        "de het een en van in is dat op te voor met niet zijn je jouw we ons onze aan er ook "
        "naar bij nu meer of uit u uw"
    ),
}
_SCRIPTS = {
    **dict.fromkeys(("ru", "uk", "bg", "sr", "mk", "be"), "CYRILLIC"),
    "el": "GREEK",
    "he": "HEBREW",
    **dict.fromkeys(("ar", "fa", "ur"), "ARABIC"),
    **dict.fromkeys(("hi", "mr", "ne"), "DEVANAGARI"),
    "th": "THAI",
    "ko": "HANGUL",
    "ja": "CJK",
    "zh": "CJK",
}
_CJK = ("CJK", "HIRAGANA", "KATAKANA")


def wrong_language(text: str, language: str) -> str | None:
    """What it looks like instead of ``language`` (``en``, ``de-AT`` …), or None."""
    base = language[:2]
    script = _SCRIPTS.get(base, "LATIN")
    letters = [c for c in text if c.isalpha()]
    if not letters:
        return None
    fits = _CJK if script == "CJK" else (script,)
    share = sum(unicodedata.name(c, "").startswith(fits) for c in letters) / len(letters)
    if share < 0.6:
        return f"script other than {script.lower()}"
    if script != "LATIN":
        return None
    words = [w.casefold() for w in p.WORD.findall(text)]
    hits = {lang: sum(w in known for w in words) for lang, known in FUNCTION_WORDS.items()}
    best = max(hits, key=lambda lang: hits[lang])
    own = hits.get(base, 0)
    # Two words may be chance; a language without a word list of ours is judged more mildly.
    needed = 2 if base in hits else max(3, len(words) // 4)
    if best != base and hits[best] >= needed and hits[best] >= 2 * own + 1:
        return best
    return None
