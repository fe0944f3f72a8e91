"""Profiles as they are compared: names in Latin letters and cut in two, dates as digits, addresses in parts."""

import duckdb

# Columns of a profile; any but the first may be null or missing. `document` is the number of a passport, an identity card, a
# social security or tax account: who has it as an attribute, not as an identifier of OneID, has it compared.
COLUMNS = {
    "profile_id": "varchar",
    "first_name": "varchar",
    "last_name": "varchar",
    "full_name": "varchar",
    "gender": "varchar",
    "birth_date": "date",
    "address": "varchar",
    "postal_code": "varchar",
    "city": "varchar",
    "region": "varchar",
    "country": "varchar",
    "email": "varchar",
    "phone": "varchar",
    "document": "varchar",
}

# The common Chinese family names, in both scripts. They only tell whether two characters are a whole name (王芳) or a given
# one (小明), so that rare ones, and those that often begin a given name (明, 安, 文), are left out.
_FAMILIES = frozenset(
    "王李张刘陈杨黄赵吴周徐孙马朱胡郭何高林罗郑梁谢宋唐许韩冯邓曹彭曾肖萧田董袁潘于蒋蔡余杜叶程苏魏吕丁任沈姚卢姜崔钟谭陆汪"
    "范金石廖贾夏韦付傅方白邹孟熊秦邱江尹薛闫阎段雷侯龙史陶黎贺顾毛郝龚邵万钱严覃武戴莫孔汤温康施牛樊葛邢齐乔伍庞颜倪庄聂章"
    "鲁岳翟殷詹申欧耿关焦俞左柳甘祝包尚符舒阮柯纪梅童凌毕单季裴霍涂苗谷盛曲翁冉骆蓝路游辛靳管柴蒙鲍喻祁蒲房滕屈饶解牟艾尤"
    "張劉陳楊黃趙吳孫馬許鄧馮謝韓葉蘇呂盧鐘鍾譚陸賈韋鄒龍閻顧龔嚴湯龐顏莊聶魯歐關藍紀畢單蕭鄭羅賴"
)
_LONG_FAMILIES = {
    "欧阳", "歐陽", "司马", "司馬", "上官", "诸葛", "諸葛", "皇甫", "尉迟",
    "公孙", "慕容", "司徒", "令狐", "夏侯", "东方", "南宫",
}  # fmt: skip
_POLITE = ("先生", "女士", "小姐", "太太")
# Family names that are read otherwise than the same character in a text.
_READINGS = {
    "曾": "zeng", "单": "shan", "單": "shan", "解": "xie", "仇": "qiu", "区": "ou", "區": "ou", "查": "zha", "翟": "zhai",
    "乐": "yue", "樂": "yue", "盖": "ge", "蓋": "ge", "覃": "qin", "尉": "wei",
}  # fmt: skip
# Places whose Latin name is not their pinyin.
_PLACES = {
    "香港": "hongkong", "澳门": "macau", "澳門": "macau", "台北": "taipei", "臺北": "taipei", "高雄": "kaohsiung",
    "东京": "tokyo", "東京": "tokyo", "大阪": "osaka", "首尔": "seoul", "新加坡": "singapore",
}  # fmt: skip

# Short forms of given names that no distance between letters finds.
_SHORT_FORMS = """
    alexander: alex sandy sascha; alexandra: alex sandra; alfred: fred; andrew: andy drew; anthony: tony;
    barbara: barb babs; benjamin: ben; catherine: kate cathy kitty; charles: charlie chuck; christina: tina chris;
    christopher: chris kit; daniel: dan; david: dave; deborah: debbie; donald: don; dorothy: dot dolly;
    edward: ed eddie ted ned; eleanor: ellie nell nora; elizabeth: liz beth betty eliza lisa; eugene: gene; frances: fran;
    francis: frank; franklin: frank; frederick: fred freddie; gabriel: gabe; gerald: gerry jerry; gregory: greg;
    harold: harry hal; henry: harry hank; isabella: bella; jacob: jake; james: jim jimmy; jennifer: jen jenny;
    jessica: jess; john: jack johnny; jonathan: jon; joseph: joe; joshua: josh; judith: judy; katherine: kate kathy katie;
    kenneth: ken; lawrence: larry; leonard: len; margaret: maggie peggy meg greta; martin: marty; matthew: matt;
    maximilian: max; michael: mike mick mickey; nathaniel: nate nathan; nicholas: nick; pamela: pam;
    patricia: pat patty tricia; patrick: pat paddy; peter: pete; philip: phil; raymond: ray; rebecca: becky;
    richard: rick dick; robert: bob rob bobby bert; ronald: ron; samantha: sam; samuel: sam; sarah: sally sadie;
    stephen: steve; steven: steve; susan: sue susie; theodore: ted theo; theresa: terry tess; thomas: tom tommy;
    timothy: tim; victoria: vicky tori; vincent: vince; virginia: ginny; walter: walt; william: bill will billy liam;
    zachary: zach
"""

_HAN = r"\p{Han}"
_PARTICLES = "von|van|der|den|de|da|dos|di|del|della|la|le|zu|zur|ter|ten|bin|ibn|al|el|st"
_STREETS = {
    "street": "st",
    "road": "rd",
    "avenue": "ave",
    "boulevard": "blvd",
    "drive": "dr",
    "lane": "ln",
    "place": "pl",
    "strasse": "str",
}


def prepare(connection: duckdb.DuckDBPyConnection, profiles: str, prepared: str, changed: str | None = None) -> int:
    """Write profiles in comparable form; the number of rows written.

    Args:
        profiles: table or subquery with columns of COLUMNS, one row a profile; missing ones count as null.
        prepared: the table to write: anew, or, with `changed`, only these profiles of it.
        changed: table or subquery whose `profile_id` names profiles that are new, other than before, or gone from `profiles`.

    Chinese characters are read as pinyin, one reading for each distinct name, so that 王小明 and Wang Xiaoming compare; the
    characters are kept beside it. A full name is cut at the family name where its form tells (a comma, a particle, Chinese
    order), else before its last word; that the order may be the other one is left to the comparison.
    """
    there = {name for name, *_ in connection.execute(f"describe select * from {source(profiles)}").fetchall()}
    columns = ", ".join(f"{name if name in there else 'null'}::{type_} as {name}" for name, type_ in COLUMNS.items())
    only = f"semi join {source(changed)} as changed using (profile_id)" if changed else ""
    connection.execute(f"create or replace temp table _raw as select {columns} from {source(profiles)} as profiles {only}")
    connection.execute(f"create or replace temp table _named as {_NAMED}")
    _read_chinese(connection)
    connection.execute("create or replace temp table _short_forms (name varchar, forms varchar[])")
    connection.execute("insert into _short_forms select unnest($1::varchar[]), unnest($2::varchar[][])", list(_short_forms()))
    if changed:
        connection.execute(f"delete from {prepared} where profile_id in (select profile_id from {source(changed)})")
        connection.execute(f"insert into {prepared} {_PREPARED}")
    else:
        connection.execute(f"create or replace table {prepared} as {_PREPARED}")
    (count,) = connection.execute("select count(*) from _raw").fetchone()
    for table in ("_raw", "_named", "_readings", "_short_forms"):
        connection.execute(f"drop table {table}")
    return count


def source(table: str) -> str:
    """A table's name or a subquery as it stands in a from clause."""
    return f"({table})" if " " in table.strip() else table


def split_chinese_name(name: str) -> tuple[str | None, str | None]:
    """Family and given name of a name in Chinese characters: 王小明 is 王 and 小明; 小明 is only given, 王先生 only family."""
    for suffix in _POLITE:
        if name.endswith(suffix) and 1 <= len(name) - 2 <= 2:
            return name[:-2], None
    if len(name) > 2 and name[:2] in _LONG_FAMILIES:
        return name[:2], name[2:]
    if len(name) > 2 or (len(name) == 2 and name[0] in _FAMILIES):
        return name[0], name[1:]
    return None, name


def _letters(value: str) -> str:
    """Only its letters, small and without accents; pinyin's ü, which is typed as u, v or yu, is u."""
    plain = f"strip_accents(lower(replace({value}, 'ß', 'ss')))"
    return f"nullif(regexp_replace(regexp_replace({plain}, '\\b(l|n)(v|yu)', '\\1u'), '[^\\p{{L}}]', '', 'g'), '')"


def _short_forms() -> tuple[list[str], list[list[str]]]:
    """Names that have a short form or are one, and what each may stand for, itself included."""
    stands_for: dict[str, set[str]] = {}
    for entry in _SHORT_FORMS.split(";"):
        whole, _, short = entry.strip().partition(": ")
        for name in (whole, *short.split()):
            stands_for.setdefault(name, {name}).add(whole)
    return list(stands_for), [sorted(names) for names in stands_for.values()]


def _read_chinese(connection: duckdb.DuckDBPyConnection) -> None:
    """The table `_readings`: each distinct name in Chinese characters, by what it names, cut in two and in Latin letters."""
    names = connection.execute(
        f"""
        select 'whole', whole from _named where regexp_matches(whole, '{_HAN}')
        union select 'given', given from _named where regexp_matches(given, '{_HAN}')
        union select 'family', family from _named where regexp_matches(family, '{_HAN}')
        union select 'place', city from _named where regexp_matches(city, '{_HAN}')
        """
    ).fetchall()
    rows = [(kind, name, *_reading(kind, name)) for kind, name in names]
    connection.execute(
        "create or replace temp table _readings "
        "(kind varchar, name varchar, family_characters varchar, given_characters varchar, family varchar, given varchar)"
    )
    if rows:
        values = ", ".join(f"unnest(${column}::varchar[])" for column in range(1, 7))
        connection.execute(f"insert into _readings select {values}", [list(column) for column in zip(*rows, strict=True)])


def _reading(kind: str, name: str) -> tuple[str | None, str | None, str | None, str | None]:
    """Family and given name in characters, then in Latin letters; a place has its reading as given name."""
    from pypinyin import lazy_pinyin

    def latin(text: str | None) -> str | None:
        return "".join(lazy_pinyin(text)).replace("lv", "lu").replace("nv", "nu") if text else None

    if kind == "place":
        place = name.removesuffix("市")
        return None, None, None, _PLACES.get(place) or latin(place)
    if kind == "given":
        return None, name, None, latin(name)
    family, given = (name, None) if kind == "family" else split_chinese_name(name)
    return family, given, _READINGS.get(family) or latin(family), latin(given)


# Which of the name columns say the name: both parts, else the whole one, else whatever there is.
_NAMED = r"""
    with trimmed as (
        select
            * replace (
                nullif(trim(first_name), '') as first_name,
                nullif(trim(last_name), '') as last_name,
                nullif(trim(full_name), '') as full_name,
                nullif(trim(city), '') as city
            ),
        from _raw
    ),
    chosen as (
        select
            * exclude (first_name, last_name, full_name),
            first_name is not null and last_name is not null as in_parts,
            case when in_parts then first_name end as given_part,
            case when in_parts or full_name is null and first_name is null then last_name end as family_part,
            case when not in_parts then coalesce(full_name, first_name) end as whole_name,
        from trimmed
    ),
    without_titles as (
        select
            *,
            case
                when regexp_matches(whole_name, '\p{Han}') then regexp_replace(whole_name, '[\s·]', '', 'g')
                else trim(regexp_replace(whole_name, '(?i)^(mr|mrs|ms|miss|dr|prof|herr|frau)[. ]+|[, ]+(jr|sr)[.]?$', '', 'g'))
            end as whole,
        from chosen
    )
    select
        * exclude (given_part, family_part, whole_name),
        case
            when in_parts then given_part
            when regexp_matches(whole, '\p{Han}') then null
            when contains(whole, ',') then trim(split_part(whole, ',', 2))
            when contains(whole, ' ') then regexp_extract(whole, _family_at, 1)
            else whole
        end as given,
        case
            when family_part is not null then family_part
            when regexp_matches(whole, '\p{Han}') then null
            when contains(whole, ',') then trim(split_part(whole, ',', 1))
            when contains(whole, ' ') then regexp_extract(whole, _family_at, 2)
        end as family,
    from without_titles
""".replace("_family_at", rf"'(?i)^(.*?)\s+((?:(?:{_PARTICLES})\s+)*\S+)$'")


def _street(value: str) -> str:
    """The words of an address without numbers, joined; what a street is called is shortened to one form."""
    text = f"strip_accents(lower(replace({value}, 'ß', 'ss')))"
    for long, short in _STREETS.items():
        text = rf"regexp_replace({text}, '{long}\b', '{short}', 'g')"
    text = f"regexp_replace({text}, '[号號室楼樓层層弄栋棟]|单元|單元', '', 'g')"
    return f"nullif(regexp_replace({text}, '[^\\p{{L}}]', '', 'g'), '')"


_PREPARED = rf"""
    with latin as (
        select
            named.*,
            coalesce(whole_reading.family, family_reading.family, {_letters("named.family")}) as family_name,
            coalesce(whole_reading.given, given_reading.given, {_letters("named.given")}) as given_name,
            coalesce(whole_reading.family_characters, family_reading.family_characters) as family_characters,
            coalesce(whole_reading.given_characters, given_reading.given_characters) as given_characters,
            coalesce(place_reading.given, {_letters("named.city")}) as place,
        from _named as named
        left join _readings as whole_reading on whole_reading.kind = 'whole' and whole_reading.name = named.whole
        left join _readings as given_reading on given_reading.kind = 'given' and given_reading.name = named.given
        left join _readings as family_reading on family_reading.kind = 'family' and family_reading.name = named.family
        left join _readings as place_reading on place_reading.kind = 'place' and place_reading.name = named.city
    )
    select
        profile_id,
        given_name as given,
        family_name as family,
        given_characters,
        family_characters,
        _short_forms.forms as given_forms,
        strftime(birth_date, '%Y%m%d') as birth_date,
        lower(gender) as gender,
        nullif(regexp_extract(address, '\d+'), '') as house,
        {_street("address")} as street,
        nullif(concat_ws(' ', house, street), '') as address,
        nullif(regexp_replace(upper(postal_code), '[^0-9A-Z]', '', 'g'), '') as postal_code,
        latin.place as city,
        postal_code || ' ' || latin.place as place,
        lower(trim(email)) as email,
        nullif(split_part(lower(trim(email)), '@', 2), '') as host,
        nullif(regexp_replace(split_part(lower(trim(email)), '@', 1), '[+].*$', ''), '') as mailbox,
        regexp_replace(mailbox, '[^\p{{L}}0-9]', '', 'g') as plain_mailbox,
        replace(replace(plain_mailbox, coalesce(given_name, ''), ''), coalesce(family_name, ''), '') as mailbox_own,
        phone,
        nullif(regexp_replace(upper(document), '[^0-9A-Z]', '', 'g'), '') as document,
    from latin
    left join _short_forms on _short_forms.name = latin.given_name
"""
