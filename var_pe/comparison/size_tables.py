"""Tables of generators at sizes that they were not trained on, beside the best that were trained there."""

from collections.abc import Sequence
from dataclasses import dataclass

from var_pe.comparison.results import ArmEntry, Results, grids_of
from var_pe.comparison.statistics import summary
from var_pe.comparison.table import Table
from var_pe.comparison.verdicts import LOSS, Compared, Rows, family
from var_pe.comparison.wording import over_seeds, p_text, signed
from var_pe.pages.numbers import percent, plain

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
        return f"{self.arm['name']} by {self.convention}" if self.convention else self.arm["name"]

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


def sizes_of(results: Results) -> list[Grids]:
    """The sizes that were measured beside the trained ones."""
    sizes: list[Grids] = []
    for cell in results["cells"]:
        for one in cell.get("sizes", []):
            if one["grids"] not in sizes:
                sizes.append(one["grids"])
    return sizes


def shares_kept(found: Sequence[There], ceiling: There | None) -> dict[str, list[float]]:
    """By name and seed, how much of the way from no positions to the ceiling an arm keeps.

    1 is the ceiling, 0 what a generator without positions gets that was never trained there either. Empty
    where there is no such generator, or the ceiling does not gain on it under every seed.
    """
    others = [there for there in found if not there.trained_there]
    bottom = next((there for there in others if there.arm["encoding"] == "none"), None)
    if ceiling is None or bottom is None:
        return {}
    gains = {
        seed: loss - ceiling.losses[seed] for seed, loss in bottom.losses.items() if seed in ceiling.losses
    }
    if not gains or min(gains.values()) <= 0:
        return {}
    return {
        there.name: [(bottom.losses[seed] - there.losses[seed]) / gain for seed, gain in gains.items()]
        for there in others
        if there.losses.keys() >= gains.keys()
    }


def size_tables(results: Results) -> list[Table]:
    """A table for each size that was measured beside the trained ones."""
    return [size_table(results, grids) for grids in sizes_of(results)]


def size_table(results: Results, grids: Grids) -> Table:
    """All arms at a size: nats, what they are above the best that was trained there, and the share kept."""
    found = all_there(results, grids)
    ceiling = ceiling_of(found)
    differences = above(found, ceiling) if ceiling is not None else {}
    shares = shares_kept(found, ceiling)
    rows = []
    for there in found:
        row = [there.name, "yes" if there.trained_there else "no", over_seeds(list(there.losses.values()))]
        one = differences.get(there.name)
        if one is None:
            row += ["", ""]
        else:
            row += [signed(one, LOSS), "" if one.p_holm is None else p_text(one.p_holm)]
        if shares:
            row.append(_percent(shares[there.name]) if there.name in shares else "")
        rows.append(row)

    header = [
        "",
        "trained there",
        "nats a token",
        "above the ceiling",
        "p",
        *(["share kept"] if shares else []),
    ]
    notes = [size_sentence(results, grids)]
    notes.append(
        "The validation's test images drawn at the size, their tokens by the same tokenizer. The ceiling is "
        "the best arm that was trained there; differences seed by seed, ± half of the interval that holds at "
        '95% for all of them together. After "by" stands how tables were resampled, or waves of rope '
        "remapped; arms without it follow as they are."
    )
    if shares:
        notes.append(
            "Share kept: of the way from a generator without positions, never trained there either, to the "
            "ceiling; mean ± standard deviation over seeds. Below 0 % it is worse than no positions."
        )
    title = at_size(results, grids)
    return Table(f"{title[0].upper()}{title[1:]}", header, rows, notes, results["command"])


def at_size(results: Results, grids: Grids) -> str:
    """`at 9x9 tokens, another scale (the same scene in more or fewer cells)`."""
    return f"at {words(grids)}, {what_changes(results, grids)}"


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


def size_sentence(results: Results, grids: Grids) -> str:
    """What the best encoding and the best resampling keep at a size."""
    found = all_there(results, grids)
    ceiling, others = ceiling_of(found), [there for there in found if not there.trained_there]
    where = at_size(results, grids)
    if not others:
        return f"All arms were trained {where}."
    differences = above(found, ceiling) if ceiling is not None else {}
    shares = shares_kept(found, ceiling)

    def has(there: There) -> str:
        share = f", keeping {_percent(shares[there.name])}" if there.name in shares else ""
        return f"{plain(there.mean)} nats a token{share}"

    def short(there: There) -> str:
        return _percent(shares[there.name]) if there.name in shares else plain(there.mean)

    best = others[0]
    said = f"Never trained {where}: best is {best.name} ({has(best)})"
    if ceiling is not None and best.name in differences:
        said += f", {signed(differences[best.name], LOSS)} against the ceiling, {ceiling.name} "
        said += f"({plain(ceiling.mean)}), trained there"

    # The ways of one arm's table come with the best first.
    by_arm: dict[str, list[There]] = {}
    for there in others:
        if there.convention:
            by_arm.setdefault(there.arm["name"], []).append(there)
    for name, ways in by_arm.items():
        if len(ways) > 1:
            said += f"; of the {len(ways)} ways of {name}, best is {ways[0].convention} "
            said += f"({short(ways[0])}), worst {ways[-1].convention} ({short(ways[-1])})"
    return said + "."


def _percent(shares: Sequence[float]) -> str:
    found = summary(shares)
    return f"{percent(found.mean, found.spread)} %"
