"""Sentiment behind its interface; satisfaction and listening against plain Python over the rows as they were landed, and the
same for whatever batches they come in."""

import csv
import random
import re
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from zoneinfo import ZoneInfo

import pytest
from rows import Row, build, land_lines, query

from bench import sentiment as bench_sentiment
from dagster_project.lib import dbt, voice
from dagster_project.lib.errors import OnefoldError
from dagster_project.lib.home import PROJECT_ROOT, Home
from dagster_project.lib.sentiment import Opinion, Sentiment, language_of

START = datetime(2025, 3, 3, 2, tzinfo=UTC)  # Monday, ten o'clock in Shanghai
AS_OF = datetime(2025, 5, 20)
MODELS = [f"+analytics_{model}" for model in ("listening", "listening_hours", "satisfaction")]
ZONE = ZoneInfo("Asia/Shanghai")
OPEN_ENDED = timedelta(hours=24)


@pytest.fixture(scope="module")
def sentiment() -> Sentiment:
    return Sentiment()


@pytest.mark.parametrize(
    ("text", "label", "language"),
    [
        ("Love it, highly recommended!", "positive", "en"),
        ("Worst service ever, I hate it", "negative", "en"),
        ("The parcel came on Monday", "neutral", "en"),
        ("太好用了，强烈推荐！", "positive", "zh"),
        ("质量太差了，垃圾，再也不买了", "negative", "zh"),
        ("客服小姐姐很耐心，好评👍", "positive", "zh"),
        ("这个APP很好用，推荐download", "positive", "zh"),
        ("👍👍", "positive", None),
        ("😡", "negative", None),
    ],
)
def test_chinese_english_and_emoji_are_understood(sentiment: Sentiment, text: str, label: str, language: str | None) -> None:
    (opinion,) = sentiment.score([text])
    assert (opinion.label, opinion.language) == (label, language)
    assert -1 <= opinion.polarity <= 1


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("", None),
        ("   ", None),
        ("12345", None),
        ("…！？", None),
        ("すごく良い", "other"),
        ("Очень плохо", "other"),
        ("정말 좋아요", "other"),
    ],
)
def test_nothing_is_guessed_where_nothing_can_be_told(sentiment: Sentiment, text: str, language: str | None) -> None:
    assert sentiment.score([text]) == [Opinion(None, None, language)]


def test_addresses_accounts_and_what_others_said_before_do_not_count(sentiment: Sentiment) -> None:
    said, others = "等快递到了再看", "垃圾，太差了，骗子"
    plain, reposted = sentiment.score([said, f"@love_great https://good.example/love {said}//@某人: {others}"])
    assert reposted == plain
    assert language_of("@小米质量太差") == "zh"
    assert sentiment.score(["@小米质量太差"])[0].polarity < 0  # the name of an account ends where nobody can see it


def test_a_huge_text_takes_no_longer_than_its_beginning_and_equal_texts_are_looked_at_once() -> None:
    looked_at = []

    class Counting(Sentiment):
        def _opinion(self, text: str) -> Opinion:
            looked_at.append(len(text))
            return super()._opinion(text)

    huge = "质量很好 " * 200_000
    opinions = Counting().score([huge, "good", huge, "good"])
    assert looked_at == [len(huge), 4]
    assert opinions[0] == opinions[2] == Sentiment().score(["质量很好 " * 400])[0]
    assert Sentiment().score([]) == []


def test_the_bench_counts_by_language_and_label(tmp_path: Path) -> None:
    file = tmp_path / "labelled.csv"
    file.write_text(
        "text,label\n"
        '"Love it, great",1\n'
        '"Worst ever, awful",positive\n'  # wrong on purpose, and the opposite of what is found
        '"Great, love it",neutral\n'
        "质量太差了，垃圾，再也不买了,negative\n"
    )
    content = bench_sentiment.run(file)
    assert [(r["language"], r["texts"], r["accuracy"], r["opposite"]) for r in content["results"]] == [
        ("en", 3, 0.333, 0.333),
        ("zh", 1, 1.0, 0.0),
        ("all", 4, 0.5, 0.25),
    ]
    found = {(r["language"], r["label"]): (r["precision"], r["recall"], r["f1"]) for r in content["labels"]}
    assert found["en", "positive"] == (0.5, 0.5, 0.5)
    assert found["en", "negative"] == (0.0, None, None)
    # Half of four: Wilson's interval, from its published formula by hand: (0.5 ± 0.3499)
    assert content["results"][2]["at_least"] == pytest.approx(0.150, abs=0.001)
    assert content["results"][2]["at_most"] == pytest.approx(0.850, abs=0.001)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text,mood\na,1\n", "has to name the columns text and label"),
        ("text,label\na,angry\n", "line 2: label 'angry' is none of negative, neutral, positive"),
        ("text,label\n", "no labelled texts"),
    ],
)
def test_the_bench_says_what_is_wrong_with_a_file(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "labelled.csv"
    file.write_text(content)
    with pytest.raises(OnefoldError, match=message):
        bench_sentiment.run(file)


POSTS = [
    "物流太慢了，失望",
    "质量很好，强烈推荐",
    "Delivered late, terrible",
    "Great value, love it",
    "准备去看看",
    "Where is the shop?",
    "包装破损，我要退货！",
    None,
]
MESSAGES = ["请问什么时候发货？", "I want to complain", "好的，谢谢", "太失望了，我要投诉", "Thank you", "When will it arrive?"]


def _rows(chance: random.Random) -> list[Row]:
    """Weeks of posts with a burst in the last; conversations of all kinds; answers to surveys."""
    rows: list[Row] = []
    for number in range(700):
        at = chance.choice([chance.uniform(0, 70), 7 * chance.randrange(10) + chance.uniform(0, 0.08)])
        rows.append(_post(number, at, chance))
    rows += [_post(1000 + number, 63 + number / 24 / 12, chance) for number in range(40)]  # more than three hours of it
    for conversation in range(120):
        at = chance.uniform(0, 70)
        known = {"user_id": f"u{chance.randrange(30)}"} if chance.random() < 0.8 else {}
        for number in range(chance.randrange(1, 7)):
            message = {
                "message_id": f"m{conversation}-{number}",
                "conversation_id": f"k{conversation}",
                "occurred_at": _at(at),
            } | known
            if chance.random() < 0.5:
                message |= {"direction": "in", "text": chance.choice(MESSAGES)}
            else:
                message |= {"direction": "out", "text": "We complain", "agent_id": chance.choice(["a1", "a2", None])}
            message |= {"status": chance.choice(["open", "waiting", "closed", None])}
            message |= {"csat_score": chance.choice([None, None, None, 1, 3, 4, 5, 9])}
            rows.append(("chat/messages", message))
            at += chance.choice([0, 0.001, 0.02, 0.05, 2])
    for contact in range(12):
        at = chance.uniform(0, 20)
        for number in range(chance.randrange(1, 20)):
            message = {"message_id": f"w{contact}-{number}", "external_user_id": f"x{contact}", "occurred_at": _at(at)}
            rows.append(
                ("wecom/messages", message | {"direction": chance.choice(["in", "out"]), "text": chance.choice(MESSAGES)})
            )
            at += chance.choice([0.01, 0.5, 1, 1.1, 5])
    for number in range(40):
        call = {"call_id": f"c{number}", "started_at": _at(chance.uniform(0, 70)), "phone": f"1381234{number:04}"}
        call |= {"direction": chance.choice(["in", "out"]), "duration_seconds": chance.choice([30, 600, None])}
        call |= {
            "outcome": chance.choice(["resolved", "Escalated", "callback", None]),
            "transcript": chance.choice([None, *MESSAGES]),
        }
        rows.append(("call/calls", call))
    for number in range(150):
        answer = {
            "response_id": f"r{number}",
            "survey_id": chance.choice(["s1", "s2"]),
            "answered_at": _at(chance.uniform(0, 70)),
        }
        questions = {
            "nps": {"score": chance.choice([0, 3, 6, 7, 8, 9, 10, 12])},
            "csat": {"answer": str(chance.choice([1, 2, 3, 4, 5, "?"]))},
            "why": {"answer": chance.choice(MESSAGES)},
        }
        for question in chance.sample(list(questions), chance.randrange(1, 4)):
            rows.append(("survey/responses", answer | {"question": question} | questions[question]))
    return rows


def _post(number: int, day: float, chance: random.Random) -> Row:
    post = {"interaction_id": f"p{number}", "platform": chance.choice(["weibo", "Instagram"]), "occurred_at": _at(day)}
    post |= {"kind": chance.choice(["mention", "comment", "share", "like", "message"]), "text": chance.choice(POSTS)}
    return "social/interactions", post | ({"user_id": f"u{chance.randrange(30)}"} if chance.random() < 0.8 else {})


def _corrections(rows: list[Row], chance: random.Random) -> list[Row]:
    """What comes later and takes the place of a row, as it is earlier: other conversations, kinds, hours, words and scores."""
    changed = []
    for place, row in chance.sample(rows, len(rows) // 12):
        time = next(name for name in ("occurred_at", "started_at", "answered_at") if name in row)
        earlier = (datetime.fromisoformat(row[time]) - timedelta(minutes=chance.choice([1, 90, 3000]))).isoformat()
        row = row | {time: earlier}
        if place == "chat/messages":
            row |= {"conversation_id": f"k{chance.randrange(130)}"}
        elif place == "call/calls":
            row |= {"direction": "out"}
        elif place == "social/interactions":
            row |= {"kind": chance.choice(["like", "mention"]), "text": chance.choice(POSTS)}
        elif row.get("question") == "nps":
            row |= {"score": 10}
        changed.append((place, row))
    return changed


def _at(day: float) -> str:
    return (START + timedelta(days=day)).replace(microsecond=0).isoformat()


@pytest.fixture(scope="module")
def landed() -> tuple[list[Row], list[Row]]:
    chance = random.Random(20261122)
    rows = _rows(chance)
    return rows, _corrections(rows, chance)


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory, landed: tuple[list[Row], list[Row]]) -> tuple[Home, Home]:
    """The same rows built at once, and in three batches in another order, the last with what corrects the others."""
    rows, corrections = landed
    once, batches = (Home(tmp_path_factory.mktemp(name) / "home").prepare() for name in ("once", "batches"))
    for home in (once, batches):
        (home.path / "onefold.yaml").write_text("default_time_zone: Asia/Shanghai\n")
    land_lines(once, "all", rows + corrections)
    build(once, *MODELS, as_of=AS_OF)
    shuffled = sorted(rows, key=lambda row: random.Random(str(row)).random())
    third = len(rows) // 3
    for number, part in enumerate([shuffled[:third], shuffled[third : 2 * third], shuffled[2 * third :] + corrections]):
        land_lines(batches, str(number), part)
        build(batches, *MODELS, as_of=AS_OF)
    return once, batches


@pytest.fixture(scope="module")
def truth(landed: tuple[list[Row], list[Row]]) -> "Truth":
    return Truth(landed[0] + landed[1])


class Truth:
    """What the landed rows say, by loops; of equal keys the earliest counts."""

    def __init__(self, rows: list[Row]) -> None:
        kept: dict[tuple, tuple[datetime, Row]] = {}
        for place, row in rows:
            (time,) = (row[name] for name in ("occurred_at", "started_at", "answered_at") if name in row)
            at = datetime.fromisoformat(time).astimezone(UTC).replace(tzinfo=None)
            ids = ("interaction_id", "message_id", "call_id", "response_id")
            key = (place, next(row[name] for name in ids if name in row), row.get("question"))
            if key not in kept or at < kept[key][0]:
                kept[key] = (at, (place, row))
        self.rows = defaultdict(list)
        for at, (place, row) in sorted(kept.values(), key=lambda each: each[0]):
            self.rows[place].append((at, row))
        texts = sorted({row[n] for _, row in rows for n in ("text", "transcript", "answer") if row.get(n)})
        self.label = dict(zip(texts, (opinion.label for opinion in Sentiment().score(texts)), strict=True)) | {None: None}

    def mentions(self) -> list[dict]:
        keywords = list(csv.DictReader((PROJECT_ROOT / "dbt/seeds/topics.csv").open()))
        found = []
        for at, row in self.rows["social/interactions"]:
            if row["kind"] in ("mention", "comment", "share"):
                words = re.findall(r"[a-z0-9]+", (row["text"] or "").lower())
                topics = {k["topic"] for k in keywords if self._is_about(k, row["text"] or "", words)} or {"other"}
                found.append(
                    row | {"at": at, "topics": topics, "platform": row["platform"].lower(), "label": self.label[row["text"]]}
                )
        return found

    @staticmethod
    def _is_about(keyword: dict, text: str, words: list[str]) -> bool:
        wanted = keyword["keyword"].lower()
        if keyword["language"] == "zh":
            return wanted in text.lower()
        parts = wanted.rstrip("*").split()
        for start in range(len(words) - len(parts) + 1):
            *whole, last = words[start : start + len(parts)]
            if whole == parts[:-1] and (last.startswith(parts[-1]) if wanted.endswith("*") else last == parts[-1]):
                return True
        return False

    def conversations(self) -> dict[tuple, dict]:
        """By channel, thread and the customer's first word."""
        threads = defaultdict(list)
        for at, row in self.rows["chat/messages"]:
            threads["chat", row["conversation_id"]].append((at, row | {"id": f"chat_messages:{row['message_id']}"}))
        contacts = defaultdict(list)
        for at, row in self.rows["wecom/messages"]:
            contacts[row["external_user_id"]].append((at, row | {"id": f"wecom_messages:{row['message_id']}"}))
        for contact, messages in contacts.items():
            last, part = None, 0
            for at, row in sorted(messages, key=lambda each: (each[0], each[1]["id"])):
                part += last is not None and at > last + OPEN_ENDED
                threads["wecom", f"{contact}#{part}"].append((at, row))
                last = at
        found = {}
        for (channel, thread), messages in threads.items():
            messages.sort(key=lambda each: (each[0], each[1]["id"]))
            own = [(at, row) for at, row in messages if row["direction"] == "in"]
            if own:
                found[channel, thread.split("#")[0], own[0][0]] = self._conversation(messages, own)
        for at, row in self.rows["call/calls"]:
            if row["direction"] == "in":
                outcome, text = (row["outcome"] or "").lower(), row["transcript"]
                closed = outcome == "resolved"
                found["call", row["call_id"], at] = {
                    "first": None,
                    "resolved": row["duration_seconds"] if closed else None,
                    "csat": None,
                    "complaint": "escalated" in outcome or _complains(text),
                    "sentiment": self.label[text],
                    "started_by": "customer",
                }
        return found

    def _conversation(self, messages: list[tuple], own: list[tuple]) -> dict:
        opened = own[0][0]
        replies = [(at, row) for at, row in messages if row["direction"] == "out"]
        if any(row.get("agent_id") for _, row in replies):
            replies_by_people = [at for at, row in replies if row.get("agent_id")]
        else:
            replies_by_people = [at for at, _ in replies]
        first = min((at for at in replies_by_people if at >= opened), default=None)
        states = [(at, row["id"], row["status"]) for at, row in messages if row.get("status")]
        closed = [at for at, _, status in states if status == "closed"]
        is_closed = bool(states) and max(states)[2] == "closed"
        scores = [(at, row["id"], row["csat_score"]) for at, row in messages if row.get("csat_score") in (1, 3, 4, 5)]
        csat = max(scores)[2] if scores else None
        labels = [self.label[row["text"]] for _, row in own if self.label[row["text"]]]
        balance = labels.count("positive") - labels.count("negative")
        by_words = ("positive" if balance > 0 else "negative" if balance < 0 else "neutral") if labels else None
        return {
            "first": (first - opened).total_seconds() if first else None,
            "resolved": (max(closed) - opened).total_seconds() if is_closed else None,
            "csat": csat,
            "complaint": any(_complains(row["text"]) for _, row in own),
            "sentiment": {1: "negative", 3: "neutral", 4: "positive", 5: "positive"}.get(csat, by_words),
            "started_by": "customer" if messages[0][0] >= opened else "company",
        }

    def answers(self) -> dict[tuple, dict]:
        responses = defaultdict(dict)
        for at, row in self.rows["survey/responses"]:
            responses[row["response_id"]][row["question"]] = (at, row)
        found = {}
        for response, questions in responses.items():
            ratings = {}
            for question, (_, row) in questions.items():
                value = row.get("score")
                if value is None and str(row.get("answer", "")).isdigit():
                    value = int(row["answer"])
                highest = {"nps": 10, "csat": 5}.get(question, -1)
                ratings[question] = value if value is not None and (question == "nps") <= 1 and value <= highest else None
            labels = {"nps": _nps(ratings.get("nps")), "csat": _csat(ratings.get("csat"))}
            for question, (at, row) in questions.items():
                by_words = self.label.get(row.get("answer"))
                own = labels.get(question) or labels["csat"] or labels["nps"] or by_words
                complains = labels.get(question) is None and _complains(row.get("answer"))
                found[response, question] = {
                    "at": at,
                    "survey": row["survey_id"],
                    "rating": ratings[question],
                    "label": own,
                    "complaint": complains,
                }
        return found


def _complains(text: str | None) -> bool:
    return bool(text) and ("complain" in text or "投诉" in text)


def _nps(score: int | None) -> str | None:
    return None if score is None else "positive" if score >= 9 else "neutral" if score >= 7 else "negative"


def _csat(score: int | None) -> str | None:
    return None if score is None else {1: "negative", 2: "negative", 3: "neutral", 4: "positive", 5: "positive"}[score]


def test_posts_have_the_topics_and_the_sentiment_of_their_words(homes: tuple[Home, Home], truth: Truth) -> None:
    rows = query(homes[1], "select event_id, platform, kind, occurred_at, topics, sentiment from analytics.mentions")
    wanted = {
        f"social_interactions:{m['interaction_id']}": (
            m["platform"],
            m["kind"],
            m["at"],
            ",".join(sorted(m["topics"])),
            m["label"],
        )
        for m in truth.mentions()
    }
    assert {event: tuple(rest) for event, *rest in rows} == wanted
    assert {label for *_, label in wanted.values()} == {"negative", "neutral", "positive", None}


def test_a_day_of_listening_counts_posts_people_and_sentiment(homes: tuple[Home, Home], truth: Truth) -> None:
    groups = defaultdict(list)
    for mention in truth.mentions():
        for platform in (mention["platform"], "(all)"):
            for topic in (*mention["topics"], "(all)"):
                groups[mention["at"].date(), platform, topic].append(mention)
    wanted = {}
    for key, mentions in groups.items():
        counts = [sum(m["label"] == label for m in mentions) for label in ("positive", "neutral", "negative")]
        net = (counts[0] - counts[2]) / sum(counts) if sum(counts) else None
        people = {m["user_id"] for m in mentions if "user_id" in m}
        wanted[key] = (len(mentions), len(people), *counts, pytest.approx(net) if net is not None else None)
    rows = query(
        homes[1],
        "select event_date, platform, topic, mention_count, author_count, positive_count, neutral_count, negative_count, "
        "net_sentiment from analytics.listening",
    )
    assert {tuple(row[:3]): tuple(row[3:]) for row in rows} == wanted


def test_spikes_are_hours_far_above_the_same_hour_of_the_weeks_before(homes: tuple[Home, Home], truth: Truth) -> None:
    counts, negatives = defaultdict(int), defaultdict(int)
    for mention in truth.mentions():
        hour = mention["at"].replace(tzinfo=UTC).astimezone(ZONE).replace(tzinfo=None, minute=0, second=0)
        for topic in (*mention["topics"], "(all)"):
            counts[hour, topic] += 1
            negatives[hour, topic] += mention["label"] == "negative"
    first = min(hour for hour, _ in counts)

    def is_spike(seen: dict, hour: datetime, topic: str) -> bool | None:
        before = [hour - timedelta(weeks=week) for week in range(1, 9) if hour - timedelta(weeks=week) >= first]
        if seen[hour, topic] < 5:
            return False
        if len(before) < 4:
            return None
        past = [seen.get((at, topic), 0) for at in before]
        middle = median(past)
        spread = max(1.4826 * median(abs(n - middle) for n in past), (middle + 1) ** 0.5)
        return seen[hour, topic] > middle + 3.5 * spread

    wanted = {key: (n, negatives[key], is_spike(counts, *key), is_spike(negatives, *key)) for key, n in counts.items()}
    rows = query(
        homes[1],
        "select hour_at, topic, mention_count, negative_count, is_spike, is_negative_spike, spike_since "
        "from analytics.listening_hours",
    )
    assert {tuple(row[:2]): tuple(row[2:6]) for row in rows} == wanted
    of_all = {row[0]: row[6] for row in rows if row[1] == "(all)" and row[4]}
    for hour, since in of_all.items():
        start = hour
        while start - timedelta(hours=1) in of_all:
            start -= timedelta(hours=1)
        assert since == start
    late = datetime(2025, 5, 5, 12)  # the tenth Monday, when posts went on after the hours in which other Mondays have many
    assert of_all[late] == late
    ordinary = [hour for hour, topic in counts if topic == "(all)" and hour not in of_all and hour > first + timedelta(weeks=5)]
    assert len(of_all) < 12 < len(ordinary)


def test_conversations_are_timed_rated_and_told_apart(homes: tuple[Home, Home], truth: Truth) -> None:
    rows = query(
        homes[1],
        "select channel, regexp_replace(thread_id, '^[a-z]+:', ''), opened_at, first_response_seconds, resolution_seconds, "
        "csat_score, is_complaint, sentiment, started_by from analytics.conversations",
    )
    wanted = {
        key: (c["first"], c["resolved"], c["csat"], c["complaint"], c["sentiment"], c["started_by"])
        for key, c in truth.conversations().items()
    }
    assert {tuple(row[:3]): tuple(row[3:]) for row in rows} == wanted
    assert {channel for channel, *_ in wanted} == {"chat", "wecom", "call"}
    assert sum(first is not None for first, *_ in wanted.values()) > 30


def test_a_day_of_satisfaction_adds_up(homes: tuple[Home, Home], truth: Truth) -> None:
    days = defaultdict(list)
    for (channel, _, opened), conversation in truth.conversations().items():
        days[opened.date(), channel, None].append(conversation)
    wanted = {}
    for (day, channel, _), items in days.items():
        awaited = [c for c in items if channel != "call" and c["started_by"] == "customer"]
        firsts = [c["first"] for c in awaited if c["first"] is not None]
        resolved = [c["resolved"] for c in items if c["resolved"] is not None]
        scores = [c["csat"] for c in items if c["csat"]]
        in_time = sum(first <= 3600 for first in firsts)
        wanted[day, channel, None] = (
            None,
            sum(score >= 4 for score in scores) / len(scores) if scores else None,
            sum(c["complaint"] for c in items),
            len(items),
            in_time / len(awaited) if awaited else None,
            median(firsts) if firsts else None,
            median(resolved) if resolved else None,
        )
    answered = defaultdict(list)
    for (response, question), answer in truth.answers().items():
        answered[answer["at"].date(), "survey", answer["survey"]].append((response, question, answer))
    for key, answers in answered.items():
        nps = [a["rating"] for _, question, a in answers if question == "nps" and a["rating"] is not None]
        csat = [a["rating"] for _, question, a in answers if question == "csat" and a["rating"] is not None]
        wanted[key] = (
            (sum(n >= 9 for n in nps) - sum(n <= 6 for n in nps)) / len(nps) if nps else None,
            sum(n >= 4 for n in csat) / len(csat) if csat else None,
            len({response for response, _, a in answers if a["complaint"]}),
            0,
            None,
            None,
            None,
        )
    rows = query(
        homes[1],
        "select event_date, channel, survey_id, nps, csat, complaint_count, conversation_count, answered_in_time, "
        "first_response_median_seconds, resolution_median_seconds from analytics.satisfaction",
    )
    found = {tuple(row[:3]): tuple(row[3:]) for row in rows}
    assert found.keys() == wanted.keys()
    for key, values in wanted.items():
        assert found[key] == tuple(value if value is None else pytest.approx(value) for value in values), key


def test_answers_take_their_sentiment_from_ratings_before_words(homes: tuple[Home, Home], truth: Truth) -> None:
    rows = query(homes[1], "select response_id, question, rating, sentiment, sentiment_basis from analytics.survey_answers")
    wanted = {key: (a["rating"], a["label"]) for key, a in truth.answers().items()}
    assert {tuple(row[:2]): tuple(row[2:4]) for row in rows} == wanted
    assert {row[4] for row in rows} == {"score", "text", None}


def test_any_batches_give_the_same_tables(homes: tuple[Home, Home]) -> None:
    once, batches = homes
    apart = {"customer_id", "_seq", "source_seq", "previous_thread_id"}
    tables = ("mentions", "listening", "mention_hours", "listening_hours", "conversations", "survey_answers", "satisfaction")
    for table in tables:
        columns = ", ".join(name for name, *_ in query(once, f"describe analytics.{table}") if name not in apart)
        rows = f"select {columns} from analytics.{table} order by all"
        assert query(batches, rows) == query(once, rows), table


def test_only_new_texts_are_scored_and_a_killed_run_is_taken_up(
    homes: tuple[Home, Home], monkeypatch: pytest.MonkeyPatch
) -> None:
    home, _ = homes
    seen: list[str] = []

    class Recording(Sentiment):
        def score(self, texts: list[str]) -> list[Opinion]:
            if len(seen) >= 6:
                raise KeyboardInterrupt  # as if the process was killed after three batches
            seen.extend(texts)
            return super().score(texts)

    def score(texts: list[str], seq: int, is_whole: bool = False) -> None:
        listed = ", ".join(f"('{text}', {seq})" for text in texts)
        query = f"select text, _seq, {is_whole} as is_whole from (values {listed}) as rows (text, _seq)"
        with home.connect("test") as connection:
            voice.score(connection, home, query, seq + 1, AS_OF)

    monkeypatch.setattr(voice, "_BATCH", 2)
    monkeypatch.setattr(voice, "_SCORER", Recording())
    texts = [f"good {number}" for number in range(7)]
    with pytest.raises(KeyboardInterrupt):
        score(texts + texts, seq=1_000)
    known = set(seen)
    seen.clear()
    score(texts, seq=1_000)
    assert known.isdisjoint(seen)
    assert known | set(seen) == set(texts)
    seen.clear()
    score([*texts, "good 7"], seq=2_000)
    assert seen == ["good 7"]
    seen.clear()
    score(texts[:2], seq=3_000, is_whole=True)  # a full build forgets what nobody says any more
    assert seen == []
    assert query(home, "select count(*), count(distinct text_id) from analytics.sentiments") == [(2, 2)]


def test_bi_sees_no_words(homes: tuple[Home, Home]) -> None:
    manifest = dbt.manifest(homes[0])
    for node in manifest["nodes"].values():
        if node["name"] in ("analytics_mentions", "analytics_conversations", "analytics_survey_answers"):
            assert not {"text", "answer", "subject", "transcript"} & set(node["columns"]), node["name"]
    served = {node["name"] for node in manifest["nodes"].values() if node["config"].get("meta", {}).get("public")}
    assert "analytics_sentiments" not in served
