"""Words that speak for a label: an explainable hint beside the embedding.

The head learns how far to trust each. They also tell a reader of the decision why: ``topic:
reminder`` because of "expires". English, like the examples.
"""

from __future__ import annotations

import re

_CUES: dict[str, dict[str, str]] = {
    "topic": {
        "sale": r"\d+ ?% (?:off|less)|sales?|percent|discount\w*|half price|cheaper|price\w*"
        r"|offer\w*|sav(?:e|es|ing)|deals?"
        r"|reduction|rebate|two for one|buy one",
        "launch": r"new|introduc\w*|launch\w*|release\w*|present\w*|available now|is here|"
        r"is out|meet"
        r"|arriv\w+|first batch|edition|pre-?orders?",
        "event": r"invit\w+|join us|come along|webinar|conference|festival|concert|workshop|"
        r"fair|tickets?"
        r"|doors open|evening|party|regist\w+|seats?|tasting|open day|takes place|meeting|talks?",
        "newsletter": r"issue|edition|newsletter|letter|digest|roundup|this (?:month|week)|in this|"
        r"bulletin|stories|recap|articles?|monthly|weekly|quarterly|chronicle|news from",
        "onboarding": r"welcome|get(?:ting)? started|set up|set-up|account|first steps?|"
        r"password|confirm"
        r"|your first|to begin|joining|sign(?:ed|ing) up|activat\w+|profile|log in",
        "reminder": r"remind\w*|expires?|due|don't forget|left something|basket|cart|appointment"
        r"|renew\w*|tomorrow|deadline|ends in|still waiting|booked",
        "loyalty": r"thank(?:s| you)|birthday|points?|rewards?|loyal\w*|years? with|gold tier|"
        r"anniversary|"
        r"gratitude|our treat|gift",
        "survey": r"survey|questionnaire|feedback|questions?|rate|vote|poll|tell us|opinion|"
        r"your say|"
        r"what did you think|evaluat\w+|study",
        "update": r"from 1|chang\w+|moved|opening hours|terms|now open|new version|notice|"
        r"inform|repairs?|"
        r"fixed|route|amended|elected|revised|closed",
        "fundraising": r"donat\w+|gifts?|give|sponsor\w*|appeal|raise|support\w*|charity|"
        r"foundation|"
        r"euros? (?:a|pays)|fund",
    },
    "tone": {
        "friendly": r"we(?:'d| would)? love|happy|glad|come and|lovely|thanks|join us|hello|hi|"
        r"enjoy|let us",
        "formal": r"hereby|kindly|respectfully|pleased to|honou?r|cordially|in order to|"
        r"please find|"
        r"enclose\w*|with effect from|dear customers|beg to|grateful|we (?:wish|would) (?:to|"
        r"like to)",
        "urgent": r"now|today only|last|hours|midnight|tonight|immediately|at once|expires?|"
        r"before|only|"
        r"left|deadline|urgent|important|action required|closes",
        "playful": r"psst|confetti|silly|guess|oops|glitter|party|itch|haircut|dance|dare|"
        r"chef nervous|"
        r"excuse|crime|cat|dog|goat\w*|dinosaur|mistake|wigs|sang",
        "inspiring": r"dream\w*|imagine|together|change|courage|begin\w*|life|world|path|become|"
        r"achiev\w+|voice|open a door|nobody|you can do",
        "informative": r"\d+(?::\d\d)?|from .{1,20} to|is available|takes place|contains?|"
        r"consists?|"
        r"costs?|valid|percent|applies|are as follows|results",
    },
    "audience": {
        "consumers": r"shop|store|order|basket|taste|home|kitchen|subscription|parcel|customers",
        "businesses": r"team|company|companies|clients?|business\w*|invoice|API|licen[cs]e|"
        r"contract|trade|"
        r"employees?|firm|payroll|software|colleagues|competitors|industry|plan",
        "members": r"members?|membership|club|points|classes|society|statutes|season tickets?|"
        r"training",
        "families": r"famil\w+|child\w*|kids?|school|parents?|toddlers?|little ones|nursery|"
        r"toys?",
        "students": r"students?|campus|lectures?|course|enrol\w*|exam\w*|term|degree|library|"
        r"thesis|tutor",
        "supporters": r"donat\w+|supporters?|donors?|volunteer\w*|patrons?|appeal|shelter|"
        r"clinic|rescue|"
        r"foundation|charity|trustees",
    },
}
COUNT = sum(len(labels) for labels in _CUES.values())
"""Features that ``cue_features`` gives."""
_PATTERNS = {
    question: {
        label: re.compile(rf"(?<!\w)(?:{words})(?!\w)", re.IGNORECASE)
        for label, words in labels.items()
    }
    for question, labels in _CUES.items()
}


def labels(question: str) -> tuple[str, ...]:
    """Those that have cues."""
    return tuple(_CUES[question])


def cue_features(text: str) -> list[float]:
    """How many cues of each label it holds, 0 to 1, in a fixed order."""
    return [
        min(1.0, len({hit.group().casefold() for hit in pattern.finditer(text)}) / 3)
        for labels in _PATTERNS.values()
        for pattern in labels.values()
    ]


def cue_words(text: str, question: str, label: str, most: int = 4) -> list[str]:
    """The words of the text that speak for the label; empty for labels without cues."""
    pattern = _PATTERNS.get(question, {}).get(label)
    if pattern is None:
        return []
    found = {hit.group().casefold(): None for hit in pattern.finditer(text)}
    return list(found)[:most]


def keyword_scores(text: str, question: str, labels: tuple[str, ...]) -> list[float]:
    """What cues alone say: shares that add up to 1. For when there is no embedding."""
    counts = [0.25 + len(cue_words(text, question, label, most=20)) for label in labels]
    return [count / sum(counts) for count in counts]
