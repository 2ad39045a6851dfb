"""Split texts into sentences, in the language that they are in."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from bge_integrations.optional import import_library

#: Language by a character that only it, or mostly it, is written with; the first that occurs counts.
_SCRIPTS = (
    ("ja", re.compile("[\u3041-\u30ff\uff66-\uff9d]")),
    ("zh", re.compile("[\u3400-\u9fff]")),
    ("ko", re.compile("[\uac00-\ud7af]")),
    ("ur", re.compile("[\u0679\u0688\u0691\u06ba\u06be\u06d2\u06d4]")),
    ("fa", re.compile("[\u067e\u0686\u0698\u06a9\u06af\u06cc]")),
    ("ar", re.compile("[\u0600-\u06ff]")),
    ("hi", re.compile("[\u0900-\u097f]")),
    ("bn", re.compile("[\u0980-\u09ff]")),
    ("pa", re.compile("[\u0a00-\u0a7f]")),
    ("gu", re.compile("[\u0a80-\u0aff]")),
    ("ta", re.compile("[\u0b80-\u0bff]")),
    ("te", re.compile("[\u0c00-\u0c7f]")),
    ("kn", re.compile("[\u0c80-\u0cff]")),
    ("ml", re.compile("[\u0d00-\u0d7f]")),
    ("my", re.compile("[\u1000-\u109f]")),
    ("am", re.compile("[\u1200-\u137f]")),
    ("hy", re.compile("[\u0531-\u058f]")),
    ("el", re.compile("[\u0370-\u03ff]")),
    ("ru", re.compile("[\u0400-\u04ff]")),
)
#: Frequent words of languages in Latin script. A text with none of them is taken for English.
_FREQUENT_WORDS = {
    "en": "the of and is to was for that with are it this by from be as at not",
    "de": "der die das und ist nicht ein eine mit von den dem im zu auf sich auch kam war es sie am für vgl",
    "fr": "le la les et est un une des du dans que pas pour qui il elle sur au avec",
    "es": "el la los las y es un una de del en que no por con para se su llegó",
    "it": "il lo gli e è un una di del della che non per con si sono nel alla",
    "pt": "o os as e é um uma do da dos em que não por com para se ao",
    "nl": "de het een en is van niet in op te dat zijn met voor aan er",
    "sv": "och är en ett det som på av för med inte den till",
    "da": "og er en et det som på af for med ikke den til",
    "pl": "i w nie na się jest z do że jak to po od przez",
    "cs": "a je v na se že s to do z jako by ale není",
    "fi": "ja on ei se että oli hän ovat kun mutta myös",
    "tr": "ve bir bu da de için ile çok olarak daha ne gibi",
}
_LANGUAGE_BY_WORD: dict[str, list[str]] = {}
for _language, _words in _FREQUENT_WORDS.items():
    for _word in _words.split():
        _LANGUAGE_BY_WORD.setdefault(_word, []).append(_language)
#: Characters that the language of a text is guessed from.
_SAMPLE = 2000
#: Characters that the splitter gets at a time.
_WINDOW = 2000

#: Abbreviations after which the splitter ends a sentence. The second group does so only before a number.
_ABBREVIATED = re.compile(
    r"(?:^|[\s(\[\"'“‘«])(?:approx|incl|excl|resp|ca|cf|viz|vs|e\.?\s?g|i\.?\s?e|Prof|Dr|Mr|Mrs|Ms|Mx|St|Messrs|Rev|Hon|Gen|"
    r"Col|Capt|Lt|Sgt|Gov|Sen|Rep|Pres|Mme|Mlle|Mgr|Sr|Sra|Srta|Dra|Ud|Uds|Hr|Fr|Ing|Dipl|bzw|vgl|evtl|ggf|usw|Inh|Sig|"
    r"Dott|dott|Avv|M|MM|hab|av|ul|[Mm]io|[Mm]rd|Mon|Tues?|Wed|Thurs?|Fri|Jan|Feb|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec|"
    r"p\.?\s?ex|z\.\s?B|d\.\s?h|u\.\s?a)\.\s*$"
)
_NUMBERED = re.compile(
    r"(?:^|[\s(\[])(?:figs?|eqs?|nos?|pp?|vols?|chs?|chap|secs?|sect|arts?|refs?|tabs?|ex|app|par|pt|ed|Abb|Nr|S|Bd|Kap|Tab|"
    r"Art|Abs|Ziff|Seiten?|núm|pág|págs|cap|art|n|fig|vol|стр|рис|табл|гл|п|№)\.\s*$",
    re.IGNORECASE,
)
#: The number of a list item: "1." or "(2)".
_ITEM = re.compile(r"^\W*\d{1,3}[.)]\s*$")
#: A line without marks inside it, which is one sentence in any language.
_ONE_SENTENCE = re.compile(r"[-*+>| ]*+[\w ]++[^\w\s]?[| ]*+")
#: Where sentences end in Khmer, Tibetan and Mongolian, which the splitter does not know.
_OTHER_ENDS = re.compile("(?<=[\u17d4\u17d5\u0f0d\u0f0e\u1803\u1809])(?![\u17d4\u17d5\u0f0d\u0f0e\u1803\u1809]|$)")
_CLOSED = re.compile(r"[\"'”’»」』）)\]]\s*$")
_OPENING = "\"'“‘«「『（([{¿¡#*-_`~<"
#: What continues a sentence: a closing mark, or a dash before a word in lower case.
_CONTINUING = re.compile(r"[”’»」』）)\]]|[—–-]\s*[^\W\d_A-ZА-Я]")
#: A point or closing quote without a space after it, as in "ASP.NET". Chinese and Japanese have no spaces at all.
_WITHIN, _SPACED = re.compile("[.\"'”’»]$"), re.compile("[A-Za-z0-9가-힣]")
_NUMBER = re.compile(r"[(\[]?\d")
#: A German ordinal number, and what follows one.
_ORDINAL, _AFTER_ORDINAL = re.compile(r"\d\.\s*$"), ("Jahrhundert", "Jh.")
#: After a Japanese quotation these continue the sentence.
_AFTER_QUOTATION = tuple("とのはがをにへでもやなか")


def sentences(text: str) -> list[str]:
    """Split a text into sentences and lines, without empty ones.

    Raises:
        ImportError: The extra `files` is not installed.
    """
    if _ONE_SENTENCE.fullmatch(text):
        return [text.strip()] if text.strip() else []
    library = import_library("sentencex", "files", "finding sentences")
    language = _language_of(text[:_SAMPLE])
    found: list[str] = []
    for line in text.splitlines():
        pieces: list[str] = []
        for piece in _pieces(library.segment, language, line.strip()):
            if pieces and _continues(pieces[-1], piece):
                pieces[-1] += piece
            else:
                pieces.append(piece)
        found += (sentence for piece in pieces if (sentence := piece.strip()))
    return found


def _pieces(segment: Callable[[str, str], list[str]], language: str, line: str) -> Iterator[str]:
    """Yield the splitter's sentences of a line, window by window: its time grows with the square of the length."""
    start, length = 0, _WINDOW
    while start + length < len(line):
        *ended, _ = segment(language, line[start : start + length])
        for piece in ended:
            yield from _OTHER_ENDS.split(piece)
        length = _WINDOW if ended else 2 * length
        start += sum(map(len, ended))
    for piece in segment(language, line[start:]):
        yield from _OTHER_ENDS.split(piece)


def _continues(before: str, piece: str) -> bool:
    """Return whether a piece belongs to the sentence before it."""
    after = piece.lstrip()
    if not any(character.isalnum() or character in _OPENING for character in after):
        return True  # marks only
    if _CONTINUING.match(after) or (_WITHIN.search(before) and _SPACED.match(piece)):
        return True
    if _NUMBER.match(after) and _NUMBERED.search(before[-20:]):
        return True
    if after[0].islower() and before.rstrip().endswith(".") and before.lstrip()[0].isupper():
        return True  # an abbreviation; without the capital, the text may be without any
    if after.startswith(_AFTER_ORDINAL) and _ORDINAL.search(before[-20:]):
        return True
    if _CLOSED.search(before[-4:]) and (
        after[0].islower() or (before[-1] in "」』" and after.startswith(_AFTER_QUOTATION))
    ):
        return True
    return bool(_ABBREVIATED.search(before[-20:]) or _ITEM.match(before[-8:]))


def _language_of(text: str) -> str:
    """Return the language of a text, from its script or its frequent words."""
    for language, letters in () if text.isascii() else _SCRIPTS:
        if letters.search(text):
            return language
    votes = dict.fromkeys(_FREQUENT_WORDS, 0)
    for word in re.findall(r"\w+", text.lower()):
        for language in _LANGUAGE_BY_WORD.get(word, ()):
            votes[language] += 1
    return max(votes, key=lambda language: votes[language])
