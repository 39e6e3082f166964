"""Tables of text: Markdown for pages, aligned columns for a terminal."""

from collections.abc import Iterable, Sequence

PIPE = r"\|"  # within a cell


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """The table's lines, without a newline at the end; a `|` in a cell does not end it."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', PIPE) for cell in cells)} |" for cells in lines)


def aligned_table(rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell: the first flush left, numbers flush right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    lines = []
    for first, *others in rows:
        cells = [first.ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join(cells))
    return "\n".join(lines)
