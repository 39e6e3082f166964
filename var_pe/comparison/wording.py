"""Counts, values and differences of a study as people write them."""

from collections.abc import Sequence

from var_pe.comparison.statistics import summary
from var_pe.comparison.verdicts import Column, Compared
from var_pe.pages.numbers import plain, rounded


def many(count: int, what: str) -> str:
    """`1 seed`, `2 seeds`."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def value_text(mean: float, spread: float | None, column: Column) -> str:
    """`12.34 ± 0.21`."""
    if column.exact:
        return f"{mean:,.0f}"
    if spread is None:
        return plain(mean * column.factor)
    return rounded(mean * column.factor, spread * column.factor)


def over_seeds(values: Sequence[float]) -> str:
    """Mean and standard deviation of values that no column describes; empty without values."""
    if not values:
        return ""
    found = summary(values)
    return plain(found.mean) if found.spread is None else rounded(found.mean, found.spread)


def difference_text(found: Compared, column: Column, *, named: bool = True) -> str:
    """The size of a difference, and what it means; `named`: with the arm that it is against."""
    size = signed(found, column)
    p = "" if found.p_holm is None else p_text(found.p_holm)
    p = f", p {p}" if p.startswith("<") else f", p = {p}" if p else ""
    against = f" against {found.reference}" if named else ""
    return f"{size}{against}: {found.verdict(column)}{p}"


def signed(found: Compared, column: Column) -> str:
    sign = "+" if found.difference.mean > 0 else ""
    mean = found.difference.mean * column.factor
    if found.half_width is None:
        return f"{sign}{plain(mean)}"
    return rounded(mean, found.half_width * column.factor, sign)


def p_text(p: float) -> str:
    """A p with two digits; below 0.001 only that is said."""
    return "< 0.001" if p < 0.001 else f"{p:.2g}"
