"""What the sample company sells, where, and in which currencies."""

from dataclasses import dataclass
from random import Random


@dataclass(frozen=True, slots=True)
class Category:
    """A shelf: its typical price in CNY, two brands, four (Chinese, English) products, and what people search for."""

    local_name: str
    typical_price: int
    brands: tuple[str, str]
    words: tuple[tuple[str, str], ...]
    searches: tuple[str, ...]


CATEGORIES: dict[str, Category] = {
    "skincare": Category(
        "护肤", 220, ("Lumière", "沐岚"),
        (
            ("保湿面霜", "Moisturising Cream"), ("舒缓精华", "Soothing Serum"),
            ("洁面乳", "Cleanser"), ("防晒霜", "Sunscreen"),
        ),
        ("敏感肌 面霜", "sunscreen spf50", "精华", "保湿"),
    ),
    "makeup": Category(
        "彩妆", 160, ("Velours", "花知"),
        (
            ("哑光口红", "Matte Lipstick"), ("粉底液", "Foundation"),
            ("眼影盘", "Eyeshadow Palette"), ("睫毛膏", "Mascara"),
        ),
        ("口红", "粉底液 干皮", "matte lipstick"),
    ),
    "mother_baby": Category(
        "母婴", 190, ("Kindling", "贝安"),
        (
            ("婴儿纸尿裤", "Baby Nappies"), ("孕妇护肤套装", "Maternity Skin Set"),
            ("婴儿奶瓶", "Baby Bottle"), ("儿童水杯", "Kids Cup"),
        ),
        ("孕妇 护肤品", "纸尿裤 NB", "baby bottle"),
    ),
    "health": Category(
        "健康", 130, ("Vitalis", "和本"),
        (
            ("复合维生素", "Multivitamin"), ("血糖仪", "Glucose Meter"),
            ("益生菌", "Probiotics"), ("助眠软糖", "Sleep Gummies"),
        ),
        ("维生素", "益生菌", "sleep gummies"),
    ),
    "home": Category(
        "家居", 260, ("Hearth", "木白"),
        (
            ("亚麻四件套", "Linen Bedding"), ("香薰蜡烛", "Scented Candle"),
            ("陶瓷餐具", "Ceramic Tableware"), ("收纳箱", "Storage Box"),
        ),
        ("四件套", "香薰", "linen bedding"),
    ),
    "snacks": Category(
        "零食", 45, ("Nibble", "三禾"),
        (
            ("每日坚果", "Daily Nuts"), ("黑巧克力", "Dark Chocolate"),
            ("冻干草莓", "Dried Strawberries"), ("挂耳咖啡", "Drip Coffee"),
        ),
        ("坚果", "挂耳咖啡", "dark chocolate"),
    ),
    "sports": Category(
        "运动", 340, ("Stride", "跃野"),
        (
            ("跑步鞋", "Running Shoes"), ("瑜伽垫", "Yoga Mat"),
            ("运动背心", "Sports Top"), ("筋膜枪", "Massage Gun"),
        ),
        ("跑步鞋 男", "yoga mat", "筋膜枪"),
    ),
    "electronics": Category(
        "数码", 620, ("Auralis", "极屿"),
        (
            ("降噪耳机", "Noise-Cancelling Headphones"), ("智能手表", "Smart Watch"),
            ("移动电源", "Power Bank"), ("蓝牙音箱", "Bluetooth Speaker"),
        ),
        ("降噪耳机", "smart watch", "充电宝"),
    ),
}  # fmt: skip

# Units of base currency (CNY) for one unit, around which the daily rates wander.
ANCHOR_RATES: dict[str, float] = {"CNY": 1.0, "USD": 7.15, "EUR": 7.85, "JPY": 0.048, "HKD": 0.915}
MINOR_UNITS: dict[str, int] = {"CNY": 100, "USD": 100, "EUR": 100, "JPY": 1, "HKD": 100}


@dataclass(frozen=True, slots=True)
class Product:
    """One article; `prices` in minor units (fen, cents, yen) by currency, `cost` in fen."""

    product_id: str
    name: str
    english_name: str
    category: str
    brand: str
    cost: int
    prices: dict[str, int]


def price_list(rng: Random) -> list[Product]:
    """Sixty-four products: eight in each of the eight categories."""
    products = []
    for name, category in CATEGORIES.items():
        for number in range(8):
            chinese, english = category.words[number % 4]
            brand = category.brands[number // 4]
            price = round(category.typical_price * rng.uniform(0.5, 1.9)) * 100 - 10
            products.append(
                Product(
                    product_id=f"SKU-{len(products) + 1001}",
                    name=f"{brand} {chinese}",
                    english_name=f"{brand} {english}",
                    category=name,
                    brand=brand,
                    cost=round(price * rng.uniform(0.35, 0.6)),
                    prices={
                        currency: max(1, round(price / 100 / rate * MINOR_UNITS[currency]))
                        for currency, rate in ANCHOR_RATES.items()
                    },
                )
            )
    return products


def money(minor: int, currency: str) -> str:
    """An amount in minor units as the text of an export: '199.90', or '2980' where the currency has no decimals."""
    if MINOR_UNITS[currency] == 1:
        return str(minor)
    return f"{minor // 100}.{minor % 100:02d}"
