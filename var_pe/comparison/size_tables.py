"""Tables of generators at sizes that they were not trained on, beside the best that were trained there."""

from collections.abc import Sequence
from dataclasses import dataclass

from var_pe.comparison.results import ArmEntry, Results, grids_of
from var_pe.comparison.statistics import summary
from var_pe.comparison.table import Table
from var_pe.comparison.verdicts import LOSS, Compared, Rows, family
from var_pe.comparison.wording import over_seeds, p_text, signed
from var_pe.pages.numbers import plain

Grids = list[list[int]]


@dataclass(frozen=True)
class There:
    """An arm's generators at one size, by one way of getting there."""

    arm: ArmEntry
    # of its tables; empty where it follows by itself
    convention: str
    trained_there: bool
    # nats per token by seed
    losses: dict[int, float]

    @property
    def name(self) -> str:
        return f"{self.arm['name']}, {self.convention}" if self.convention else self.arm["name"]

    @property
    def mean(self) -> float:
        return summary(list(self.losses.values())).mean


def all_there(results: Results, grids: Grids) -> list[There]:
    """Every arm and way at a size, the best first."""
    found = []
    for arm in results["arms"]:
        mine = [cell for cell in results["cells"] if cell["arm"] == arm["name"]]
        by_convention: dict[str, dict[int, float]] = {}
        for cell in mine:
            for one in cell.get("sizes", []):
                if one["grids"] == grids:
                    by_convention.setdefault(one["convention"], {})[cell["seed"]] = one["loss"]
        trained = grids in arm.get("trained_at", [])
        found += [There(arm, name, trained, losses) for name, losses in by_convention.items()]
    return sorted(found, key=lambda there: there.mean)


def ceiling_of(found: Sequence[There]) -> There | None:
    """The best that was trained at the size; None where none was."""
    return next((there for there in found if there.trained_there), None)


def above(found: Sequence[There], ceiling: There) -> dict[str, Compared]:
    """By name, the loss above the ceiling of arms that were not trained there; they share one error rate."""
    others = [there for there in found if not there.trained_there]
    rows = [Rows(there.name, ceiling.name, there.losses, ceiling.losses) for there in others]
    return {one.arm: one for one in family(rows)}


def size_tables(results: Results) -> list[Table]:
    """A table for each size that was measured beside the trained ones."""
    sizes: list[Grids] = []
    for cell in results["cells"]:
        for one in cell.get("sizes", []):
            if one["grids"] not in sizes:
                sizes.append(one["grids"])
    return [size_table(results, grids) for grids in sizes]


def size_table(results: Results, grids: Grids) -> Table:
    """All arms at a size: nats, and what they are above the best that was trained there."""
    found = all_there(results, grids)
    ceiling = ceiling_of(found)
    differences = above(found, ceiling) if ceiling is not None else {}
    rows = []
    for there in found:
        row = [there.name, "yes" if there.trained_there else "no", over_seeds(list(there.losses.values()))]
        one = differences.get(there.name)
        if one is None:
            row += ["", ""]
        else:
            row += [signed(one, LOSS), "" if one.p_holm is None else p_text(one.p_holm)]
        rows.append(row)

    header = ["", "trained there", "nats a token", "above the ceiling", "p"]
    notes = [kept(found, ceiling, differences)]
    notes.append(
        "The validation's test images drawn at the size, their tokens by the same tokenizer. The ceiling is "
        "the best arm that was trained there; differences seed by seed, ± half of the interval that holds at "
        "95% for all of them together. Names of conventions say how tables were resampled; what has none "
        "follows by itself."
    )
    title = f"At {words(grids)}: {what_changes(results, grids)}"
    return Table(title, header, rows, notes, results["command"])


def words(grids: Grids) -> str:
    """The finest grid of some levels."""
    rows, columns = grids[-1]
    return f"{rows}x{columns} tokens"


def what_changes(results: Results, grids: Grids) -> str:
    """Whether the same scene has more cells, or the scene itself is larger."""
    own = grids_of(results, results["arms"][0])[-1]
    if grids[-1][0] * own[1] == grids[-1][1] * own[0]:
        return "another scale (the same scene in more or fewer cells)"
    if min(grids[-1]) == min(own):
        return "another extent (a larger scene, its things of the same size)"
    return "another aspect and scale"


def kept(found: Sequence[There], ceiling: There | None, differences: dict[str, Compared]) -> str:
    """Which encoding and which resampling lose least."""
    others = [there for there in found if not there.trained_there]
    if not others:
        return "All arms were trained there."
    said = f"Of what was never trained there {others[0].name} is best, {plain(others[0].mean)} nats a token"
    if ceiling is not None and others[0].name in differences:
        said += f", {signed(differences[others[0].name], LOSS)} against {ceiling.name}, trained there"

    moved = [there for there in others if there.convention]
    names = {there.arm["name"] for there in moved}
    best = [next(there for there in moved if there.arm["name"] == name) for name in sorted(names)]
    several = [there for there in best if sum(one.arm is there.arm for one in moved) > 1]
    for there in several:
        said += f"; of the resamplings of {there.arm['name']}, {there.convention} ({plain(there.mean)})"
    return said + "."
