"""The comparison as files: JSON for programs, Markdown and one HTML page for people, two pictures."""

import base64
import json
from pathlib import Path

from jinja2 import Environment

from var_pe.comparison.page import Page, describe, markdown
from var_pe.comparison.pictures import loss_curves, samples
from var_pe.comparison.study import Comparison
from var_pe.comparison.table import as_json
from var_pe.files import write_text
from var_pe.pages.html import HEAD, png

BODY = """
<div class="wide">
<table>
<thead>
<tr>{% for name in page.header %}<th scope="col">{{ name }}</th>{% endfor %}</tr>
</thead>
<tbody>
{% for row in page.rows %}
<tr><td><code>{{ row[0] }}</code></td>{% for value in row[1:] %}<td>{{ value }}</td>{% endfor %}</tr>
{% endfor %}
</tbody>
</table>
</div>
{% if page.differences %}
<h2>Differences to the first encoding</h2>
<ul>
{% for line in page.differences %}
<li>{{ line }}</li>
{% endfor %}
</ul>
{% endif %}
<h2>What the numbers rest on</h2>
<ul>
{% for line in page.floors + page.notes %}
<li>{{ line }}</li>
{% endfor %}
</ul>
<h2>Loss</h2>
<img alt="Training and validation loss over steps, a line for each encoding"
     src="data:image/png;base64,{{ pictures.loss_curves }}">
<h2>The same seeds under every encoding</h2>
<img alt="Samples: a row for each encoding, a column for each seed"
     src="data:image/png;base64,{{ pictures.samples }}">
</body>
</html>
"""


def write_report(comparison: Comparison, folder: Path) -> Page:
    """Writes comparison.json, .md and .html, loss_curves.png and samples.png into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    page = describe(comparison)
    pictures = {"loss_curves": png(loss_curves(comparison)), "samples": png(samples(comparison))}
    for name, data in pictures.items():
        (folder / f"{name}.png").write_bytes(data)
    encoded = {name: base64.b64encode(data).decode() for name, data in pictures.items()}
    html = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(HEAD + BODY)
    write_text(folder / "comparison.json", json.dumps(as_json(comparison), indent=2, allow_nan=False) + "\n")
    write_text(folder / "comparison.md", markdown(page))
    write_text(folder / "comparison.html", html.render(page=page, pictures=encoded))
    return page
