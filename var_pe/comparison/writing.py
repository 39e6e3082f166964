"""A study's report as files: JSON for programs, one HTML page and Markdown for people, the samples."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from var_pe.comparison.page import as_html
from var_pe.comparison.report import Report, report_of, sample_rows
from var_pe.comparison.results import Results, write
from var_pe.comparison.tables import Table
from var_pe.files import write_text, written_whole
from var_pe.pages.sheets import Cell, Section, sheet
from var_pe.pages.tables import aligned_table, markdown_table

FILES = ("comparison.html", "comparison.md", "comparison.json", "samples.png")
SHEET_WIDTH = 1300  # pixels of the samples, as far as whole factors allow


def write_report(results: Results, folder: Path) -> str:
    """Writes `FILES` into `folder`; returns what a terminal is shown."""
    write(results, folder)
    report = report_of(results)
    rows = sample_rows(results)
    write_text(folder / "comparison.md", as_markdown(report, pictures=bool(rows)))
    write_text(folder / "comparison.html", as_html(results, report))
    if rows:
        file = io.BytesIO()
        sample_sheet([(title, picture) for title, picture, _ in rows]).save(file, format="png")
        with written_whole(folder / "samples.png") as draft:
            draft.write_bytes(file.getvalue())
    return as_text(report)


def as_markdown(report: Report, *, pictures: bool) -> str:
    """The report with the pictures beside it."""
    lines = [f"# {report.title}", "", " ".join(report.answer), ""]
    if report.missing:
        lines += [*(f"- {line}" for line in report.missing), ""]
    lines += _table(report.ranking)
    if pictures:
        lines += ["## The same seeds under every arm", "", "![samples](samples.png)", ""]

    lines += ["## What to take", "", *(f"- {line}" for line in report.guide), ""]
    for table in report.tables:
        lines += _table(table)
    lines += ["## Tokenizers", "", *(f"- {line}" for line in report.tokenizers), ""]
    lines += ["## What the numbers rest on", "", *(f"- {line}" for line in report.notes), ""]
    return "\n".join(lines)


def _table(table: Table) -> list[str]:
    named = [[f"`{row[0]}`", *row[1:]] for row in table.rows]
    lines = [f"## {table.title}", "", markdown_table(table.header, named), ""]
    lines += [*(f"- {note}" for note in table.notes)]
    if table.command:
        lines += [f"- Made by `{table.command}`"]
    return [*lines, ""]


def as_text(report: Report) -> str:
    """The ranking for a terminal, with the answer and what is missing."""
    table = aligned_table([report.ranking.header, *report.ranking.rows]) if report.ranking.rows else ""
    return "\n".join([table, "", *report.answer, *report.missing])


def sample_sheet(rows: Sequence[tuple[str, str]]) -> Image.Image:
    """Strips in base64 below each other, each with its title."""
    sections = []
    for title, picture in rows:
        row = np.asarray(Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB"))
        factor = max(1, SHEET_WIDTH // row.shape[1])
        row = row.repeat(factor, axis=0).repeat(factor, axis=1)
        sections.append(Section(title, [Cell([row])], across=1))
    return sheet(sections)
