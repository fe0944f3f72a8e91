"""What all people of one simulation share: the calendar, the price list, the campaigns, and where records go."""

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from simulator.exports import DAY, HOUR, MINUTE
from simulator.noise import Noise
from simulator.people import Person
from simulator.products import ANCHOR_RATES, Product, price_list

Emit = Callable[..., None]  # emit(export name, moment in ms, person, kind of traffic or None, **column values)
AD_PLATFORMS = {  # and the currency they bill in
    "tencent_ads": "CNY",
    "douyin_ads": "CNY",
    "xiaohongshu_ads": "CNY",
    "baidu_ads": "CNY",
    "google_ads": "USD",
    "meta_ads": "USD",
}


@dataclass(frozen=True)
class Campaign:
    """One campaign; its id is the campaign_id of messages and spend and the utm_campaign of the visits it brings."""

    campaign_id: str
    channel: str  # email, sms or ads
    at: int  # when a message goes out; for ads the first moment
    until: int  # for ads the last moment
    pull: float  # how well it works: multiplies the chance to open and click


@dataclass(frozen=True)
class World:
    """One simulated company. `start` and `end` in milliseconds since 1970 UTC; nothing happens outside them."""

    seed: int
    start: int
    end: int
    noise: Noise
    emit: Emit
    products: list[Product]
    by_category: dict[str, list[Product]]
    messages: list[Campaign]
    ads: list[Campaign]
    numbers: dict[str, int] = field(default_factory=dict)

    @property
    def days(self) -> int:
        return (self.end - self.start) // DAY

    def next_id(self, prefix: str) -> str:
        """A running number as systems give them: 'O-100001'."""
        self.numbers[prefix] = self.numbers.get(prefix, 100_000) + 1
        return f"{prefix}-{self.numbers[prefix]}"

    def is_open(self, at: int) -> bool:
        return self.start <= at < self.end


def build_world(seed: int, start: int, end: int, noise: Noise, emit: Emit) -> World:
    rng = Random(f"{seed}/world")
    products = price_list(rng)
    by_category: dict[str, list[Product]] = {}
    for product in products:
        by_category.setdefault(product.category, []).append(product)
    seasons = range(start, end, 30 * DAY)
    season_ids = {first: f"CMP-{number + 1:02d}-season" for number, first in enumerate(seasons)}
    messages, ads = [], []
    for number, first in enumerate(range(start + 3 * DAY, end, 14 * DAY)):
        season = season_ids[start + (first - start) // (30 * DAY) * 30 * DAY]
        campaign_id = season if number % 2 == 0 else f"CMP-newsletter-{number:02d}"
        messages.append(Campaign(campaign_id, "email", first + 2 * HOUR, end, rng.uniform(0.7, 1.4)))
        if number % 2 == 0:
            messages.append(Campaign(season, "sms", first + 3 * HOUR, end, rng.uniform(0.7, 1.4)))
    for platform in AD_PLATFORMS:
        ads.append(Campaign(f"CMP-always-{platform}", platform, start, end, rng.uniform(0.5, 1.5)))
    for number, first in enumerate(seasons):
        platform = list(AD_PLATFORMS)[number % len(AD_PLATFORMS)]
        ads.append(Campaign(season_ids[first], platform, first, min(end, first + 12 * DAY), rng.uniform(1, 2)))
    return World(seed, start, end, noise, emit, products, by_category, messages, ads)


def write_reference(world: World, people: int) -> None:
    """Products, exchange rates and advertising spend: exports about no person."""
    rng = Random(f"{world.seed}/reference")
    for product in world.products:
        price, cost = product.prices["CNY"] / 100, product.cost / 100
        world.emit(
            "catalog/products",
            world.start,
            None,
            product_id=product.product_id,
            name=f"{product.name} {product.english_name}",
            category=product.category,
            brand=product.brand,
            price=f"{price:.2f}",
            cost=f"{cost:.2f}",
            currency="CNY",
        )
    drift = dict.fromkeys(ANCHOR_RATES, 1.0)
    for at in range(world.start - 10 * DAY, world.end + DAY, DAY):
        for currency, anchor in ANCHOR_RATES.items():
            if currency != "CNY":
                drift[currency] += (1 - drift[currency]) * 0.05 + rng.gauss(0, 0.003)
            rate = f"{anchor * drift[currency]:.6f}"
            world.emit("external/fx_rates", at, None, currency=currency, rate_to_base=rate)
    for campaign in world.ads:
        currency = AD_PLATFORMS[campaign.channel]
        for at in range(campaign.at, campaign.until, DAY):
            clicks = max(1, round(people * rng.uniform(0.005, 0.012) * campaign.pull))
            cost = clicks * rng.uniform(0.8, 2.5) / ANCHOR_RATES[currency]
            world.emit(
                "ads/spend",
                at,
                None,
                platform=campaign.channel,
                campaign_id=campaign.campaign_id,
                impressions=clicks * rng.randint(40, 120),
                clicks=clicks,
                cost=f"{cost:.2f}",
                currency=currency,
            )


def moment(person: Person, rng: Random, first: int, last: int) -> int:
    """A moment between `first` and `last`, near the person's usual hour of the day at home."""
    at = first + int(rng.random() * (last - first))
    offset = person.city.utc_offset * MINUTE
    midnight = (at + offset) // DAY * DAY - offset
    usual = midnight + int((rng.gauss(person.hour, 2.2) % 24) * HOUR)
    return usual if first <= usual < last else at
