"""How often the sentiment of texts is what people said it is, and how fast."""

import csv
import math
import time
from collections import Counter
from pathlib import Path
from typing import Any

from dagster_project.lib.errors import OnefoldError
from dagster_project.lib.sentiment import LABELS, Sentiment

_SPELLINGS = {"-1": "negative", "0": "neutral", "1": "positive", "neg": "negative", "neu": "neutral", "pos": "positive"}


def run(file: Path) -> dict[str, Any]:
    """Score every text of a labelled file.

    Args:
        file: CSV, or TSV by its name, with the columns `text`, `label` (negative, neutral, positive or -1, 0, 1) and, if
            it likes, `language`; without it texts count by the language that was found in them.

    Returns:
        `results`: a row for each language and all, with its 95 % interval (Wilson's); `labels`: a row for each of their labels.

    Raises:
        OnefoldError: no such columns, a label that is none, or no rows; names the line.
    """
    rows = _read(file)
    scorer = Sentiment()
    scorer.score(["好", "good"])  # loading the models is not counted
    started = time.perf_counter()
    opinions = scorer.score([text for text, _, _ in rows])
    seconds = time.perf_counter() - started
    judged = [
        (language or o.language or "none", label, o.label or "neutral")
        for (_, label, language), o in zip(rows, opinions, strict=True)
    ]
    languages = sorted({language for language, _, _ in judged})
    results, labels = [], []
    for language in [*languages, "all"] if len(languages) > 1 else languages:
        pairs = Counter((given, found) for of, given, found in judged if language in (of, "all"))
        results.append({"language": language, **_accuracy(pairs)})
        labels += [{"language": language, "label": label, **_of_label(pairs, label)} for label in LABELS]
    return {"texts_per_second": round(len(set(rows)) / seconds), "results": results, "labels": labels}


def _read(file: Path) -> list[tuple[str, str, str | None]]:
    rows = []
    with file.open(newline="", encoding="utf-8-sig") as lines:
        is_tsv = ".tsv" in file.suffixes
        reader = csv.DictReader(
            lines, dialect="excel-tab" if is_tsv else "excel", quoting=csv.QUOTE_NONE if is_tsv else csv.QUOTE_MINIMAL
        )
        if not {"text", "label"} <= set(reader.fieldnames or ()):
            raise OnefoldError(f"{file}: the first line has to name the columns text and label (language is optional)")
        for row in reader:
            label = (row["label"] or "").strip().lower()
            label = _SPELLINGS.get(label, label)
            if label not in LABELS:
                raise OnefoldError(
                    f"{file} line {reader.line_num}: label '{row['label']}' is none of {', '.join(LABELS)}, -1, 0, 1"
                )
            rows.append((row["text"], label, (row.get("language") or "").strip() or None))
    if not rows:
        raise OnefoldError(f"{file}: there are no labelled texts in it")
    return rows


def _accuracy(pairs: Counter) -> dict[str, Any]:
    texts, right = pairs.total(), sum(n for (given, found), n in pairs.items() if given == found)
    opposite = sum(n for (given, found), n in pairs.items() if {given, found} == {"negative", "positive"})
    low, high = _wilson(right, texts)
    return {
        "texts": texts,
        "accuracy": round(right / texts, 3),
        "at_least": round(low, 3),
        "at_most": round(high, 3),
        "opposite": round(opposite / texts, 3),
    }


def _of_label(pairs: Counter, label: str) -> dict[str, Any]:
    right = pairs[label, label]
    given = sum(n for (g, _), n in pairs.items() if g == label)
    found = sum(n for (_, f), n in pairs.items() if f == label)
    return {
        "texts": given,
        "precision": round(right / found, 3) if found else None,
        "recall": round(right / given, 3) if given else None,
        "f1": round(2 * right / (given + found), 3) if given and found else None,
    }


def _wilson(right: int, texts: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson, 1927)."""
    share, spread = right / texts, z * z / texts
    middle = share + spread / 2
    half = z * math.sqrt(share * (1 - share) / texts + spread / (4 * texts))
    return (middle - half) / (1 + spread), (middle + half) / (1 + spread)
