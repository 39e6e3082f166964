"""Rules of settings, as their dataclasses check them; every sentence begins with the setting's name."""

from collections.abc import Sequence


class RuleError(ValueError):
    """A setting breaks a rule; the sentence begins with its name, before which `build` puts its section's."""


def check_numbers(section: object, **intervals: str) -> None:
    """Numbers, alone or in lists, lie in intervals such as `[0, 1)`; null is none, and nothing is infinite.

    Raises:
        RuleError: one does not.
    """
    for name, interval in intervals.items():
        value = getattr(section, name)
        for number in value if isinstance(value, list | tuple) else [value]:
            if number is not None and not lies_in(number, interval):
                raise RuleError(f"{name} must be {in_words(interval, number)}, got {value}")


def lies_in(number: float, interval: str) -> bool:
    low, high = map(float, interval[1:-1].split(","))
    above = number >= low if interval[0] == "[" else number > low
    return above and (number <= high if interval[-1] == "]" else number < high)


def in_words(interval: str, number: float) -> str:
    low, high = interval[1:-1].split(", ")
    if high != "inf":
        return f"in {interval}"
    return f"{'at least' if interval[0] == '[' else 'above'} {low}{' and finite' * isinstance(number, float)}"


def check_names(section: object, **choices: Sequence[object]) -> None:
    """Raises:
    RuleError: a setting is not among its choices."""
    for name, allowed in choices.items():
        value = getattr(section, name)
        if value not in allowed:
            known = ", ".join("null" if choice is None else str(choice) for choice in allowed)
            raise RuleError(f"{name} must be one of {known}; got {value}")
