"""Visits to the web shop, the app and the mini program: from an advert or a message over products to an order."""

from random import Random

from simulator.exports import DAY, HOUR, MINUTE, Traffic
from simulator.people import COOKIE_LIFE, Person
from simulator.products import CATEGORIES, Product, money
from simulator.purchases import place_order
from simulator.service import after_order, chat
from simulator.vocabulary import BOT_AGENTS, OFFICE_NETWORK, USER_AGENTS
from simulator.world import Campaign, World, moment

SITE = "https://shop.onefold-sample.com"  # not below .example: pages there are tests, and rightly count for nobody
TEST_SITE = "https://shop.onefold.test"
SEARCH_ENGINES = {"CN": "https://www.baidu.com/", "other": "https://www.google.com/"}
LOGIN_CHANCE = {"web": 0.4, "app": 0.8, "mini_program": 0.6}
SHARED_LOGIN_CHANCE = 0.9  # two people on one device see their own orders only after a log-in


class Visit:
    """One session in progress: knows who is where, and moves its own clock (milliseconds) on with every event."""

    def __init__(self, world: World, rng: Random, person: Person, channel: str, at: int) -> None:
        self.world, self.rng, self.person, self.channel, self.at = world, rng, person, channel, at
        city, home = person.city, person.household
        self._fixed = {
            "session_id": f"s{rng.getrandbits(48):012x}",
            "user_agent": USER_AGENTS[channel][person.index % len(USER_AGENTS[channel])],
            "ip": f"{36 + home % 80}.{home // 80 % 250}.{home % 251}.{rng.randint(1, 8)}",
            "country": city.country,
            "utc_offset": f"{city.utc_offset // 60:+03d}:{city.utc_offset % 60:02d}",
        }
        self.anonymous_id = self._anonymous_id()
        if channel == "app":
            self._fixed["device_id"] = person.device_id
        elif channel == "mini_program":
            self._fixed["open_id"] = person.open_id
            self._fixed["union_id"] = person.union_id if rng.random() < 0.8 else None

    def _anonymous_id(self) -> str | None:
        person = self.person
        if self.channel == "app":
            return f"app-{person.device_id}"
        if self.channel == "mini_program":
            return f"mp-{person.open_id}"
        return f"w-{person.cookies[min((self.at - self.world.start) // COOKIE_LIFE, len(person.cookies) - 1)]}"

    def event(self, event_name: str, seconds: tuple[int, int] = (5, 90), kind: str = "track", **values: object) -> None:
        """Record the event and let `seconds` pass (drawn between the two)."""
        dwell = self.rng.randint(*seconds)
        self.world.emit(
            f"{self.channel}/events",
            self.at,
            self.person,
            event_id=f"{self.rng.getrandbits(80):020x}",
            event_name=event_name,
            anonymous_id=self.anonymous_id,
            type=kind,
            **self._fixed,
            **values,
        )
        self.at += dwell * 1000 + self.rng.randrange(1000)

    def page(self, path: str, title: str, **values: object) -> None:
        dwell = self.rng.randint(4, 120)
        self.event(
            "page_viewed",
            (dwell, dwell),
            "page" if self.channel == "web" else "screen",
            url=SITE + path,
            title=title,
            duration_seconds=dwell,
            **values,
        )

    def on_product(self, event_name: str, product: Product, **values: object) -> None:
        self.event(
            event_name,
            (6, 150),
            product_id=product.product_id,
            url=f"{SITE}/products/{product.product_id}",
            properties={"category": product.category, "brand": product.brand},
            **values,
        )

    def log_in(self) -> None:
        """Identify the visitor; the first time is a registration. All later events of the visit carry the user_id."""
        person, rng = self.person, self.rng
        is_first = person.registered_at >= self.world.start and abs(self.at - person.registered_at) < 2 * HOUR
        email, phone = person.email_at_random(rng), person.phone_at(self.at)
        traits = {"name": person.full_name, "language": "zh" if person.is_chinese else "en"}
        if rng.random() < 0.5:
            traits["email" if email else "phone"] = email or phone
        self.event(
            "signed_up" if is_first else "logged_in",
            (2, 20),
            "identify",
            user_id=person.user_id,
            traits=traits,
            email=email if rng.random() < 0.5 else None,
            phone=phone if rng.random() < 0.4 else None,
        )
        if is_first and rng.random() < 0.3:
            self.event("alias", (0, 1), "alias", user_id=person.user_id, previous_id=self.anonymous_id)
        if person.company and rng.random() < 0.1:
            self.event("group", (0, 1), "group", user_id=person.user_id, group_id=person.company)
        self._fixed["user_id"] = person.user_id


def visit(world: World, rng: Random, person: Person, at: int, channel: str, source: Campaign | None = None) -> None:
    """One whole session, with the order and the conversations it leads to; `source` is what brought it."""
    if not world.is_open(at):
        return
    steps = Visit(world, rng, person, channel, at)
    _arrive(steps, source)
    is_registering = person.user_id and 0 <= at - person.registered_at < HOUR
    login_chance = SHARED_LOGIN_CHANCE if person.shares_device else LOGIN_CHANCE[channel]
    if person.is_registered_at(at) and (is_registering or rng.random() < login_chance):
        steps.log_in()
    if rng.random() < 0.35 or person.lifecycle == "searcher":
        _search(steps)
    viewed = [_choose(steps) for _ in range(1 + min(6, int(rng.expovariate(0.7))))]
    for product in viewed:
        steps.on_product("product_viewed", product, title=product.name, duration_seconds=rng.randint(5, 200))
        chance = rng.random()
        if chance < 0.06:
            steps.on_product("product_liked", product)
        elif chance < 0.09:
            steps.on_product("product_shared", product)
        elif chance < 0.13:
            steps.event("video_played", (20, 240), properties={"video": f"review-{product.product_id}"})
        elif chance < 0.14:
            steps.event("downloaded", (3, 20), properties={"file": f"guide-{product.category}.pdf"})
    may_buy = not (person.lifecycle == "searcher" and at > world.end - 40 * DAY)
    if may_buy and rng.random() < person.buying:
        _buy(steps, viewed)
    elif rng.random() < 0.12:
        steps.on_product(
            "product_added", viewed[-1], quantity=1, amount=_price(person, viewed[-1]), currency=person.city.currency
        )
        if rng.random() < 0.35:
            steps.event("checkout_started", (20, 120), url=f"{SITE}/checkout")
    if rng.random() < 0.02 and person.user_id:
        chat(world, rng, person, steps.at + MINUTE, rng.choice(("product", "delivery")), steps.anonymous_id)


def _price(person: Person, product: Product) -> float:
    return float(money(product.prices[person.city.currency], person.city.currency))


def _arrive(steps: Visit, source: Campaign | None) -> None:
    """The first event, with the source of the visit."""
    rng, person = steps.rng, steps.person
    origin: dict[str, object] = {}
    if source:
        medium = source.channel if source.channel in ("email", "sms") else "cpc"
        origin = {"utm_source": source.channel, "utm_medium": medium, "utm_campaign": source.campaign_id}
    elif steps.channel == "web" and rng.random() < 0.4:
        origin = {"referrer": SEARCH_ENGINES.get(person.city.country, SEARCH_ENGINES["other"])}
    if steps.channel == "app":
        if steps.at - max(person.active_from, steps.world.start) < 5 * DAY and rng.random() < 0.3:
            steps.event("app_installed", (5, 40), **origin)
        steps.event("app_opened", (2, 10), **origin)
    else:
        steps.page("/" if not source else "/landing", "首页" if person.is_chinese else "Home", **origin)
    if rng.random() < 0.4:
        category = person.tastes[0]
        steps.page(
            f"/category/{category}",
            CATEGORIES[category].local_name if person.is_chinese else category.replace("_", " ").title(),
        )


def _search(steps: Visit) -> None:
    favourite = steps.rng.random() < 0.75
    category = steps.person.tastes[0] if favourite else steps.rng.choice(tuple(CATEGORIES))
    term = steps.rng.choice(CATEGORIES[category].searches)
    steps.event("searched", (5, 60), search_term=term, url=f"{SITE}/search", properties={"results": steps.rng.randint(0, 40)})


def _choose(steps: Visit) -> Product:
    """Two views in three are of the person's favourite categories; within a category the first products sell best."""
    rng, chance = steps.rng, steps.rng.random()
    if chance > 0.66:
        return steps.world.products[int(rng.random() * len(steps.world.products))]
    shelf = steps.world.by_category[steps.person.tastes[0 if chance < 0.46 else 1]]
    return shelf[int(rng.random() ** 2 * len(shelf))]


def _buy(steps: Visit, viewed: list[Product]) -> None:
    person, rng, world = steps.person, steps.rng, steps.world
    wanted = {viewed[-1].product_id: viewed[-1]}
    for _ in range(int(rng.expovariate(1 / (person.basket - 0.9)))):
        product = rng.choice(world.by_category[viewed[-1].category]) if rng.random() < 0.6 else _choose(steps)
        wanted[product.product_id] = product
    for product in list(wanted.values())[:5]:
        steps.on_product("product_added", product, quantity=1, amount=_price(person, product), currency=person.city.currency)
    steps.event("checkout_started", (30, 200), url=f"{SITE}/checkout")
    order = place_order(world, rng, person, steps.at + rng.randint(20, 400) * 1000, list(wanted.values())[:5])
    after_order(world, rng, person, order, steps.anonymous_id)


def browse(world: World, rng: Random, person: Person) -> None:
    """All unprompted visits of a person, some of them from adverts, and the one at which the person registers."""
    if person.user_id and person.registered_at >= world.start:
        visit(world, rng, person, person.registered_at + MINUTE, _online_channel(person, rng))
    for _ in range(person.sessions):
        at = moment(person, rng, person.active_from, person.active_until)
        source = None
        if rng.random() < (0.5 if person.lifecycle == "visitor" else 0.15):
            running = [campaign for campaign in world.ads if campaign.at <= at < campaign.until]
            source = rng.choices(running, [campaign.pull for campaign in running])[0] if running else None
        visit(world, rng, person, at, "web" if source else _online_channel(person, rng), source)


def _online_channel(person: Person, rng: Random) -> str:
    """Mostly the preferred channel, among those the person can use; families take the device they share."""
    if person.shares_device:
        return "app" if person.device_id and rng.random() < 0.5 else "web"
    usable = ["web"] + ["app"] * (person.device_id is not None) + ["mini_program"] * (person.open_id is not None)
    return person.channel if person.channel in usable and rng.random() < 0.7 else rng.choice(usable)


def visit_as_no_customer(world: World) -> None:
    """Robots on the web shop, too fast for a person, every second day; staff from the office's network every third day; the
    shop's own test every second week."""
    rng = Random(f"{world.seed}/robots")
    for number, first in enumerate(range(world.start, world.end, 2 * DAY)):
        agent, anonymous_id = rng.choice(BOT_AGENTS), f"w-{rng.getrandbits(96):024x}"
        _view(world, rng, first + 3 * HOUR, Traffic.BOT, anonymous_id, user_agent=agent, ip="66.249.66.1", country="US")
        if number % 7 == 0:
            test = {"ip": "10.0.0.8", "email": "test@onefold.example", "properties": {"is_test": True}, "site": TEST_SITE}
            _view(world, rng, first + 2 * HOUR, Traffic.TEST, "w-test-shop", user_agent=USER_AGENTS["web"][0], **test)
    rng = Random(f"{world.seed}/staff")
    for first in range(world.start, world.end, 3 * DAY):
        desk = rng.randrange(12)
        seat = {"ip": f"{OFFICE_NETWORK.removesuffix('0/24')}{desk + 10}", "country": "CN", "utc_offset": "+08:00"}
        agent = USER_AGENTS["web"][desk % len(USER_AGENTS["web"])]
        _view(world, rng, first + 4 * HOUR, Traffic.STAFF, f"w-office-{desk}", pause=20_000, user_agent=agent, **seat)


def _view(
    world: World,
    rng: Random,
    at: int,
    traffic: Traffic,
    anonymous_id: str,
    site: str = SITE,
    pause: int = 700,
    **values: object,
) -> None:
    """One session of product pages, `pause` milliseconds each."""
    session_id = f"s{rng.getrandbits(48):012x}"
    for _ in range(rng.randint(5, 25)):
        product = rng.choice(world.products)
        world.emit(
            "web/events",
            at,
            traffic,
            event_id=f"{rng.getrandbits(80):020x}",
            event_name="page_viewed",
            anonymous_id=anonymous_id,
            session_id=session_id,
            type="page",
            url=f"{site}/products/{product.product_id}",
            title=product.name,
            **values,
        )
        at += pause
