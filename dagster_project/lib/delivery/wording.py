"""Texts of messages: Jinja templates, in its sandbox, filled with a member's columns."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import jinja2
import jinja2.meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

# What a template raises that a row's values do not fit, such as `{{ spent / orders }}` of somebody without orders.
UNFIT = (jinja2.TemplateError, ArithmeticError, TypeError, ValueError, LookupError, AttributeError)


def _environment(is_html: bool) -> ImmutableSandboxedEnvironment:
    return ImmutableSandboxedEnvironment(
        autoescape=is_html,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: "" if value is None else value,
        keep_trailing_newline=True,
    )


_PLAIN, _HTML = _environment(False), _environment(True)


def template(text: str, known: Collection[str], is_html: bool = False) -> Callable[[Mapping[str, Any]], str]:
    """What fills a template with values; in HTML they are escaped, and null is nothing.

    Args:
        known: names of the values that there are.

    Raises:
        ValueError: the template is not well formed, or names a value that there is not.
    """
    environment = _HTML if is_html else _PLAIN
    try:
        parsed = environment.parse(text)
        compiled = environment.from_string(parsed)
    except jinja2.TemplateError as error:
        raise ValueError(f"is no template that Jinja understands: {error}") from error
    if unknown := sorted(jinja2.meta.find_undeclared_variables(parsed) - set(known)):
        raise ValueError(f"names '{unknown[0]}', which is none of the columns; there are {', '.join(sorted(known))}")
    return lambda values: compiled.render(values)
