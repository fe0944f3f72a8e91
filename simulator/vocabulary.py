"""Names, cities and words the sample company's customers are made of.

Every phone prefix below belongs to a range that is in use, so that a library such as phonenumbers accepts the numbers.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class City:
    """A home town: names, where it lies, and what people there pay in; `utc_offset` in minutes east of Greenwich."""

    name: str
    local_name: str
    region: str
    country: str
    country_name: str
    postal_prefix: str
    utc_offset: int
    currency: str
    weight: float

    @property
    def speaks_chinese(self) -> bool:
        return self.country in ("CN", "HK")


def _chinese(name: str, local_name: str, region: str, postal_prefix: str, weight: float) -> City:
    return City(name, local_name, region, "CN", "中国", postal_prefix, 480, "CNY", weight)


# Offsets are standard time all year: a summer-time rule would change no test of the platform, only add a table here.
CITIES: tuple[City, ...] = (
    _chinese("Shanghai", "上海", "上海市", "20000", 16),
    _chinese("Beijing", "北京", "北京市", "10000", 14),
    _chinese("Guangzhou", "广州", "广东省", "51000", 9),
    _chinese("Shenzhen", "深圳", "广东省", "51800", 9),
    _chinese("Chengdu", "成都", "四川省", "61000", 7),
    _chinese("Hangzhou", "杭州", "浙江省", "31000", 7),
    _chinese("Wuhan", "武汉", "湖北省", "43000", 5),
    _chinese("Nanjing", "南京", "江苏省", "21000", 5),
    _chinese("Xi'an", "西安", "陕西省", "71000", 4),
    _chinese("Qingdao", "青岛", "山东省", "26600", 3),
    _chinese("Luoyang", "洛阳", "河南省", "47100", 2),
    _chinese("Dali", "大理", "云南省", "67100", 1),
    City("Hong Kong", "香港", "Hong Kong", "HK", "Hong Kong", "", 480, "HKD", 4),
    City("New York", "New York", "NY", "US", "United States", "1000", -300, "USD", 3),
    City("San Francisco", "San Francisco", "CA", "US", "United States", "9410", -480, "USD", 3),
    City("Berlin", "Berlin", "Berlin", "DE", "Deutschland", "1011", 60, "EUR", 2),
    City("Paris", "Paris", "Île-de-France", "FR", "France", "7500", 60, "EUR", 2),
    City("Tokyo", "東京", "東京都", "JP", "日本", "100000", 540, "JPY", 3),
    City("Singapore", "Singapore", "Singapore", "SG", "Singapore", "01820", 480, "USD", 1),
)

COUNTRY_SPELLINGS: dict[str, tuple[str, ...]] = {
    "CN": ("CN", "China", "中国", "CHN", "cn"),
    "HK": ("HK", "Hong Kong", "香港"),
    "US": ("US", "USA", "United States"),
    "DE": ("DE", "Germany", "Deutschland"),
    "FR": ("FR", "France"),
    "JP": ("JP", "Japan", "日本"),
    "SG": ("SG", "Singapore"),
}

# country: (country code, prefixes, digits after the prefix)
PHONE_PLANS: dict[str, tuple[str, tuple[str, ...], int]] = {
    "CN": ("+86", ("135", "136", "138", "139", "150", "158", "159", "177", "182", "186", "188", "189"), 8),
    "HK": ("+852", ("61", "63", "65", "94", "96", "97"), 6),
    "US": ("+1", ("21273", "41586", "61783", "31092", "71849", "62873", "20655", "51273"), 5),
    "DE": ("+49", ("1511", "1512", "1515", "1516"), 7),
    "FR": ("+33", ("61", "62", "66", "68"), 7),
    "JP": ("+81", ("901", "903", "908", "802", "805"), 7),
    "SG": ("+65", ("91", "92", "96", "81", "82"), 6),
}

# Characters with their romanisation: e-mail addresses and Latin spellings are built from the second.
FAMILY_NAMES: tuple[tuple[str, str], ...] = (
    ("张", "zhang"), ("王", "wang"), ("李", "li"), ("刘", "liu"), ("陈", "chen"), ("杨", "yang"), ("黄", "huang"),
    ("赵", "zhao"), ("吴", "wu"), ("周", "zhou"), ("徐", "xu"), ("孙", "sun"), ("马", "ma"), ("朱", "zhu"),
    ("胡", "hu"), ("郭", "guo"), ("何", "he"), ("林", "lin"), ("高", "gao"), ("罗", "luo"), ("郑", "zheng"),
    ("梁", "liang"), ("谢", "xie"), ("宋", "song"), ("唐", "tang"), ("许", "xu"), ("韩", "han"), ("冯", "feng"),
    ("邓", "deng"), ("曹", "cao"), ("彭", "peng"), ("曾", "zeng"), ("萧", "xiao"), ("田", "tian"), ("董", "dong"),
    ("潘", "pan"), ("袁", "yuan"), ("蔡", "cai"), ("蒋", "jiang"), ("余", "yu"), ("杜", "du"), ("叶", "ye"),
    ("程", "cheng"), ("魏", "wei"), ("苏", "su"), ("吕", "lv"), ("丁", "ding"), ("任", "ren"), ("沈", "shen"),
    ("姚", "yao"), ("卢", "lu"), ("姜", "jiang"), ("崔", "cui"), ("钟", "zhong"),
)  # fmt: skip
GIVEN_NAMES: dict[str, tuple[tuple[str, str], ...]] = {
    "male": (
        ("伟", "wei"), ("强", "qiang"), ("磊", "lei"), ("军", "jun"), ("洋", "yang"), ("勇", "yong"), ("杰", "jie"),
        ("涛", "tao"), ("明", "ming"), ("超", "chao"), ("浩然", "haoran"), ("子轩", "zixuan"), ("宇航", "yuhang"),
        ("建国", "jianguo"), ("志强", "zhiqiang"), ("文博", "wenbo"), ("俊杰", "junjie"), ("天宇", "tianyu"),
        ("一鸣", "yiming"), ("晓东", "xiaodong"), ("博文", "bowen"), ("嘉豪", "jiahao"), ("振华", "zhenhua"),
        ("思远", "siyuan"), ("家明", "jiaming"), ("国栋", "guodong"), ("海涛", "haitao"), ("瑞", "rui"),
    ),
    "female": (
        ("芳", "fang"), ("娜", "na"), ("敏", "min"), ("静", "jing"), ("丽", "li"), ("艳", "yan"), ("娟", "juan"),
        ("霞", "xia"), ("秀英", "xiuying"), ("雨涵", "yuhan"), ("梓涵", "zihan"), ("欣怡", "xinyi"), ("诗涵", "shihan"),
        ("佳怡", "jiayi"), ("晓梅", "xiaomei"), ("婷婷", "tingting"), ("雪", "xue"), ("慧", "hui"), ("倩", "qian"),
        ("思思", "sisi"), ("美玲", "meiling"), ("雅琴", "yaqin"), ("若曦", "ruoxi"), ("语嫣", "yuyan"),
        ("春梅", "chunmei"), ("玉兰", "yulan"), ("梦洁", "mengjie"), ("琳", "lin"),
    ),
}  # fmt: skip
WESTERN_NAMES: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    # country: male, female, family
    "US": (
        ("James", "Robert", "Michael", "William", "David", "Joseph", "Daniel", "Christopher", "Andrew", "Matthew"),
        ("Mary", "Jennifer", "Elizabeth", "Susan", "Jessica", "Sarah", "Katherine", "Emily", "Olivia", "Margaret"),
        ("Smith", "Johnson", "Williams", "Brown", "Garcia", "Miller", "Davis", "Rodriguez", "O'Connor", "Lee"),
    ),
    "DE": (
        ("Jürgen", "Thomas", "Stefan", "Lukas", "Maximilian", "Jörg", "Felix"),
        ("Anna", "Käthe", "Sabine", "Julia", "Lena", "Ursula", "Hannah"),
        ("Müller", "Schmidt", "Schneider", "Fischer", "Weiß", "Schäfer", "von der Heide"),
    ),
    "FR": (
        ("Jean", "Pierre", "François", "Théo", "Hugo", "Étienne", "Luc"),
        ("Marie", "Hélène", "Camille", "Chloé", "Zoé", "Amélie", "Léa"),
        ("Martin", "Bernard", "Dubois", "Lefèvre", "Moreau", "D'Angelo", "Laurent"),
    ),
    "JP": (
        ("Haruto", "Ren", "Takashi", "Kenji", "Daiki", "Shota"),
        ("Yui", "Sakura", "Keiko", "Aoi", "Naoko", "Haruka"),
        ("Sato", "Suzuki", "Takahashi", "Tanaka", "Ito", "Yamamoto", "Kobayashi"),
    ),
    "SG": (
        ("Wei Ming", "Arjun", "Marcus", "Hafiz", "Jun Hao", "Ryan"),
        ("Hui Ling", "Priya", "Rachel", "Siti", "Mei Xuan", "Grace"),
        ("Tan", "Lim", "Lee", "Ng", "Kumar", "Rahman", "Wong"),
    ),
}
NICKNAMES: dict[str, str] = {
    "James": "Jim", "Robert": "Bob", "Michael": "Mike", "William": "Bill", "David": "Dave", "Joseph": "Joe",
    "Daniel": "Dan", "Christopher": "Chris", "Andrew": "Andy", "Matthew": "Matt", "Jennifer": "Jenny",
    "Elizabeth": "Liz", "Susan": "Sue", "Jessica": "Jess", "Katherine": "Kate", "Margaret": "Peggy",
    "Thomas": "Tom", "Maximilian": "Max",
}  # fmt: skip

CHINESE_MAIL_HOSTS = ("qq.com", "163.com", "126.com", "sina.com", "foxmail.com", "gmail.com")
WESTERN_MAIL_HOSTS = ("gmail.com", "outlook.com", "yahoo.com", "icloud.com", "proton.me")
FIRMS = (
    "brightpath",
    "huaxin-trading",
    "nordlicht",
    "eastgate-law",
    "kaori-studio",
    "yunhe-tech",
    "greenleaf",
)
JOB_TITLES = ("Buyer", "Engineer", "Teacher", "Designer", "Office Manager", "产品经理", "会计", "教师", "护士", "销售")
STREETS = ("中山路", "人民路", "解放大道", "建设街", "和平路", "长江路", "文化东路", "学府街")
WESTERN_STREETS = ("Main St", "Oak Avenue", "Lindenstraße", "Rue de Rivoli", "Market Street", "Orchard Road", "2nd Ave")

USER_AGENTS = {
    "web": (
        "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/139.0",
        "Mozilla/5.0 (Macintosh; Intel Mac OS X 14_6) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.5",
        "Mozilla/5.0 (Linux; Android 15; V2309A) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/139.0 Mobile",
    ),
    "app": ("OnefoldShop/5.2 (iPhone; iOS 18.6)", "OnefoldShop/5.1 (Android 15; HUAWEI Mate 70)"),
    "mini_program": ("Mozilla/5.0 (iPhone; CPU iPhone OS 18_6) MicroMessenger/8.0.61 NetType/WIFI MiniProgramEnv/iOS",),
}
OFFICE_NETWORK = "198.18.7.0/24"  # where staff sits; of the range kept for benchmarks (RFC 2544), so nobody's
BOT_AGENTS = (
    "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
    "Mozilla/5.0 (compatible; Baiduspider/2.0; +http://www.baidu.com/search/spider.html)",
    "python-requests/2.32.3",
)
