"""What people say: to customer service by chat and telephone, to their WeCom adviser, in public, and in surveys."""

from random import Random

from simulator.exports import DAY, HOUR, MINUTE
from simulator.people import Person
from simulator.phrases import (
    CALLS,
    CLOSINGS,
    FOLLOW_UPS,
    LIFESTYLE_QUESTIONS,
    OPENINGS,
    POSTS,
    REPLIES,
    WECOM_FROM_ADVISER,
    WECOM_FROM_CUSTOMER,
    say,
)
from simulator.purchases import Order, spell_phone
from simulator.world import World, moment

AGENTS = 12
OUTAGE_DAYS_BEFORE_END = 20  # one day on which parcels are late and the public complains


def after_order(world: World, rng: Random, person: Person, order: Order, anonymous_id: str | None) -> None:
    """What an order leads to: questions, complaints, a satisfaction survey, a post about the product."""
    if order.is_cancelled:
        return
    delivered_at = order.at + int(rng.uniform(2, 6) * DAY)
    unhappy = rng.random() > person.mood
    if rng.random() < (0.3 if unhappy else 0.08):
        topic = rng.choice(("complaint", "complaint", "refund", "delivery") if unhappy else ("delivery", "product"))
        if person.phone and rng.random() < 0.35:
            call(world, rng, person, delivered_at + 3 * HOUR, topic == "complaint")
        else:
            chat(world, rng, person, delivered_at + HOUR, topic, anonymous_id)
    if rng.random() < 0.12:
        answered_at = delivered_at + DAY
        identity = _survey_identity(person, rng, answered_at)
        nps = max(0, min(10, round(rng.gauss(3.5 if unhappy else 8.6, 1.8))))
        csat = max(1, min(5, round(rng.gauss(2 if unhappy else 4.4, 0.7))))
        _answer(world, person, answered_at, "post-purchase", "nps", str(nps), nps, identity)
        _answer(world, person, answered_at + 20_000, "post-purchase", "csat", str(csat), csat, identity)
    if rng.random() < 0.06:
        product = order.lines[0].product
        name = product.name if person.is_chinese else product.english_name
        _post(world, rng, person, delivered_at + 6 * HOUR, "negative" if unhappy else "positive", "comment", name)


def chat(world: World, rng: Random, person: Person, at: int, topic: str, anonymous_id: str | None) -> None:
    """One conversation; most are closed with a score from 1 to 5, complaints with lower ones and after longer waits."""
    conversation_id = world.next_id("CV")
    identity: dict[str, object] = {}
    chance = rng.random()
    if chance < 0.55 and person.is_registered_at(at):
        identity["user_id"] = person.user_id
    elif chance < 0.7 and person.email:
        identity["email"] = person.email_at_random(rng)
    elif chance < 0.8 and person.phone_at(at):
        identity["phone"] = spell_phone(person.phone_at(at), rng)
    if not identity or rng.random() < 0.3:
        identity["anonymous_id"] = anonymous_id
    agent_id, chinese = f"A{rng.randint(1, AGENTS):02d}", person.is_chinese
    script = [("in", say(OPENINGS[topic], rng, chinese), "open"), ("out", say(REPLIES, rng, chinese), "waiting")]
    for _ in range(rng.choice((0, 0, 1, 2))):
        script += [("in", say(FOLLOW_UPS, rng, chinese), "open"), ("out", say(REPLIES, rng, chinese), "waiting")]
    if rng.random() < (0.8 if topic == "complaint" else 0.93):
        script.append(("out", say(CLOSINGS, rng, chinese), "closed"))
    for direction, text, status in script:
        is_closed = status == "closed"
        score = max(1, min(5, round(rng.gauss(2.2 if topic == "complaint" else 4.3, 0.9)))) if is_closed else None
        world.emit(
            "chat/messages",
            at,
            person,
            message_id=f"m{rng.getrandbits(64):016x}",
            conversation_id=conversation_id,
            direction=direction,
            agent_id=agent_id if direction == "out" else None,
            text=text,
            status=status,
            csat_score=score if rng.random() < 0.7 else None,
            **identity,
        )
        at += int(rng.expovariate(1 / (25 if topic == "complaint" else 8)) * MINUTE) + 20_000


def call(world: World, rng: Random, person: Person, at: int, is_complaint: bool) -> None:
    phone = person.phone_at(at)
    if phone is None:
        return
    kind = "complaint" if is_complaint else "question"
    world.emit(
        "call/calls",
        at,
        person,
        call_id=world.next_id("CALL"),
        direction="in" if rng.random() < 0.85 else "out",
        phone=spell_phone(phone, rng),
        duration_seconds=rng.randint(40, 900),
        agent_id=f"A{rng.randint(1, AGENTS):02d}",
        outcome=rng.choice(("resolved", "resolved", "callback", "escalated" if is_complaint else "voicemail")),
        transcript=say(CALLS[kind], rng, person.is_chinese),
    )


def _post(world: World, rng: Random, person: Person, at: int, mood: str, kind: str, product: str) -> None:
    tells_account = person.is_registered_at(at) and rng.random() < 0.15  # shops that link the social account know the user
    has_text = kind in ("mention", "comment", "message")
    world.emit(
        "social/interactions",
        at,
        person,
        interaction_id=f"i{rng.getrandbits(64):016x}",
        platform=person.platform,
        kind=kind,
        handle=person.handle,
        user_id=person.user_id if tells_account else None,
        author_name=person.handle.split("_")[0] if rng.random() < 0.5 else person.full_name,
        text=say(POSTS[mood], rng, person.is_chinese, product) if has_text else None,
        url=f"https://{person.platform}.example/p/{rng.getrandbits(40):010x}",
    )


def speak_in_public(world: World, rng: Random, person: Person) -> None:
    """Likes, follows and mentions of a quarter of all people, and complaints of some on the day of the outage."""
    if rng.random() < 0.25:
        for _ in range(1 + int(rng.expovariate(0.45))):
            at = moment(person, rng, person.active_from, person.active_until)
            kind = rng.choice(("like", "like", "like", "follow", "share", "mention", "comment", "message"))
            mood = "neutral" if rng.random() < 0.3 else "positive" if rng.random() < person.mood else "negative"
            product = rng.choice(world.by_category[person.tastes[0]])
            _post(world, rng, person, at, mood, kind, product.name if person.is_chinese else product.english_name)
    outage = max(world.start, world.end - OUTAGE_DAYS_BEFORE_END * DAY)
    if rng.random() < 0.03 and person.active_until > outage:
        at = moment(person, rng, outage, outage + DAY)
        if at < world.end:
            _post(world, rng, person, at, "outage", "mention", "")


def answer_surveys(world: World, rng: Random, person: Person) -> None:
    """The psychographic survey, which a fifth of the known people take once, and the NPS that some add."""
    if person.lifecycle == "visitor" or rng.random() > 0.2:
        return
    at = moment(person, rng, person.active_from, person.active_until)
    identity = _survey_identity(person, rng, at)
    for number, (question, answers) in enumerate(LIFESTYLE_QUESTIONS.items()):
        # People of a kind answer alike: the favourite category decides in two cases of three.
        typical = answers[(sum(map(ord, person.tastes[0])) + number) % len(answers)]
        answer = typical if rng.random() < 0.66 else rng.choice(answers)
        _answer(world, person, at + number * 15_000, "lifestyle", question, answer, None, identity)
    if rng.random() < 0.5:
        nps = max(0, min(10, round(2 + 8 * person.mood + rng.gauss(0, 1.2))))
        _answer(world, person, at + 60_000, "lifestyle", "nps", str(nps), nps, identity)


def _survey_identity(person: Person, rng: Random, at: int) -> dict[str, object]:
    if person.is_registered_at(at) and rng.random() < 0.6:
        return {"user_id": person.user_id}
    phone = person.phone_at(at)
    if person.email and (phone is None or rng.random() < 0.6):
        return {"email": person.email_at_random(rng)}
    return {"phone": spell_phone(phone, rng)} if phone else {}


def _answer(
    world: World,
    person: Person,
    at: int,
    survey_id: str,
    question: str,
    answer: str,
    score: int | None,
    identity: dict[str, object],
) -> None:
    world.emit(
        "survey/responses",
        at,
        person,
        response_id=world.next_id("SR"),
        survey_id=survey_id,
        question=question,
        answer=answer,
        score=score,
        **identity,
    )


def talk_to_adviser(world: World, rng: Random, person: Person) -> None:
    """WeCom: the store's adviser writes about every three weeks, and some people answer."""
    if person.external_user_id is None:
        return
    at = max(world.start, person.registered_at) + int(rng.uniform(1, 21) * DAY)
    while at < world.end:
        said = [("out", WECOM_FROM_ADVISER)]
        if rng.random() < 0.35 and person.active_from <= at < person.active_until:
            said.append(("in", WECOM_FROM_CUSTOMER))
        for direction, phrases in said:
            world.emit(
                "wecom/messages",
                at,
                person,
                message_id=f"wx{rng.getrandbits(64):016x}",
                external_user_id=person.external_user_id,
                direction=direction,
                text=say(phrases, rng, person.is_chinese),
            )
            at += rng.randint(60, 7200) * 1000
        at += int(rng.uniform(14, 28) * DAY)
