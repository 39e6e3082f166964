"""A study's report as files: JSON for programs, one HTML page and Markdown for people, the samples."""

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from var_pe.comparison.page import as_html
from var_pe.comparison.report import Report, report_of, sample_rows
from var_pe.comparison.results import Results, write
from var_pe.comparison.table import Table
from var_pe.files import write_text, written_whole
from var_pe.pages.sheets import Cell, Section, sheet
from var_pe.pages.tables import aligned_table, markdown_table

FILES = ("comparison.html", "comparison.md", "comparison.json", "samples.png")
SAMPLES = "The same seeds under every arm"
SHEET_WIDTH = 1300  # pixels of the samples, as far as whole factors allow


def write_report(results: Results, folder: Path) -> str:
    """Writes `FILES` into `folder`; returns what a terminal is shown."""
    write(results, folder)
    report = report_of(results)
    rows = sample_rows(results)
    pictures = {SAMPLES: "samples.png"} if rows else {}
    write_text(folder / "comparison.md", as_markdown(report, pictures))
    write_text(folder / "comparison.html", as_html(results, report))
    if rows:
        with written_whole(folder / "samples.png") as draft:
            draft.write_bytes(samples_png(results))
    return as_text(report)


def samples_png(results: Results) -> bytes:
    """The rows of pictures, as a PNG."""
    file = io.BytesIO()
    sample_sheet([(title, picture) for title, picture, _ in sample_rows(results)]).save(file, format="png")
    return file.getvalue()


def as_markdown(report: Report, pictures: Mapping[str, str]) -> str:
    """The report with the pictures beside it, which are given as files by their titles."""
    lines = [f"# {report.title}", ""]
    if report.question:
        lines += [report.question, ""]
    for sentence in report.answer:
        lines += [sentence, ""]
    if report.sensitivity:
        lines += [report.sensitivity, ""]
    lines += [report.trained, ""]
    if report.missing:
        lines += [*(f"- {line}" for line in report.missing), ""]

    lines += _table(report.ranking)
    guide = [*report.guide, f"The rule: {report.rule}"]
    lines += ["## What to take", "", *(f"- {line}" for line in guide), ""]
    if report.findings:
        lines += ["## What else was found", "", *(f"- {line}" for line in report.findings), ""]
    for title, file in pictures.items():
        lines += [f"## {title}", "", f"![{title}]({file})", ""]

    for table in report.tables:
        lines += _table(table)
    lines += ["## Tokenizers", "", *(f"- {line}" for line in report.tokenizers), ""]
    lines += ["## What the numbers rest on", "", *(f"- {line}" for line in report.notes), ""]
    return "\n".join(lines)


def _table(table: Table) -> list[str]:
    named = table.rows if table.prose else [[f"`{row[0]}`", *row[1:]] for row in table.rows]
    lines = [f"## {table.title}", "", markdown_table(table.header, named), ""]
    lines += [*(f"- {note}" for note in table.notes)]
    if table.command:
        lines += [f"- Made by `{table.command}`"]
    return [*lines, ""]


def as_text(report: Report) -> str:
    """The ranking for a terminal, with the answer and what is missing."""
    table = aligned_table([report.ranking.header, *report.ranking.rows]) if report.ranking.rows else ""
    seen = [report.sensitivity] if report.sensitivity else []
    return "\n".join([table, "", *report.answer, *seen, *report.findings, *report.missing])


def sample_sheet(rows: Sequence[tuple[str, str]]) -> Image.Image:
    """Strips in base64 below each other, each with its title."""
    sections = []
    for title, picture in rows:
        row = np.asarray(Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB"))
        factor = max(1, SHEET_WIDTH // row.shape[1])
        row = row.repeat(factor, axis=0).repeat(factor, axis=1)
        sections.append(Section(title, [Cell([row])], across=1))
    return sheet(sections)
