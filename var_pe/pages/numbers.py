"""Numbers written for people: as many digits as they have meaning."""

import math

MOST_DECIMALS = 7


def plain(value: float, digits: int = 4) -> str:
    """Significant digits, without a power of ten where it can be avoided."""
    decimals = 0 if value == 0 else digits - 1 - math.floor(math.log10(abs(value)))
    return f"{value:.{_possible(decimals)}f}"


def rounded(value: float, spread: float, sign: str = "") -> str:
    """A value and its spread, the spread to two significant digits and both to the same place."""
    if not spread:
        return f"{sign}{plain(value)} ± 0"

    decimals = _possible(1 - math.floor(math.log10(spread)))
    return f"{sign}{value:.{decimals}f} ± {spread:.{decimals}f}"


def percent(mean: float, spread: float | None) -> str:
    """A share and its spread in percent, as far as there is a spread."""
    if spread is None:
        return f"{100 * mean:.1f}"
    return f"{100 * mean:.1f} ± {100 * spread:.1f}"


def setting(value: object) -> str:
    """A setting's value as a person writes it: lists without brackets, whole numbers without a point."""
    if isinstance(value, list | tuple):
        return " ".join(setting(each) for each in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _possible(decimals: int) -> int:
    return min(max(decimals, 0), MOST_DECIMALS)
