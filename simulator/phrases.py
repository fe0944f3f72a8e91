"""What customers and agents say, in Chinese and English: (Chinese, English) pairs by topic."""

Phrase = tuple[str, str]

# What a customer opens a conversation with, by what it is about.
OPENINGS: dict[str, tuple[Phrase, ...]] = {
    "complaint": (
        (
            "收到的商品是坏的，太失望了，我要投诉！",
            "The item arrived broken. I am very disappointed and want to complain!",
        ),
        (
            "都一个星期了还没发货，你们客服也不回，差评",
            "A week and it still has not shipped, nobody answers. Terrible service.",
        ),
        ("用了之后脸上过敏起红疹，必须给我退款", "I got a rash after using it, I demand a refund."),
        ("发票开错了两次，实在太不专业了", "You got my invoice wrong twice, this is really unprofessional."),
    ),
    "delivery": (
        ("请问我的订单什么时候能到？", "When will my order arrive?"),
        ("物流一直没有更新，能帮我查一下吗", "Tracking has not been updated, could you check?"),
    ),
    "product": (
        ("这款敏感肌可以用吗？", "Is this suitable for sensitive skin?"),
        ("请问这个有几种颜色，还有货吗", "Which colours are there, and is it in stock?"),
    ),
    "refund": (
        ("我想退货，怎么操作？", "I would like to return this, how do I do it?"),
        ("退款多久能到账？", "How long does the refund take?"),
    ),
}
REPLIES: tuple[Phrase, ...] = (
    ("您好，我来帮您查一下，请稍等。", "Hello, let me look into that for you."),
    ("感谢您的耐心等待，已经为您登记。", "Thank you for your patience, I have noted it."),
    ("这边已经联系仓库加急处理。", "I have asked the warehouse to hurry."),
)
FOLLOW_UPS: tuple[Phrase, ...] = (
    ("好的，麻烦尽快。", "All right, please be quick."),
    ("我的手机号没有变。", "My phone number has not changed."),
    ("明白了，谢谢。", "Understood, thank you."),
)
CLOSINGS: tuple[Phrase, ...] = (
    ("问题已为您解决，祝您生活愉快！", "This is solved now, have a nice day!"),
    ("退款已提交，三个工作日内到账。", "The refund is on its way, within three working days."),
)
POSTS: dict[str, tuple[Phrase, ...]] = {
    "positive": (
        ("刚入手的{product}太好用了，强烈推荐！", "Just got the {product}, love it, highly recommended!"),
        ("{product}回购第三次了，性价比很高", "Third time buying {product}, great value."),
        ("客服小姐姐很耐心，好评👍", "Very patient customer service, five stars 👍"),
    ),
    "neutral": (
        ("有人用过{product}吗？求真实评价", "Has anyone tried {product}? Honest opinions please"),
        ("准备买{product}，等活动", "Waiting for a sale to buy {product}"),
    ),
    "negative": (
        ("{product}质量越来越差，不会再买了", "The quality of {product} keeps getting worse, never again"),
        ("发货太慢了，客服还推卸责任，避雷", "Shipping is so slow and support blames others, avoid"),
    ),
    "outage": (
        ("快递全部延误，Onefold到底怎么回事？", "All parcels delayed, what is going on with Onefold?"),
        ("等了半个月还没收到，退钱！", "Half a month and nothing has arrived, refund me!"),
    ),
}
CALLS: dict[str, tuple[Phrase, ...]] = {
    "complaint": (
        ("客户投诉配送延误两次，要求赔偿。", "Customer complains about two late deliveries and asks for compensation."),
        ("客户反映商品破损，情绪激动，要求退款。", "Customer reports a damaged item, is upset, demands a refund."),
    ),
    "question": (
        ("客户咨询会员积分如何兑换。", "Customer asks how to redeem loyalty points."),
        ("客户询问门店营业时间。", "Customer asks for the opening hours of the store."),
        ("客户想修改收货地址。", "Customer wants to change the shipping address."),
    ),
}
WECOM_FROM_ADVISER: tuple[Phrase, ...] = (
    ("您好呀，这周会员日有专属优惠哦～", "Hello! Members get an exclusive offer this week."),
    ("您上次看的那款到货啦，需要给您留一件吗？", "The one you liked is back, shall I keep one for you?"),
)
WECOM_FROM_CUSTOMER: tuple[Phrase, ...] = (
    ("好的，发我链接看看", "Sure, send me the link"),
    ("最近怀孕了，有适合孕妇用的护肤品吗？", "I am pregnant, do you have skin care that is safe for me?"),
    ("先不用了谢谢", "Not now, thanks"),
    ("上次买的还没到，怎么回事？", "My last order has not arrived, what happened?"),
)
# Psychographic questions with the answers people choose from.
LIFESTYLE_QUESTIONS: dict[str, tuple[str, ...]] = {
    "value_priority": ("quality", "price", "sustainability", "status", "convenience"),
    "lifestyle": ("family", "fitness", "travel", "homebody", "career", "fashion"),
    "shopping_attitude": ("plans ahead", "impulse", "bargain hunter", "brand loyal"),
}


def say(choices: tuple[Phrase, ...], rng, chinese: bool, product: str = "") -> str:
    """One of the phrases, in the speaker's language."""
    return choices[int(rng.random() * len(choices))][0 if chinese else 1].replace("{product}", product)
