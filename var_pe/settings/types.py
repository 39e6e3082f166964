"""The types of settings: how a person reads them, and which values they take."""

import contextlib
from dataclasses import is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from var_pe.settings.files import show


def type_name(hint: Any) -> str:
    """A setting's type as a person reads it: `int`, `str or null`, `list of (int or list of int)`."""
    if is_dataclass(hint):
        return "section"
    arms, origin = get_args(hint), get_origin(hint)
    if origin in (Union, UnionType):
        return " or ".join(map(type_name, arms))
    if origin is Literal:
        return " or ".join(map(show, arms))
    if origin in (list, tuple):
        items = type_name(arms[0])
        return f"list of ({items})" if " or " in items else f"list of {items}"
    return "null" if hint is NoneType else str(hint.__name__)


def section_of(hint: Any) -> type | None:
    """The dataclass of a setting that is a section (`Section` or `Section | None`), or None."""
    arms = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return next((arm for arm in arms if isinstance(arm, type) and is_dataclass(arm)), None)


def is_text(hint: Any) -> bool:
    """Whether a setting holds text (or null) only, so that an override is taken as it stands."""
    arms = [arm for arm in get_args(hint) if arm is not NoneType]
    if get_origin(hint) in (Union, UnionType):
        return all(map(is_text, arms))
    return hint is str or (get_origin(hint) is Literal and all(isinstance(arm, str) for arm in arms))


def convert(hint: Any, value: Any) -> Any:
    """`value` as `hint` asks: an int may become a float and a list a tuple; all else is a TypeError."""
    arms, origin = get_args(hint), get_origin(hint)
    if origin in (Union, UnionType):
        for arm in arms:
            with contextlib.suppress(TypeError):
                return convert(arm, value)
    elif origin is Literal:
        if any(value == arm and type(value) is type(arm) for arm in arms):
            return value
    elif origin is list and isinstance(value, list):
        return [convert(arms[0], item) for item in value]
    elif origin is tuple and isinstance(value, list | tuple):
        kinds = [arms[0]] * len(value) if arms[1:] == (...,) else arms
        if len(kinds) == len(value):
            return tuple(map(convert, kinds, value))
    elif hint is float and type(value) in (int, float) and value == value:  # a nan is no setting
        return float(value)
    elif hint in (int, bool, str, NoneType) and type(value) is hint:
        return value
    raise TypeError
