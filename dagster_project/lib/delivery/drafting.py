"""A new destination's file: every key of its kind, with what it means, to be filled in by a person."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from dagster_project.lib.contracts import NAME
from dagster_project.lib.delivery.configuration import KINDS, AdvertisingConfigured, Configured
from dagster_project.lib.errors import OnefoldError
from dagster_project.lib.home import Home

# What is written for keys that have to be said, in YAML; nothing of it leads anywhere. NAME is the destination's, in capitals.
_WRITTEN: dict[str, dict[str, str]] = {
    "files": {"columns": "[customer_id, email, city]", "format": "csv"},
    "webhook": {
        "columns": "{id: customer_id, mail: email}",
        "key": "id",
        "url": "https://crm.example.invalid/audiences",
        "secret": "{env: NAME_SECRET}",
    },
    "postgres": {"columns": "[customer_id, email, city]", "dsn": "{env: NAME_DSN}", "table": "marketing.members"},
    "warehouse": {"columns": "[customer_id, email, city]"},
    "google": {
        "account": "000-000-0000",
        "credentials": "{env: GOOGLE_APPLICATION_CREDENTIALS}",
    },
    "meta": {"token": "{env: META_ACCESS_TOKEN}"},
    "smtp": {
        "columns": "[customer_id, email, first_name]",
        "host": "smtp.example.invalid",
        "username": "{env: NAME_USER}",
        "password": "{env: NAME_PASSWORD}",
        "from": "Shop <news@example.invalid>",
        "subject": "\"We miss you, {{ first_name or 'dear customer' }}\"",
        "text": '"Hello {{ first_name }},\\n\\nthere is news in our shop.\\n\\nNo more mail: {{ unsubscribe_url }}\\n"',
        "unsubscribe": '"https://shop.example.invalid/unsubscribe?customer={{ customer_id | urlencode }}"',
    },
    "apprise": {"url": "{env: NAME_URL}", "message": "\"{{ count }} {{ 'entered' if operation == 'add' else 'left' }}\""},
    "drt": {
        "columns": "{email: email, firstname: first_name, city: city}",
        "key": "email",
        "destination": "{type: hubspot, auth: {type: bearer, token: {env: NAME_TOKEN}}}",
        "membership": '"in_{audience}"',
    },
}
_FIRST = ("audiences", "columns", "key")  # then the kind's own, then what all have


def draft(kind: str, name: str, audiences: Sequence[str] = ()) -> str:
    """The text of a file for a destination of a kind; one that sends nothing while no audience is named.

    Raises:
        OnefoldError: there is no such kind.
    """
    if kind not in KINDS:
        raise OnefoldError(f"there is no kind '{kind}'; there are {', '.join(KINDS)}")
    model = KINDS[kind]
    common = [key for key in Configured.model_fields if key not in _FIRST]
    own = [key for key in model.model_fields if key not in Configured.model_fields and key != "kind"]
    has_lists = issubclass(model, AdvertisingConfigured)
    if has_lists and audiences:
        raise OnefoldError(f"{kind}: an audience needs the number of its list there; write both into the file")
    written = {"audiences": "{}" if has_lists else f"[{', '.join(audiences)}]", **_WRITTEN[kind]}
    lines = [f"# {(model.__doc__ or '').strip()} docs/destinations.md says more of each key.", "", f"kind: {kind}"]
    for heading, keys in (("", _FIRST), (f"# Of this kind ({kind})", own), ("# Of every kind", common)):
        found = [key for key in keys if key != "key" or model.model_fields["key"].annotation != tuple[()]]
        lines += ["", *([heading] if heading else [])] if found else []
        for key in found:
            field = model.model_fields[key]
            lines += _line(field.alias or key, field, written)
    return "\n".join(lines).replace("NAME_", f"{name.upper()}_") + "\n"


def add_draft(home: Home, name: str, kind: str, audiences: Sequence[str] = ()) -> Path:
    """Write a new destination's file into the home; returns its path.

    Raises:
        OnefoldError: there is one of that name, or the name or kind is none.
    """
    if not re.fullmatch(NAME, name):
        raise OnefoldError(f"'{name}' is no name of a destination; write it in lower case with underscores")
    text = draft(kind, name, audiences)
    folder = home.path / "destinations"
    folder.mkdir(parents=True, exist_ok=True)
    there = [file for file in (folder / f"{name}.yaml", folder / f"{name}.yml") if file.exists()]
    if there:
        raise OnefoldError(f"{there[0]}: is there already; give the new destination another name")
    file = folder / f"{name}.yaml"
    try:
        with file.open("x", encoding="utf-8") as handle:
            handle.write(text)
    except FileExistsError as error:
        raise OnefoldError(f"{file}: is there already; give the new destination another name") from error
    return file


def variables(text: str) -> list[str]:
    """The environment variables that a file's text names outside comments, in order."""
    stated = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    return list(dict.fromkeys(re.findall(r"\{env: ([A-Za-z_][A-Za-z0-9_]*)\}", stated)))


def _line(key: str, field: FieldInfo, written: dict[str, str]) -> list[str]:
    about = f"# {field.description}" if field.description else ""
    if key in written:
        return [*([about] if about else []), f"{key}: {written[key]}"]
    default = field.get_default(call_default_factory=True)
    return [*([about] if about else []), f"# {key}: {_yaml(default)}".rstrip()]


def _yaml(value: Any) -> str:
    """A default as YAML in one line; nothing for none."""
    if value is None:
        return ""
    if isinstance(value, BaseModel):
        return _flow(value.model_dump())
    return _flow(list(value) if isinstance(value, tuple) else value)


def _flow(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z][\w.]*", value):
        return value
    return json.dumps(value, ensure_ascii=False)
