"""The HTML page of a comparison: one file, its pictures inside."""

HTML = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ page.title }}</title>
<style>
  body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 75rem; margin: 2rem auto; padding: 0 1rem }
  .wide { overflow-x: auto; }
  table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
  th, td { padding: .3rem .8rem; border-bottom: 1px solid #ccc; text-align: right; }
  th:first-child, td:first-child { text-align: left; }
  td { white-space: nowrap; }
  img { max-width: 100%; }
</style>
</head>
<body>
<h1>{{ page.title }}</h1>
<p>{{ page.intro }}</p>
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
