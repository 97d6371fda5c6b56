"""Parts that every HTML page of this package shares.

A page is one file that opens anywhere, without a network: style, charts and images (data URIs) are
in it. A content security policy in the page forbids every request, and every script but those it
names by their hash. The template engine escapes text from data (ids, names, settings).
"""

import base64
import hashlib
import re
from collections.abc import Callable
from typing import Any

import jinja2
import markupsafe

from wbc_jax.report import chart_parts, tables


def make_environment() -> jinja2.Environment:
    """Returns the template engine of every page: it escapes text, and a misspelt name raises."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("wbc_jax.report", "templates"),
        # Always: the default decides by a file's ending and does not know `.html.j2`.
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        decimal=tables.decimal,
        percent=tables.percent,
        count=tables.count,
        p_value=tables.p_value,
        plural=plural,
        breakable=breakable,
    )
    return environment


def script(environment: jinja2.Environment, name: str) -> dict[str, str]:
    """Returns what a page needs to run a script of the templates: `script` and `script_hash`."""
    text = environment.loader.get_source(environment, name)[0]
    return {"script": markupsafe.Markup(text), "script_hash": policy_hash(text)}


def policy_hash(script: str) -> str:
    """Returns the name of an inline script in a content security policy: its SHA-256."""
    digest = hashlib.sha256(script.encode("utf-8")).digest()
    return "sha256-" + base64.b64encode(digest).decode("ascii")


def plural(number: int, one: str, many: str = "") -> str:
    """Returns a number and its unit: `1 image`, `1,234 images`."""
    return f"{tables.count(number)} {one if number == 1 else many or one + 's'}"


def breakable(name: str) -> markupsafe.Markup:
    """Returns a name in which a line may break after a slash or an underscore."""
    return markupsafe.Markup("<wbr>").join(re.findall(r"[^/_]*[/_]|[^/_]+", name))


def css_colors(**colors: tuple[int, int, int]) -> dict[str, str]:
    """Returns RGB colors by name as CSS writes them, `#0072b2`."""
    return {name: "#" + bytes(color).hex() for name, color in colors.items()}


def uri(picture: bytes, kind: str = "png") -> str:
    """Returns an encoded picture as a data URI."""
    return f"data:image/{kind};base64," + base64.b64encode(picture).decode("ascii")


def chart(draw: Callable[..., Any], data: Any, **options: Any) -> dict[str, str]:
    """Draws a chart for light and for dark pages; returns data URIs for the macro `chart`.

    Args:
        draw: a chart, with the parameter `dark`.
        data: its first argument.
        options: its others.
    """
    return {
        "light": uri(chart_parts.png(draw(data, **options))),
        "dark": uri(chart_parts.png(draw(data, dark=True, **options))),
    }
