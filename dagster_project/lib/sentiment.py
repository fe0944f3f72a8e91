"""Sentiment of what people write, in Chinese and English, from dictionaries and models that come inside the libraries' wheels.

English: VADER, made for social media (Hutto, Gilbert: VADER, ICWSM 2014). Chinese: the mean of pysenti's two opinions, a
dictionary and a naive Bayes model, which err in different texts. How well they do and what else was tried: docs/analysis.md.
"""

import html
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

VERSION = "vader 3.3, pysenti 0.1"  # of the way to a score; texts are scored anew in a full refresh when it changes
LABELS = ("negative", "neutral", "positive")

_LONGEST = 2_000  # characters; opinions come early, and what is pasted below them is not the writer's
_NEUTRAL = {"zh": 0.2, "en": 0.05}  # VADER's own for English; for Chinese by the development texts
# Addresses and names of accounts; a Chinese name ends where a blank or a colon does, as the sentence may go on without either.
_NOISE = re.compile(r"https?://[!-~]+|www\.[!-~]+|@[A-Za-z0-9_\-]+|@[\w\-]{1,30}+(?=[\s:：])")
_HAN = re.compile(r"[㐀-䶿一-鿿豈-﫿]")
_LATIN = re.compile(r"[A-Za-zÀ-ɏ]+")
_LETTER = re.compile(r"[^\W\d_]")
_OTHERS = re.compile(r"[぀-ヿ가-힯]")  # kana and hangul: Han beside them is not Chinese
# What VADER's list of emoji describes in words that its dictionary lacks.
_EMOJI = {
    "👍": "great",
    "👏": "great",
    "💯": "great",
    "👎": "bad",
    "😡": "angry",
    "🤬": "angry",
    "💔": "sad",
    "🤮": "disgusting",
}


@dataclass(frozen=True)
class Opinion:
    """What a text says: `polarity` from -1 to 1 and its label; both None where nothing can be told.

    `language` is zh, en, other (nothing is guessed of it), or None for a text without letters.
    """

    polarity: float | None
    label: str | None
    language: str | None


class Sentiment:
    """The one way to sentiment. Models load when the first text of their language comes, and stay."""

    def __init__(self) -> None:
        self._loaded: dict[str, Any] = {}  # no cached_property: its lock would keep the class from workers of Spark

    def score(self, texts: Sequence[str]) -> list[Opinion]:
        """The opinion of each text, in their order; equal texts are looked at once."""
        known = {text: self._opinion(text) for text in dict.fromkeys(texts)}
        return [known[text] for text in texts]

    def _opinion(self, text: str) -> Opinion:
        own = html.unescape(text[: 2 * _LONGEST]).split("//@")[0]  # on Weibo, what follows was said by others
        own = _NOISE.sub(" ", own).replace("#", " ")[:_LONGEST].strip()
        language = language_of(own)
        if language == "zh":
            # Emoji mean the same in both languages; only VADER knows them.
            polarity = max(-1.0, min(1.0, self._chinese(own) + self._english(_without_letters(own))))
        elif language == "en":
            polarity = self._english(own)
        else:
            polarity = self._english(_without_letters(own))
            if not polarity:
                return Opinion(None, None, language)
        return Opinion(round(polarity, 4), label_of(polarity, _NEUTRAL.get(language or "en", 0.05)), language)

    def _chinese(self, text: str) -> float:
        by_words, by_model = self._pysenti
        likely = by_model.classify(text)["positive_prob"]
        return (math.tanh(by_words.classify(text)["score"] / 2) + 2 * likely - 1) / 2

    def _english(self, text: str) -> float:
        return self._vader.polarity_scores(text)["compound"] if text else 0.0

    @property
    def _vader(self) -> Any:
        if "vader" not in self._loaded:
            from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

            self._loaded["vader"] = SentimentIntensityAnalyzer()
            self._loaded["vader"].emojis.update(_EMOJI)
        return self._loaded["vader"]

    @property
    def _pysenti(self) -> tuple[Any, Any]:
        if "pysenti" not in self._loaded:
            import pysenti

            self._loaded["pysenti"] = pysenti.RuleClassifier(), pysenti.ModelClassifier()
        return self._loaded["pysenti"]


def label_of(polarity: float, neutral: float) -> str:
    """negative, neutral or positive; `neutral` is how far from 0 still counts as such."""
    return "positive" if polarity >= neutral else "negative" if polarity <= -neutral else "neutral"


def language_of(text: str) -> str | None:
    """zh, en or other, by the script; Chinese where it has no fewer Han characters than Latin words. None without letters."""
    letters = len(_LETTER.findall(text))
    if not letters:
        return None
    han, latin = len(_HAN.findall(text)), sum(map(len, _LATIN.findall(text)))
    if _OTHERS.search(text) or han + latin < letters / 2:
        return "other"
    return "zh" if han >= len(_LATIN.findall(text)) else "en"


def _without_letters(text: str) -> str:
    return re.sub(r"[\w\s]+", " ", text).strip()
