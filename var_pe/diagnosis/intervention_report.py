"""Interventions on a generator's positions as JSON, Markdown, a picture and one HTML page."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TypedDict, cast

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from var_pe.diagnosis.interventions import NO_PLACES, RANDOM, REST, SINUSOID, Interventions
from var_pe.files import write_json, write_text, written_whole
from var_pe.pages.charts import png
from var_pe.pages.html import embedded, render
from var_pe.pages.numbers import plain
from var_pe.pages.tables import markdown_table

NAME = "interventions"
WRITTEN = 7  # levels up to which numbers stand in the cells of maps
FILES = tuple(f"{NAME}.{ending}" for ending in ("html", "md", "json", "png"))


class OneEffect(TypedDict):
    """`interventions.py: Effect` as JSON has it."""

    name: str
    level: int
    size: float
    change: list[float]
    error: list[float]


class Found(TypedDict):
    """Everything that the pages are made of."""

    encoding: str
    grids: list[list[int]]
    nats: list[float]
    effects: list[OneEffect]
    images: int
    dimensions: list[list[int]]
    # what the images are
    of: str
    command: str
    weights: str
    versions: dict[str, str]


def as_found(done: Interventions, **about: object) -> Found:
    """The measured interventions as they are saved, with what the numbers rest on."""
    return cast(Found, json.loads(json.dumps({**asdict(done), **about})))


def read_found(file: Path) -> Found:
    """Reads it.

    Raises:
        ValueError: it is another kind of file.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not JSON ({error})") from None
    if not isinstance(found, dict) or not found.keys() >= Found.__annotations__.keys():
        raise ValueError(f"{file} is not the {NAME}.json of this command")
    return cast(Found, found)


def write_found(found: Found, folder: Path) -> None:
    """Writes `FILES`."""
    folder.mkdir(parents=True, exist_ok=True)
    picture = png(figure_of(found))
    write_json(folder / f"{NAME}.json", found, allow_nan=False)
    with written_whole(folder / f"{NAME}.png") as draft:
        draft.write_bytes(picture)
    write_text(folder / f"{NAME}.md", as_markdown(found))
    page = render(
        "interventions.html.j2",
        title=title(found),
        intro=" ".join(answer(found)),
        picture=embedded(picture),
        notes=notes(found),
        tables=[(name, header(found), rows(found, name)) for name in names(found)],
    )
    write_text(folder / f"{NAME}.html", page)


# ------------------------------------------------------------------------------------------- in words


def title(found: Found) -> str:
    return f"What changes when the positions of one level change: {found['encoding']}"


def names(found: Found) -> list[str]:
    """The changes, in the order in which they were made."""
    return list(dict.fromkeys(effect["name"] for effect in found["effects"]))


def level_name(found: Found, level: int) -> str:
    rows, columns = found["grids"][level]
    return f"{rows}x{columns}"


def total(found: Found, name: str) -> float:
    """Nats an image that a change costs, added up over the levels that it is made in, one at a time."""
    return sum(sum(effect["change"]) for effect in found["effects"] if effect["name"] == name)


def answer(found: Found) -> list[str]:
    """What the model relies on, in a few sentences."""
    effects = [effect for effect in found["effects"] if effect["name"] == NO_PLACES]
    if not effects:
        return ["No level has more than one token, so there are no places to change."]
    worst = max(effects, key=lambda effect: sum(effect["change"]))
    level, change = worst["level"], sum(worst["change"])
    own = worst["change"][level] / (change or 1.0)
    sentence = f"Of {plain(sum(found['nats']))} nats an image, places matter most on level "
    sentence += f"{level_name(found, level)}: without them the model needs {plain(change)} more"
    sentences = [sentence + (f", {own:.0%} of these on that level itself." if 0 <= own <= 1 else ".")]

    whole, noise = total(found, NO_PLACES), 2 * sum(sum(effect["error"]) for effect in effects)
    if whole <= noise:
        sentences.append(f"Places bring {plain(whole)} nats, which is within the noise of so few images.")
    else:
        kept = {name: 1 - total(found, name) / whole for name in (SINUSOID, REST, RANDOM)}
        sentences.append(
            f"Of all that places bring, one level at a time, the part of the table in the sinusoid's span "
            f"keeps {kept[SINUSOID]:.0%} by itself, the rest {kept[REST]:.0%}, and the part in as "
            f"many random functions of the place {kept[RANDOM]:.0%}."
        )
        # A level with a table of no higher rank is not changed and loses nothing, so all ranks share a whole.
        ranks = [name for name in names(found) if name.startswith("rank ")]
        if ranks:
            shown = [f"{rank.removeprefix('rank ')}: {1 - total(found, rank) / whole:.0%}" for rank in ranks]
            sentences.append(
                f"A table of low rank keeps, by rank, {', '.join(shown)} (all levels count; a small one, "
                f"whose table has no higher rank, keeps it whole)."
            )
    return sentences


def notes(found: Found) -> list[str]:
    """Notes on what the numbers mean and rest on."""
    spans = ", ".join(
        f"{level_name(found, level)}: {inside} of {of}"
        for level, (inside, of) in enumerate(found["dimensions"])
        if of
    )
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    return [
        "Rows: the level whose table is changed, one at a time. Columns: the level whose nats change. Finer "
        "levels see coarser ones, and not the other way round. Nats an image, with the standard error over "
        "images, given the true coarser tokens.",
        "The level's mean stays under every change. Shifted and exchanged tables keep all codes and give "
        "them to other places. The table of the level before is resampled bilinearly.",
        f"Dimensions of the sinusoid's span on each level, of all that a table can have there: {spans}.",
        f"{found['images']:,} {found['of']}; weights {found['weights']}; {versions}.",
        f"Made by {found['command']}",
    ]


def header(found: Found) -> list[str]:
    grids = [level_name(found, level) for level in range(len(found["grids"]))]
    return ["changed level", *grids, "all levels", "size of the change"]


def rows(found: Found, name: str) -> list[list[str]]:
    """A row for each level that is changed."""
    made = []
    for effect in found["effects"]:
        if effect["name"] != name:
            continue
        pairs = zip(effect["change"], effect["error"], strict=True)
        cells = ["" if level < effect["level"] else _text(*pair) for level, pair in enumerate(pairs)]
        change = sum(effect["change"])
        sign = "+" if change > 0 else ""
        made.append(
            [level_name(found, effect["level"]), *cells, f"{sign}{plain(change)}", f"{effect['size']:.2f}"]
        )
    return made


def _text(change: float, error: float) -> str:
    return f"{'+' if change > 0 else ''}{plain(change)} ± {plain(error)}"


def as_markdown(found: Found) -> str:
    """The page with the picture beside it."""
    lines = [f"# {title(found)}", "", " ".join(answer(found)), "", f"![heat maps]({NAME}.png)", ""]
    for name in names(found):
        lines += [f"## {name[0].upper()}{name[1:]}", "", markdown_table(header(found), rows(found, name)), ""]
    return "\n".join([*lines, *(f"- {note}" for note in notes(found)), ""])


# ------------------------------------------------------------------------------------------- heat maps


def figure_of(found: Found) -> Figure:
    """A map for each change: rows are changed levels, columns those whose nats change."""
    all_names = names(found)
    across = min(4, max(1, len(all_names)))
    down = -(-max(1, len(all_names)) // across)
    figure = Figure(figsize=(3.1 * across, 2.9 * down + 0.4), dpi=110, layout="constrained")
    grid = list(figure.subplots(down, across, squeeze=False).flat)
    changes = [value for effect in found["effects"] for value in effect["change"]]
    most = max((abs(value) for value in changes), default=0.0) or 1.0
    for axes, name in zip(grid, all_names, strict=False):
        draw_map(axes, found, name, most)
    for axes in grid[len(all_names) :]:
        axes.set_axis_off()
    figure.suptitle("change in nats an image; rows: changed level, columns: where it shows", fontsize=9)
    return figure


def draw_map(axes: Axes, found: Found, name: str, most: float) -> None:
    """One change; colours by the square root, so that small effects are seen beside large ones."""
    number = len(found["grids"])
    strength_KK = np.full((number, number), np.nan)
    for effect in found["effects"]:
        if effect["name"] == name:
            row = np.array(effect["change"]) / most
            strength_KK[effect["level"]] = np.sign(row) * np.sqrt(np.abs(row))
            strength_KK[effect["level"], : effect["level"]] = np.nan
            for level in range(effect["level"], number) if number <= WRITTEN else ():
                value = effect["change"][level]
                axes.text(level, effect["level"], f"{value:.2g}", fontsize=7, ha="center", va="center")
    axes.imshow(strength_KK, cmap="RdBu_r", vmin=-1.3, vmax=1.3)  # ends are too dark for the numbers
    ticks = [level_name(found, level) for level in range(number)]
    axes.set_xticks(range(number), ticks, fontsize=7, rotation=90 if number > 6 else 0)
    axes.set_yticks(range(number), ticks, fontsize=7)
    axes.set_title(name, fontsize=8)
