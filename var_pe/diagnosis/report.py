"""The diagnosis as lines for a terminal and as one HTML page."""

from pathlib import Path

from var_pe.diagnosis.diagnose import Diagnosis
from var_pe.files import write_text
from var_pe.pages.charts import png
from var_pe.pages.html import embedded, render


def as_text(diagnosis: Diagnosis) -> str:
    """The findings, each with what to do about it below."""
    lines = [diagnosis.title, diagnosis.intro]
    for heading, findings in diagnosis.sections.items():
        lines += ["", heading]
        for finding in findings:
            lines.append(f"  {finding.verdict:<8} {finding.said}")
            if finding.todo:
                lines.append(f"           -> {finding.todo}")
    return "\n".join(lines)


def write_page(diagnosis: Diagnosis, path: Path) -> None:
    """One file with the pictures in it."""
    page = render(
        "diagnosis.html.j2",
        title=diagnosis.title,
        intro=diagnosis.intro,
        sections=diagnosis.sections,
        pictures={title: embedded(png(figure)) for title, figure in diagnosis.pictures.items()},
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, page)
