"""Excess nats: what arms need beyond what the tokens of made-up pictures hold, counted exactly."""

import math
from itertools import pairwise

from var_pe.comparison.results import ArmEntry, Exact, Results, grids_of
from var_pe.comparison.table import Table
from var_pe.comparison.verdicts import LOSS, ranking
from var_pe.comparison.wording import over_seeds
from var_pe.data.shapes import CLASSES
from var_pe.pages.numbers import plain

EXACT = "the tokens, exactly"
AT_ONCE = "the least that drawing a level at once allows"
BY_LEVEL = "of these on "


def exact_of(results: Results, arm: ArmEntry) -> Exact | None:
    """What the tokens of an arm's tokenizer hold; None where they were not counted."""
    return results["shared"].get("exact", {}).get(arm.get("tokenizer", ""))


def floor_of(results: Results) -> tuple[str, float] | None:
    """The name and value of what no arm can be expected to beat in the primary quantity; None: not known.

    It is what real images get, or the nats a token below which none gets that draws a level at once.
    """
    known = results["floor"].get(results["primary"])
    if known is not None:
        return "real images", known
    if results["primary"] != LOSS.key:
        return None

    # Arms behind different tokenizers have no floor in common.
    counted = [exact_of(results, arm) for arm in results["arms"]]
    exact = counted[0] if counted else None
    if exact is None or any(one != exact for one in counted):
        return None
    return AT_ONCE, sum(exact["nats_by_place"]) / len(exact["nats_by_place"])


def excess_sentences(results: Results) -> list[str]:
    """How near the best arm comes to what the tokens hold; nothing where that was not counted."""
    table = excess_table(results)
    if not table.rows:
        return []
    best = table.rows[0]
    joint = table.rows[-1][1]
    said = f"The tokens of an image hold {joint} nats, counted exactly. {best[0]} needs {best[1]}"
    said += f", of which {best[3]} could still be learned"
    levels = [
        f"{head.removeprefix(BY_LEVEL)}: {text}"
        for head, text in zip(table.header[4:], best[4:], strict=True)
    ]
    return [f"{said} ({'; '.join(levels)})."]


def excess_by_place(results: Results, arm: ArmEntry) -> list[list[float]]:
    """By seed, the excess nats of every token beyond its exact nats given the coarser levels."""
    exact = exact_of(results, arm)
    if exact is None:
        return []
    rows = [cell["nats_by_place"] for cell in results["cells"] if cell["arm"] == arm["name"]]
    own = exact["nats_by_place"]
    return [
        [mine - held for mine, held in zip(row, own, strict=True)] for row in rows if len(row) == len(own)
    ]


def excess_table(results: Results) -> Table:
    """Nats an image and what of them is excess, all in all and by level."""
    grids = results["shared"]["grids"]
    ends = [0]
    for rows, columns in grids:
        ends.append(ends[-1] + rows * columns)

    rows_of_table = []
    known: Exact | None = None
    for ranked in ranking(results):
        exact, by_seed = exact_of(results, ranked.arm), excess_by_place(results, ranked.arm)
        if exact is None or not by_seed or grids_of(results, ranked.arm) != grids:
            continue
        known = known or exact
        marginal, joint = sum(exact["nats_by_place"]), sum(exact["nats_by_level"])
        nats = [sum(row) + marginal for row in by_seed]
        levels = [[sum(row[start:end]) for row in by_seed] for start, end in pairwise(ends)]
        columns_of_row = [nats, [each - joint for each in nats], [sum(row) for row in by_seed], *levels]
        rows_of_table.append([ranked.arm["name"], *map(over_seeds, columns_of_row)])
    if known is None:
        return Table("Excess nats", [], [], [])

    header = ["", "nats an image", "excess", "excess that can be learned"]
    header += [f"{BY_LEVEL}{rows}x{columns}" for rows, columns in grids]
    joint_text, zero = plain(sum(known["nats_by_level"])), "0"
    rows_of_table.append([EXACT, joint_text, zero, *([""] * (1 + len(grids)))])
    return Table("Excess nats", header, rows_of_table, excess_notes(known), results["command"])


def excess_notes(exact: Exact) -> list[str]:
    """What is counted, and how."""
    pictures, whole = exact["pictures"], sum(exact["nats_of_all"])
    at_once = sum(exact["nats_by_place"]) - sum(exact["nats_by_level"])
    equal = f"All {pictures:,} pictures were encoded: {exact['distinct']:,} different rows of tokens. "
    equal += f"log N is {plain(math.log(pictures))} nats, given the class "
    equal += f"{plain(math.log(pictures / len(CLASSES)))}; corrected by the pictures whose tokens are equal, "
    equal += f"the tokens hold {plain(whole)} nats given the class, by level "
    equal += f"{', '.join(plain(nats) for nats in exact['nats_of_all'])}."
    same = f"Both sides are of the same {exact['images']:,} test images. Tokens of a level are drawn at "
    same += f"once, each by itself given the coarser levels: that costs any generator {plain(at_once)} nats, "
    same += "which no training can take away. Excess that can be learned is what is left without them."
    return [equal, same]
