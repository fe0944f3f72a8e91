"""Whether the dbt project is SQL that DuckDB and Spark both understand, and understand alike; nothing is run on Spark.

Two looks at the same rules. Sources are read as they are written (models, tests and macros, without `dbt/macros/engine/`), so
that also what no statement uses now is seen. Statements are compiled by dbt for the Spark target, as a full build and as an
incremental one, and parsed by sqlglot; there every function must be one of Spark's, whatever DuckDB has.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from dagster_project.lib import dbt
from dagster_project.lib.errors import OnefoldError
from dagster_project.lib.home import PROJECT_ROOT, Home

ENGINE = dbt.PROJECT / "macros" / "engine"
NEW_MACRO = "a new macro in dbt/macros/engine/ with a duckdb__ and a spark__ form"
_DISTINCT_TEXT = "the macro distinct_text (dbt/macros/engine/distinct_text.sql)"
_MATCHES = "the macro matches (dbt/macros/engine/matches.sql)"
_PARSE_DATE = "the macro parse_date (dbt/macros/engine/parse_date.sql)"
_EPOCH_MICROS = "the macro epoch_micros (dbt/macros/engine/epoch_micros.sql)"

# What to use instead of a function that Spark does not have. Any other that is not in spark_functions.txt is refused as well,
# with NEW_MACRO as the remedy.
INSTEAD = {
    "arg_max": "max_by()",
    "argmax": "max_by()",
    "arg_min": "min_by()",
    "argmin": "min_by()",
    "arbitrary": "any_value()",
    "array_to_string": _DISTINCT_TEXT,
    "age": "dbt.datediff",
    "countif": "count_if()",
    "datesub": "dbt.datediff",
    "datetrunc": "date_trunc()",
    "epoch": _EPOCH_MICROS,
    "epoch_ms": _EPOCH_MICROS,
    "epoch_ns": _EPOCH_MICROS,
    "epoch_us": _EPOCH_MICROS,
    "generate_series": "dbt.generate_series",
    "group_concat": "string_agg()",
    "interval": "dbt.dateadd (Spark has intervals of plain numbers only)",
    "list": _DISTINCT_TEXT,
    "list_distinct": _DISTINCT_TEXT,
    "list_sort": _DISTINCT_TEXT,
    "list_contains": "array_contains()",
    "list_has": "array_contains()",
    "md5_number": "md5()",
    "quantile_cont": "percentile_cont(…) within group (order by …)",
    "regexp_full_match": _MATCHES + " with ^ and $ in the pattern",
    "regexp_matches": _MATCHES,
    "sha256": "md5(), or where it must be keyed dagster_project/lib/keyed.py",
    "str_split": "split_part()",
    "string_split": "split_part()",
    "string_to_array": "split_part()",
    "strpos": "instr()",
    "strptime": _PARSE_DATE,
    "strlen": "octet_length()",
    "try_strptime": _PARSE_DATE,
    "week": "weekofyear()",
    **{f"to_{unit}s": "dbt.dateadd" for unit in ("day", "hour", "minute", "month", "second", "week", "year")},
}

# Both engines have these and do not mean the same; each was tried on DuckDB 1.5 and Spark 4.1.
ANOTHER_MEANING = {
    "concat": ("null if any part is null, which DuckDB skips", "concat_ws()"),
    "date_add": ("a number of days", "dbt.dateadd"),
    "date_diff": ("end before start, and no unit in quotes", "dbt.datediff"),
    "date_sub": ("a number of days", "dbt.datediff or dbt.dateadd"),
    "datediff": ("end before start, and no unit in quotes", "dbt.datediff"),
    "dayofweek": ("1 is Sunday, where DuckDB has 0", NEW_MACRO),
    "from_json": ("the schema is written in another way", NEW_MACRO),
    "hash": ("another function", "md5()"),
    "kurtosis": ("that of the population, where DuckDB estimates it from a sample", NEW_MACRO),
    "log": ("the natural logarithm, where DuckDB takes base 10", "ln() or log10()"),
    "lower": (
        "İ as two letters, another Σ at the end of words",
        "the macro lower_case (dbt/macros/engine/lower_case.sql)",
    ),
    "map": ("keys and values in turn, where DuckDB takes two lists", NEW_MACRO),
    "median": ("other last digits, and of decimals a double", "the macro median_of (dbt/macros/engine/median_of.sql)"),
    "regexp_replace": (
        "every match is replaced, where DuckDB replaces the first",
        "the macro replace_all (dbt/macros/engine/replace_all.sql)",
    ),
    "skewness": ("that of the population, where DuckDB estimates it from a sample", NEW_MACRO),
    "split": ("the separator is a regular expression", "split_part()"),
    "to_json": ("only structs, arrays and maps", NEW_MACRO),
    "try_cast": ("5.0 is no bigint, 5d is a double, 2026 is a date", "the macros number_of or parse_date (dbt/macros/engine/)"),
    "trunc": ("of dates", "floor() or cast"),
    "upper": ("several letters for one, as SS for ß", "the macro upper_case (dbt/macros/engine/upper_case.sql)"),
    "weekday": ("0 is Monday, where DuckDB has Sunday", NEW_MACRO),
}

# Syntax that is DuckDB's: how it is shown, how it is found, what to use instead.
_WORDS = [
    ("* exclude", r"(\bselect|\bdistinct|[.,])\s*\*\s*(exclude|replace|rename)\b", "the columns by name"),
    ("asof", r"\basof\b", "a join on valid_from and valid_to"),
    ("by name", r"\bunion\s+(all\s+)?by\s+name\b", "the columns of both sides in one order"),
    ("distinct on", r"\bdistinct\s+on\b", "row_number() in a subquery, and a condition on it outside"),
    ("dow", r"\b(iso)?dow\b", NEW_MACRO + " (in Spark dow of a Sunday is 1, where DuckDB has 0)"),
    ("from before select", r"\(\s*from\b", "select first"),
    ("glob", r"\bglob\b", "like, or " + _MATCHES),
    ("lambda", r"\blambda\b", NEW_MACRO),
    ("number in other than digits", r"\b(\d+_[\d_]+|0x[\da-f]+)\b", "plain digits"),
    ("pivot", r"\b(un)?pivot\b", "max(case when … then … end) for each column, or union all"),
    ("positional join", r"\bpositional\s+join\b", "a join on row_number()"),
    ("precision", r"\bdouble\s+precision\b", "double"),
    ("qualify", r"\bqualify\b", "row_number() in a subquery, and a condition on it outside"),
    ("similar to", r"\bsimilar\s+to\b", _MATCHES),
    ("using sample", r"\busing\s+sample\b", "a condition on a key"),
    ("with time zone", r"\bwith\s+time\s+zone\b", "timestamp, every time being UTC"),
]
# Arguments of macros may be patterns, which are full of these.
_SYMBOLS = [
    ("//", r"//", "floor(a / b)"),
    ("**", r"\*\*", "pow()"),
    ("^", r"\^", "pow(); in Spark it is a bitwise operation"),
    ("[", r"\[", NEW_MACRO + " (Spark counts from 0 and writes no list in brackets)"),
    ("{", r"{", NEW_MACRO),
    ('"', r'"', "a name that needs no quotes; for Spark this is a text"),
    (":", r"(?<!:):(?!:)", "as for a name, and for a part " + NEW_MACRO),
]
# What a form for Spark may have, where it means what the macro says.
_WRITTEN = [("->", r"->>?", NEW_MACRO)]
# What only shows when everything is put in.
_COMPILED = [
    (", at the end of a list", r",(?=\s*(\)|\Z|from\b))", "no comma there"),
    ("from before select", r"\A\s*from\b", "select first"),
    (
        "- between dates",
        r"\b(as\s+(date|timestamp)\s*\)|::\s*(date|timestamp))\s*-\s*(?!\d|interval\b)",
        "dbt.datediff (in Spark it is an interval)",
    ),
]
_TYPE = re.compile(
    "boolean|tinyint|smallint|int|integer|bigint|float|real|double|decimal|numeric|date|timestamp|string|binary|array|map|struct"
    "|timestamp_ntz|timestamp_ltz|void|variant"
)
_TYPE_INSTEAD = {"hugeint": "decimal(38, 0)", "int128": "decimal(38, 0)", "timestamptz": "timestamp: every time is UTC"}
_TRIMS = {"trim": "both", "ltrim": "leading", "rtrim": "trailing"}
# Before a parenthesis, and not a function.
_SYNTAX = re.compile(
    "all|as|by|char|cross|cube|distinct|else|except|exclude|from|full|group|grouping|having|inner|intersect|is|join|lateral|limit|minus"
    "|natural|offset|on|outer|over|partition|qualify|range|rename|rollup|rows|select|sets|tablesample|then|timestampadd|timestampdiff"
    "|try_cast|union|using|values|varchar|where|window|with|within"
)
_TOKEN = re.compile(r"\w+|::|\S")
_UNREAD = re.compile(r"--[^\n]*|/\*.*?\*/|'(?:[^']|'')*'", re.DOTALL)


@dataclass(frozen=True, order=True)
class Problem:
    """Something that only one engine understands, where it is written and what to write instead."""

    file: str  # below the project's root
    line: int  # from 1; 0 where only the compiled statement shows it
    what: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.what}" if self.line else f"{self.file}: {self.what}"


def require_portable(home: Home) -> int:
    """Check the whole dbt project.

    Returns:
        How many statements were compiled for Spark and parsed; 0 where dbt-spark is not installed.

    Raises:
        OnefoldError: every problem, one a line, with file, line and remedy.
    """
    manifest = dbt.parse(home)
    written = set(_source_problems())
    found = {*_engine_problems(manifest), *_contract_problems(manifest), *written}
    statements: list[dbt.Statement] = []
    try:
        statements = dbt.compile_for_spark(home)
    except OnefoldError as error:
        # A macro that lacks its Spark form is named above; dbt's own words are less plain.
        if not found:
            raise
        found.add(Problem("dbt", 0, " ".join(str(error).split())))
    said = {(problem.file, problem.what) for problem in written}
    for statement in statements:
        # What a source already shows, it shows more exactly.
        found |= {p for p in _statement_problems(statement) if not any((file, p.what) in said for file in statement.files)}
    if found:
        raise OnefoldError("not portable to Spark:\n" + "\n".join(str(problem) for problem in sorted(found)))
    return len(statements)


@cache
def spark_functions() -> frozenset[str]:
    """The names of Spark's built-in functions, lower case."""
    lines = Path(__file__).with_name("spark_functions.txt").read_text(encoding="utf-8").splitlines()
    return frozenset(name for line in lines if not line.startswith("#") for name in line.split())


@cache
def duckdb_functions() -> frozenset[str]:
    """The names of the functions of the installed DuckDB, lower case."""
    import duckdb

    with duckdb.connect() as connection:
        rows = connection.execute("select distinct lower(function_name) from duckdb_functions()").fetchall()
    return frozenset(name for (name,) in rows)


def _engine_problems(manifest: Any) -> Iterator[Problem]:
    """One dispatched macro a file, with both forms, and no form outside of the folder; of dbt's own macros what differs."""
    of_dbt = {macro.name for macro in manifest.macros.values() if macro.package_name == "dbt"}
    macros: dict[str, set[str]] = {str(file.relative_to(dbt.PROJECT)): set() for file in ENGINE.glob("**/*.sql")}
    for macro in manifest.macros.values():
        if macro.package_name != "onefold":
            continue
        if macro.original_file_path in macros:
            macros[macro.original_file_path].add(macro.name)
            if macro.name.startswith("spark__"):
                yield from _spark_form_problems(macro)
        elif macro.name.startswith(("duckdb__", "spark__")):
            yield Problem(f"dbt/{macro.original_file_path}", 0, f"{macro.name} belongs in a file of dbt/macros/engine/")
    for file, names in macros.items():
        name = Path(file).stem
        # A materialisation is bound to its adapter and has no dispatch.
        if any(n.startswith("materialization_") for n in names):
            continue
        if name in of_dbt and names and names <= {f"duckdb__{name}", f"spark__{name}"}:
            continue
        if missing := sorted({name, f"duckdb__{name}", f"spark__{name}"} - names):
            yield Problem(f"dbt/{file}", 0, f"lacks the macro {', '.join(missing)}; each file here has one, with both forms")
        if other := sorted(names - {name, f"duckdb__{name}", f"spark__{name}"}):
            yield Problem(f"dbt/{file}", 0, f"also has {', '.join(other)}; each file here has one macro, with both forms")


def _spark_form_problems(macro: Any) -> Iterator[Problem]:
    content = (dbt.PROJECT / macro.original_file_path).read_text(encoding="utf-8")
    above = content[: content.find(macro.macro_sql.strip())].count("\n")
    for line, text, _ in _texts(macro.macro_sql.strip()):
        for at, word in _functions(_readable(text)):
            if word in duckdb_functions() - spark_functions():
                file = f"dbt/{macro.original_file_path}"
                yield Problem(file, above + line + text.count("\n", 0, at), f"{word} is DuckDB's, in the form for Spark")


def _contract_problems(manifest: Any) -> Iterator[Problem]:
    """Types in the models' YAML that Spark does not have."""
    for node in manifest.nodes.values():
        for column in getattr(node, "columns", {}).values():
            for _, what in _scan(f"cast(null as {column.data_type or 'string'})", "statement"):
                file = f"dbt/{node.patch_path.split('://')[1]}"
                yield Problem(file, 0, f"{node.name}.{column.name}: {what}")


def _source_problems() -> Iterator[Problem]:
    for folder in ("models", "macros", "tests"):
        for file in sorted((dbt.PROJECT / folder).glob("**/*.sql")):
            if ENGINE in file.parents:
                continue
            for first, text, is_sql in _texts(file.read_text(encoding="utf-8")):
                for at, what in _scan(text, "sql" if is_sql else "argument"):
                    yield Problem(str(file.relative_to(PROJECT_ROOT)), first + text.count("\n", 0, at), what)


def _texts(source: str) -> Iterator[tuple[int, str, bool]]:
    """The SQL of a Jinja file: its plain text with blanks for the code, then each text within the code.

    Yields:
        First line, text, and whether it is plain text. A text within the code may be SQL, a pattern or a name.
    """
    from jinja2 import Environment

    plain, inner = "", []
    for line, kind, value in Environment().lex(source):
        plain += "\n" * (line - 1 - plain.count("\n"))
        if kind == "data":
            plain += value
        elif kind == "string":
            inner.append((line, value[1:-1], False))
            plain += " "
        else:
            plain += " "
    yield 1, plain, True
    yield from inner


def _statement_problems(statement: dbt.Statement) -> set[Problem]:
    """What Spark would not understand of one compiled statement."""
    import sqlglot
    from sqlglot import exp

    refused = None
    aliases: set[str] = set()
    differences: list[tuple[int, str]] = []
    try:
        trees = sqlglot.parse(statement.sql, read="spark", error_level=sqlglot.ErrorLevel.RAISE)
        if len(trees) != 1 or not isinstance(trees[0], exp.Query):
            refused = (1, "is not one query in Spark's dialect")
        else:
            differences = list(_differences(trees[0]))
            aliases = {alias.name.lower() for alias in trees[0].find_all(exp.TableAlias)}
    except sqlglot.errors.ParseError as error:
        first = error.errors[0]
        near = " ".join((first["start_context"][-60:] + first["highlight"]).split())
        refused = (first["line"], f"does not parse in Spark's dialect at the end of: {near}")
    except sqlglot.errors.TokenError as error:
        refused = (1, f"does not parse in Spark's dialect: {error}")
    lines = statement.sql.split("\n")
    found = set()
    for at, what in _scan(statement.sql, "statement", aliases):
        line = statement.sql.count("\n", 0, at)
        found.add(_locate(statement, lines[line], what.split(" ", 1)[0], what))
    for line, what in differences:
        found.add(_locate(statement, lines[line - 1], "", what))
    if refused and not found:
        found.add(_locate(statement, lines[refused[0] - 1], "", refused[1]))
    return found


def _differences(tree: Any) -> Iterator[tuple[int, str]]:
    """Expressions that both engines work out, and not alike: the line (from 1), and what is wrong there."""
    from sqlglot import exp

    for node in tree.find_all(exp.Div, exp.Avg, exp.Like, exp.ILike, exp.Cast):
        what = None
        if isinstance(node, exp.Div) and not (_is_double(node.this) or _is_double(node.expression)):
            what = "/ may be of decimals, which Spark gives as a rounded decimal; use cast(… as double) on one side"
        elif isinstance(node, exp.Avg) and not _is_double(node.this):
            what = "avg may be of decimals, which Spark gives as a rounded decimal; use avg(cast(… as double))"
        elif isinstance(node, (exp.Like, exp.ILike)) and not isinstance(node.expression, exp.Literal):
            what = "like with a pattern from data takes its \\ for an escape in Spark; use instr()"
        elif isinstance(node, exp.Cast) and node.to.this in exp.DataType.INTEGER_TYPES and _is_double(node.this):
            what = "cast of a fraction to an integer cuts it off in Spark, where DuckDB rounds; use floor() or round() inside"
        if what:
            yield next((n.meta["line"] for n in node.find_all(exp.Identifier) if "line" in n.meta), 1), what


def _is_double(node: Any) -> bool:
    """Whether an expression says by itself that it is a double."""
    from sqlglot import exp

    if isinstance(node, exp.Cast):
        return node.to.this in (exp.DataType.Type.DOUBLE, exp.DataType.Type.FLOAT)
    if isinstance(node, (exp.Add, exp.Sub, exp.Mul, exp.Div)):
        return _is_double(node.this) or _is_double(node.expression)
    if isinstance(node, exp.Case):
        results = [branch.args["true"] for branch in node.args["ifs"]] + [node.args.get("default")]
        return any(_is_double(result) for result in results)
    if isinstance(node, (exp.Coalesce, exp.Greatest, exp.Least)):
        return any(_is_double(part) for part in (node.this, *node.expressions))
    if isinstance(node, (exp.Paren, exp.Neg, exp.Abs, exp.Nullif, exp.Sum, exp.Max, exp.Min, exp.Median, exp.Window)):
        return _is_double(node.this)
    return isinstance(node, (exp.Sqrt, exp.Pow, exp.Exp, exp.Ln))


def _locate(statement: dbt.Statement, compiled_line: str, word: str, what: str) -> Problem:
    """Where the source says what a line of its compiled statement says: by the line without its Jinja, else by the word."""
    best, place = 2, None  # a closing parenthesis alone names no place
    has_word = re.compile(rf"\b{re.escape(word)}\b", re.IGNORECASE) if word.isidentifier() else None
    word_place = None
    for file in statement.files:
        for number, line in enumerate((PROJECT_ROOT / file).read_text(encoding="utf-8").split("\n"), 1):
            plain = re.split(r"{{.*?}}|{%.*?%}", line.strip())
            if (length := len("".join(plain))) > best and re.fullmatch(".*".join(map(re.escape, plain)), compiled_line.strip()):
                best, place = length, (file, number)
            if has_word and not word_place and has_word.search(line):
                word_place = file, number
    found = place or word_place
    if found:
        return Problem(*found, what)
    return Problem(statement.files[0], 0, f"{what} (compiled: {' '.join(compiled_line.split())[:120]})")


def _readable(text: str) -> str:
    """The text with blanks for comments and for what literals hold, of equal length and lines."""

    def blank(part: re.Match) -> str:
        blanks = re.sub(r"[^\n]", " ", part.group())
        return f"'{blanks[1:-1]}'" if part.group().startswith("'") else blanks

    return _UNREAD.sub(blank, text)


def _functions(readable: str) -> Iterator[tuple[int, str]]:
    for call in re.finditer(r"(?<![\w.])([^\W\d]\w*)\s*\(", readable):
        yield call.start(), call.group(1).lower()


def _is_refused(function: str, kind: str, aliases: set[str]) -> bool:
    if function in spark_functions():
        return False
    if kind == "statement":
        return not _SYNTAX.fullmatch(function) and function not in aliases
    return function in INSTEAD or function in duckdb_functions()


def _scan(text: str, kind: str, aliases: set[str] = frozenset()) -> Iterator[tuple[int, str]]:
    """Where a text is not SQL that both engines understand alike.

    Args:
        kind: "sql", written as such, with blanks for Jinja; "argument" of a macro, which may be a pattern; or "statement",
            compiled for Spark, in which macros have already put Spark's own words.
        aliases: names of subqueries that may stand before a parenthesis.

    Yields:
        Position, and what is wrong there, word first.
    """
    readable = _readable(text)
    for at, word in _functions(readable):
        if _is_refused(word, kind, aliases):
            owner = "is DuckDB's" if word in duckdb_functions() or word in INSTEAD else "is not a function of Spark"
            yield at, f"{word} {owner}; use {INSTEAD.get(word, NEW_MACRO)}"
        elif kind != "statement" and word in ANOTHER_MEANING:
            difference, instead = ANOTHER_MEANING[word]
            yield at, f"{word} means something else in Spark ({difference}); use {instead}"
    # The forms for Spark have words of their own; what is left of these in a statement is Spark's as well.
    phrases = [*(_COMPILED if kind == "statement" else _WRITTEN), *_WORDS, *([] if kind == "argument" else _SYMBOLS)]
    for shown, pattern, instead in phrases:
        for part in re.finditer(pattern, readable, re.IGNORECASE):
            # At its end, as a pattern may begin on the line before.
            yield part.end() - 1, f"{shown} is DuckDB's; use {instead}"
    if kind == "statement":
        for literal in _UNREAD.finditer(text):
            # That of the macro `pattern` has its own.
            if literal.group().startswith("'") and not literal.group().startswith("'(?du)") and "\\" in literal.group():
                yield literal.start(), "\\ in a text is an escape for Spark only; use a class such as [.] or [0-9]"
    yield from _scan_calls(readable)


def _scan_calls(readable: str) -> Iterator[tuple[int, str]]:
    """What is wrong inside the parentheses of a call: types of casts, order in aggregates, the arguments of trim."""
    tokens = [(part.group().lower(), part.start()) for part in _TOKEN.finditer(readable)]
    words = [word for word, _ in tokens] + ["", ""]
    opened = [_Call("", 0)]
    for i, (word, at) in enumerate(tokens):
        after, call = words[i + 1], opened[-1]
        if word == "(":
            opened.append(_Call(words[i - 1] if i else "", tokens[i - 1][1], is_query=after in ("select", "with")))
        elif word == ")" and len(opened) > 1:
            opened.pop()
            if call.name == "round" and call.commas:
                yield call.at, "round to digits rounds what is written of a double in Spark; use the macro decimal_of"
            if call.name in _TRIMS and call.commas:
                way = f"trim({_TRIMS[call.name]} … from …)"
                yield call.at, f"{call.name} takes its two arguments in another order in Spark; use {way}"
        elif word == ",":
            call.commas += 1
        elif word == "order" and after == "by" and call.name in spark_functions() and not call.is_query:
            yield at, f"order by inside {call.name} is DuckDB's; use {_DISTINCT_TEXT}, max_by(), or {NEW_MACRO}"
        elif word == "::" or (word == "as" and call.name in ("cast", "try_cast")):
            has_length = after in ("varchar", "char") and words[i + 2] == "("
            if after.isidentifier() and not _TYPE.fullmatch(after) and not has_length:
                yield at, f"{after} is not a type of Spark; use {_TYPE_INSTEAD.get(after, 'string')}"


@dataclass
class _Call:
    """A parenthesis that is still open."""

    name: str  # the word before it
    at: int
    is_query: bool = False
    commas: int = 0
