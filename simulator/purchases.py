"""Orders and refunds of the web shop, receipts of the stores; amounts in minor units (fen, cents, yen)."""

from dataclasses import dataclass
from random import Random

from simulator.exports import DAY, HOUR
from simulator.people import Person
from simulator.products import Product, money
from simulator.world import World, moment


@dataclass(frozen=True, slots=True)
class Line:
    product: Product
    quantity: int
    unit_price: int

    @property
    def amount(self) -> int:
        return self.quantity * self.unit_price


@dataclass(frozen=True, slots=True)
class Order:
    order_id: str
    at: int
    lines: list[Line]
    is_cancelled: bool


def _lines(rng: Random, products: list[Product], currency: str) -> list[Line]:
    return [Line(product, 1 + (rng.random() < 0.15), product.prices[currency]) for product in products]


def _emit_lines(
    world: World, export: str, key: str, number: str, at: int, person: Person, lines: list[Line], currency: str
) -> None:
    for line_number, line in enumerate(lines, start=1):
        world.emit(
            export,
            at,
            person,
            line_number=line_number,
            product_id=line.product.product_id,
            quantity=line.quantity,
            unit_price=money(line.unit_price, currency),
            **{key: number},
        )


def place_order(world: World, rng: Random, person: Person, at: int, products: list[Product]) -> Order:
    """An order with its lines and, in part, a refund; amount = Σ quantity × unit_price − discount."""
    currency = person.city.currency if rng.random() > 0.01 else "USD"
    lines = _lines(rng, products, currency)
    total = sum(line.amount for line in lines)
    has_coupon = rng.random() < person.coupon
    discount = total * rng.choice((5, 10, 15, 20)) // 100 if has_coupon else 0
    is_cancelled = rng.random() < 0.03
    refunded = not is_cancelled and rng.random() < 0.04 + 0.08 * (1 - person.mood)
    refund_at = at + int(rng.uniform(1.5, 12) * DAY)
    is_member = person.is_registered_at(at) and rng.random() < 0.9
    phone, email = person.phone_at(at), person.email_at_random(rng)
    gives_phone = phone is not None and rng.random() < 0.75
    order = Order(world.next_id("O"), at, lines, is_cancelled)
    if is_cancelled:
        status = "cancelled"
    elif refunded and len(lines) == 1 and world.is_open(refund_at):
        status = "refunded"
    elif at > world.end - 5 * DAY:
        status = rng.choice(("paid", "shipped"))
    else:
        status = "completed"
    world.emit(
        "orders/orders",
        at,
        person,
        order_id=order.order_id,
        status=status,
        amount=money(total - discount, currency),
        currency=currency,
        discount=money(discount, currency),
        coupon=f"SAVE{discount * 100 // total}" if discount else None,
        user_id=person.user_id if is_member else None,
        phone=spell_phone(phone, rng) if gives_phone else None,
        email=email if not gives_phone or rng.random() < 0.5 else None,
        shipping_city=person.city.local_name if rng.random() < 0.7 else person.city.name,
        shipping_country=person.city.country,
    )
    _emit_lines(world, "orders/order_items", "order_id", order.order_id, at, person, lines, currency)
    if refunded:
        line = lines[0]
        world.emit(
            "orders/refunds",
            refund_at,
            person,
            refund_id=world.next_id("RF"),
            amount=money(line.amount * (total - discount) // total, currency),
            currency=currency,
            order_id=order.order_id,
            user_id=person.user_id if is_member else None,
            product_id=line.product.product_id,
            quantity=line.quantity,
        )
    return order


def shop_in_store(world: World, rng: Random, person: Person) -> None:
    """Receipts of the stores at home (China and Hong Kong); members and some others leave a trace of who they are."""
    if not person.is_chinese or person.lifecycle == "searcher":
        return
    likes_stores = person.channel == "store"
    half_years = (person.active_until - person.active_from) / (180 * DAY)
    for _ in range(int(rng.expovariate(1 / ((4.0 if likes_stores else 0.9) * half_years)))):
        at = moment(person, rng, person.active_from, person.active_until)
        at = (at + 8 * HOUR) // DAY * DAY + rng.randint(2 * 3600, 13 * 3600) * 1000  # ten in the morning to nine at night
        if world.is_open(at):
            _receipt(world, rng, person, at)


def _receipt(world: World, rng: Random, person: Person, at: int) -> None:
    currency = "HKD" if person.city.country == "HK" else "CNY"
    shelf = world.by_category[person.tastes[0]] if rng.random() < 0.6 else world.products
    products = {product.product_id: product for product in rng.choices(shelf, k=rng.choice((1, 1, 2, 3)))}
    lines = _lines(rng, list(products.values()), currency)
    shown = person.member_id if person.member_id and rng.random() < 0.8 else None
    phone = person.phone_at(at)
    named = {
        "store_id": f"S-{person.city.name[:2].upper()}-{1 + person.index % 2:02d}",
        "member_id": shown,
        "phone": spell_phone(phone, rng) if phone and rng.random() < 0.35 else None,
    }
    receipts = [("sale", at, lines)]
    if rng.random() < 0.04:
        receipts.append(("refund", at + int(rng.uniform(1, 10)) * DAY, lines[:1]))
    for kind, sold_at, sold in receipts:
        number = world.next_id("R")
        amount = money(sum(line.amount for line in sold), currency)
        world.emit("pos/receipts", sold_at, person, receipt_id=number, kind=kind, amount=amount, currency=currency, **named)
        _emit_lines(world, "pos/receipt_items", "receipt_id", number, sold_at, person, sold, currency)


def spell_phone(phone: str, rng: Random) -> str:
    """A number as people write it: Chinese ones mostly without the country code, all others with it."""
    if not phone.startswith("+86"):
        return phone if rng.random() < 0.7 else "00" + phone[1:]
    digits, chance = phone[3:], rng.random()
    if chance < 0.6:
        return digits
    if chance < 0.75:
        return f"{digits[:3]} {digits[3:7]} {digits[7:]}"
    if chance < 0.85:
        return f"+86-{digits[:3]}-{digits[3:7]}-{digits[7:]}"
    return phone if chance < 0.95 else f"86{digits}"
