"""The templates of pages."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from .tables import heading, number

if TYPE_CHECKING:
    from jinja2 import Template

__all__ = ["template"]


@cache
def template(name: str) -> Template:
    """Return a template that refuses unknown names and escapes what it is given.

    Examples
    --------
    >>> template("report.html.j2").name
    'report.html.j2'
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("medseg"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": number,
        "heading": lambda c: heading(c["metric"], c["unit"], c.get("label", "")),
    }
    return environment.get_template(name)
