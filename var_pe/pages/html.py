"""HTML pages from the templates beside this file; each is one file, its style and pictures in it."""

import base64

from jinja2 import Environment, PackageLoader, StrictUndefined

# Text that comes from configs and folder names is escaped; a name that a template misses is an error.
TEMPLATES = Environment(
    loader=PackageLoader("var_pe.pages", "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render(template: str, **values: object) -> str:
    """The page that the template of this name makes of `values`."""
    return TEMPLATES.get_template(template).render(values)


def embedded(png: bytes) -> str:
    """The address of a picture that stands in the page itself."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
