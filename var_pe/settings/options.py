"""Checks the options of a config's line against the constructor that takes them."""

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping

from var_pe.settings.line import Value

ACCEPTED: dict[object, tuple[type, ...]] = {float: (int, float), int: (int,), bool: (bool,), str: (str,)}


def check_options(
    name: str, options: Mapping[str, Value], constructor: Callable[..., None], words: Iterable[str] = ()
) -> None:
    """Refuses an option that is not a keyword of `constructor`, or a word where it wants a number.

    `words` are further words that the line of `name` may hold; a misspelt one is met with them.

    Raises:
        ValueError: an option does not exist, or its value is of another type than its annotation.
    """
    parameters = inspect.signature(constructor).parameters.values()
    known = {one.name: one for one in parameters if one.kind is one.KEYWORD_ONLY}

    for option in options:
        if option not in known:
            raise ValueError(f"{name} has no option {option!r}{nearest(option, [*known, *words])}")

    for option, value in options.items():
        wanted = known[option].annotation
        accepted = ACCEPTED.get(wanted)
        if accepted is None:  # a union or a tuple: the constructor looks for itself
            continue
        number_expected = wanted is not bool
        if not isinstance(value, accepted) or (isinstance(value, bool) and number_expected):
            raise ValueError(f"{option} is a {wanted.__name__}, got {value!r}")


def nearest(word: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown word: the one that was meant, or all that there are."""
    known = sorted(known)
    matches = difflib.get_close_matches(word, known, n=1)
    if matches:
        return f"; did you mean {matches[0]!r}?"
    return f"; there are {', '.join(known) or 'none'}"
