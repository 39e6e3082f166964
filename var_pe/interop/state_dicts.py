"""State dicts as people have them: taken out of a training checkpoint, without the prefixes of wrappers."""

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

# below which name a training checkpoint has the weights
ENTRIES = (
    "state_dict",
    "state_dict_ema",
    "model_state_dict",
    "model",
    "model_ema",
    "ema",
    "module",
    "network",
    "net",
    "weights",
    "student",
    "teacher",
)

# what `torch.compile`, FSDP and activation checkpointing put between the parts of a name
BETWEEN = r"_orig_mod\.|_fsdp_wrapped_module\.|_checkpoint_wrapped_module\."

# an attribute of somebody's training module; all names begin with it, or it is a part of the model's own
ATTRIBUTES = ("module.", "model.", "backbone.", "network.", "net.", "student.", "teacher.")

# not a weight: how many updates an averaged model has had
COUNTERS = ("n_averaged",)


def plain_weights(state: object, what: str, entry: Sequence[str] = ()) -> dict[str, Tensor]:
    """The weights, names to tensors, without whatever wraps them; `what` names the checkpoint in errors.

    A checkpoint with two sets of weights, such as an average beside the last ones, is not decided here.

    Args:
        entry: the names that lead to the weights, for a checkpoint that has more than one set of them.
    Raises:
        ValueError: the state is something else, or several sets of weights are there and none is chosen.
    """
    inner = _entered(state, what, entry)
    if not isinstance(inner, Mapping):
        raise ValueError(f"{what} must map names to tensors, got {type(inner).__name__}")

    plain: dict[str, Tensor] = {}
    kept = {key: value for key, value in inner.items() if key not in COUNTERS}
    for key, value in kept.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise ValueError(f"{what} must map names to tensors, got {key!s:.60}: {type(value).__name__}")
        if value.layout != torch.strided:
            raise ValueError(f"{what}: {key:.80} must be a dense tensor, got {value.layout}")
        plain[re.sub(r"^(module\.)+", "", re.sub(BETWEEN, "", key))] = value  # wrapped twice, named twice

    if len(plain) < len(kept):
        raise ValueError(f"{what} has a name twice, with and without the prefix module. or _orig_mod.")
    return _without_attributes(plain)


def _entered(state: object, what: str, entry: Sequence[str]) -> object:
    """The innermost mapping: along `entry`, then wherever only one way leads on."""
    for name in entry:
        if not isinstance(state, Mapping) or name not in state:
            there = ", ".join(map(str, list(state)[:8])) if isinstance(state, Mapping) else "no names"
            raise ValueError(f"{what} has no entry {'.'.join(entry)}: it has {there}")
        state = state[name]

    while isinstance(state, Mapping):
        ways = [name for name in ENTRIES if isinstance(state.get(name), Mapping)]
        if len(ways) > 1:
            raise ValueError(
                f"{what} has several sets of weights, {' and '.join(ways)}: say which one is meant (entry)"
            )
        if not ways:
            break
        state = state[ways[0]]
    return state


def _without_attributes(plain: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without `model.` and its like, as often as all names begin with one of them."""
    while plain:
        shared = [word for word in ATTRIBUTES if all(key.startswith(word) for key in plain)]
        if not shared:
            break
        plain = {key.removeprefix(shared[0]): value for key, value in plain.items()}
    return plain
