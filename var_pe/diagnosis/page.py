"""The diagnosis put together: findings under headings, as lines for a terminal and as one HTML page."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment
from matplotlib.figure import Figure

from var_pe.diagnosis import findings as of_model
from var_pe.diagnosis import fit
from var_pe.diagnosis.evidence import Measured
from var_pe.diagnosis.files import misfits, model_folder
from var_pe.diagnosis.findings import Finding
from var_pe.diagnosis.measures import Asked
from var_pe.diagnosis.opening import Checkpoint, open_subject
from var_pe.diagnosis.pictures import bias_figure, norm_histograms, similarity_figures, wavelength_figure
from var_pe.diagnosis.resampling import moved
from var_pe.diagnosis.subject import Subject, tokens_before_positions
from var_pe.encodings.base import HOOKS
from var_pe.files import write_text
from var_pe.pages.html import HEAD, png

BODY = """
{% for heading, found in page.sections.items() %}
<h2>{{ heading }}</h2>
<ul>
{% for finding in found %}
<li><b>{{ finding.verdict }}</b>: {{ finding.said }} <em>{{ finding.todo }}</em></li>
{% endfor %}
</ul>
{% endfor %}
{% for title, picture in pictures.items() %}
<h2>{{ title }}</h2>
<img alt="{{ title }}" src="data:image/png;base64,{{ picture }}">
{% endfor %}
</body>
</html>
"""


@dataclass(frozen=True)
class Diagnosis:
    """All that a person reads and sees."""

    title: str
    intro: str
    sections: dict[str, list[Finding]]
    pictures: dict[str, Figure]


def diagnose(
    path: Path,
    checkpoint: Checkpoint | None = None,
    *,
    size: tuple[int, int] | None = None,
    convention: str = "timm",
    task: str | None = None,
    rows: Sequence[Measured] = (),
) -> Diagnosis:
    """Everything about the model at `path`; one whose files do not fit each other is not loaded.

    Raises:
        ValueError: there is no such model, or `size` is none that it can have.
    """
    folder = model_folder(path)
    if folder is not None and (found := list(misfits(folder))):
        return Diagnosis(f"Positions of {path.name}", "It was not loaded.", {"Files": found}, {})
    return of_subject(open_subject(path, checkpoint), size, convention, task, rows)


def of_subject(
    subject: Subject,
    size: tuple[int, int] | None,
    convention: str,
    task: str | None,
    rows: Sequence[Measured],
) -> Diagnosis:
    """A model whose weights are no numbers is not measured further."""
    model, line = subject.model, str(subject.model.config["encoding"])
    hooks = ", ".join(hook for hook in HOOKS if subject.encoding.uses(hook)) or "nothing"
    title = f"Positions of {subject.name}"
    intro = f"{type(model).__name__}, encoding {line}, grids {model.pyramid}; it acts on {hooks}."
    sections = {"Weights": [*of_model.weights(subject), *of_model.grids(subject), *of_model.prefix(subject)]}
    if any(finding.verdict == "problem" for finding in sections["Weights"]):
        return Diagnosis(title, intro, sections, {})
    asked = Asked(subject.encoding, model.pyramid, model.config["dim"], model.config["num_heads"])
    tokens_BLC, what = tokens_before_positions(subject)
    sections["At its own size"] = [
        *of_model.norms(asked, tokens_BLC, what),
        *of_model.places(asked),
        *of_model.rotary(asked),
        *of_model.mixture(asked),
    ]
    there = None if size is None else at(asked, subject, size, convention)
    if size is not None and there is not None:
        sections[f"At {size[0]}x{size[1]} pixels"] = list(fit.at_size(asked, there, convention))
    if task is not None:
        sections[f"For {task}"] = list(fit.for_task(line, task, rows))
    pictures = similarity_figures(asked, there if isinstance(there, Asked) else None)
    for name, figure in (
        ("Norms of tokens and of positions", norm_histograms(asked, tokens_BLC)),
        ("Rotary wavelengths against the grid", wavelength_figure(asked)),
        ("What the bias lets the centre see", bias_figure(asked)),
    ):
        pictures |= {} if figure is None else {name: figure}
    return Diagnosis(title, intro, sections, pictures)


def at(asked: Asked, subject: Subject, size: tuple[int, int], convention: str) -> Asked | ValueError:
    pyramid = subject.pyramid_at(size)
    try:
        return moved(asked, pyramid, convention)
    except ValueError as error:
        return error


def as_text(diagnosis: Diagnosis) -> str:
    lines = [diagnosis.title, diagnosis.intro]
    for heading, found in diagnosis.sections.items():
        lines += ["", heading]
        for finding in found:
            lines.append(f"  {finding.verdict:<8} {finding.said}")
            lines += [f"           -> {finding.todo}"] if finding.todo else []
    return "\n".join(lines)


def write_page(diagnosis: Diagnosis, path: Path) -> None:
    """One file with the pictures in it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    encoded = {title: base64.b64encode(png(figure)).decode() for title, figure in diagnosis.pictures.items()}
    template = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(HEAD + BODY)
    write_text(path, template.render(page=diagnosis, pictures=encoded))
