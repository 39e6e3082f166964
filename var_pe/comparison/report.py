"""The comparison as files: JSON for programs, Markdown and one HTML page for people, two pictures."""

from pathlib import Path

from var_pe.comparison.description import Description, describe
from var_pe.comparison.generator_study import Comparison
from var_pe.comparison.pictures import loss_curves, samples
from var_pe.comparison.table import as_json
from var_pe.files import write_json, write_text, written_whole
from var_pe.pages.charts import png
from var_pe.pages.html import embedded, render
from var_pe.pages.tables import aligned_table, markdown_table

FILES = ("comparison.md", "comparison.html", "comparison.json", "loss_curves.png", "samples.png")


def write_report(comparison: Comparison, folder: Path) -> Description:
    """Writes `FILES` into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    description = describe(comparison)
    pictures = {"loss_curves": png(loss_curves(comparison)), "samples": png(samples(comparison))}
    for name, data in pictures.items():
        with written_whole(folder / f"{name}.png") as draft:
            draft.write_bytes(data)

    write_json(folder / "comparison.json", as_json(comparison), allow_nan=False)
    write_text(folder / "comparison.md", as_markdown(description))
    write_text(folder / "comparison.html", as_html(description, pictures))
    return description


def as_html(description: Description, pictures: dict[str, bytes]) -> str:
    """One page that needs nothing beside it."""
    return render(
        "comparison.html.j2",
        title=description.title,
        intro=description.intro,
        header=description.header,
        rows=description.rows,
        differences=description.differences,
        tokenizer=description.tokenizer,
        notes=description.notes,
        **{name: embedded(data) for name, data in pictures.items()},
    )


def as_markdown(description: Description) -> str:
    """The same with the pictures beside it."""
    first, *encodings, last = description.header
    header = [first, *(f"`{encoding}`" for encoding in encodings), last]
    lines = [
        f"# {description.title}",
        "",
        description.intro,
        "",
        markdown_table(header, description.rows),
        "",
    ]

    if description.differences:
        lines += ["## Differences to the first encoding", ""]
        lines += [*(f"- {line}" for line in description.differences), ""]
    lines += ["## The same seeds under every encoding", "", "![samples](samples.png)", ""]
    lines += ["## Loss", "", "![training and validation loss](loss_curves.png)", ""]

    if description.tokenizer:
        lines += ["## The tokenizer that all share", ""]
        lines += [*(f"- {line}" for line in description.tokenizer), ""]
    lines += ["## What the numbers rest on", ""]
    lines += [*(f"- {line}" for line in description.notes), ""]
    return "\n".join(lines)


def as_text(description: Description) -> str:
    """The table for a terminal: a line for each quantity, a column for each encoding."""
    return aligned_table([description.header, *description.rows])
