"""The state dicts of VAR's files: unwrapped, measured, and compared with what the public code would hold."""

from collections.abc import Mapping

import torch
from torch import Tensor

from var_pe.interop.state_dicts import plain_weights
from var_pe.pyramid import Pyramid

# the two kinds of state dicts, as sentences name them
VQVAE, VAR = "the VQVAE checkpoint", "the VAR checkpoint"

# where a training checkpoint has them, below `trainer`
PARTS = {VQVAE: "vae_local", VAR: "var_wo_ddp"}

# what else each may be by mistake, and a name by which that is seen
OTHERS = {
    VQVAE: ("a transformer's", "pos_1LC"),
    VAR: ("a tokenizer's", "quantize.embedding.weight"),
}


def plain_state(state: object, what: str) -> dict[str, Tensor]:
    """Names to tensors: taken out of VAR's training checkpoint or another one, without prefixes of wrappers.

    Raises:
        ValueError: the state is something else.
    """
    if isinstance(state, Mapping) and isinstance(state.get("trainer"), Mapping):
        state = state["trainer"].get(PARTS[what])
    if not isinstance(state, Mapping) or not state:
        empty = " without entries" if isinstance(state, Mapping) else ""
        raise ValueError(
            f"{what} must map names to tensors, or be a training checkpoint with trainer.{PARTS[what]}, "
            f"got {type(state).__name__}{empty}"
        )

    plain = plain_weights(state, what)
    other, mark = OTHERS[what]
    if mark in plain:
        raise ValueError(f"{what} is {other}: are the two exchanged, or is one given twice?")
    return plain


def shape_of(state: Mapping[str, Tensor], key: str, axes: int, what: str) -> torch.Size:
    """The shape of a tensor that must be there, with so many axes of length 1 or more."""
    if key not in state:
        raise ValueError(f"{what} lacks {key}")
    shape = state[key].shape
    if len(shape) != axes or 0 in shape:
        raise ValueError(f"{what}: {key} must have {axes} axes of length 1 or more, got {tuple(shape)}")
    return shape


def count(state: Mapping[str, Tensor], prefix: str) -> int:
    """How many modules there are below `prefix`."""
    return len({key.removeprefix(prefix).split(".")[0] for key in state if key.startswith(prefix)})


def fixed_buffers(pyramid: Pyramid, depth: int, dim: int) -> dict[str, Tensor]:
    """What VAR's transformer stores beside its weights; all of it follows from the settings."""
    level_L = pyramid.positions().level_L
    finer_LL = level_L[:, None] < level_L
    mask_LL = torch.zeros(finer_LL.shape).masked_fill_(finer_LL, float("-inf"))

    zeros = {f"blocks.{i}.attn.zero_k_bias": torch.zeros(dim) for i in range(depth)}
    return {"lvl_1L": level_L[None], "attn_bias_for_masking": mask_LL[None, None], **zeros}


def check_state(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], what: str) -> None:
    """Compares keys, shapes, types, and values where both sides have them: meta tensors have none.

    Where `expected` has no values, those of `state` are weights and must be finite.

    Raises:
        ValueError: something differs, or a weight is not finite.
    """
    missing = [key for key in expected if key not in state]
    if missing:
        raise ValueError(f"{what} lacks {_some(missing)}")
    unknown = [key for key in state if key not in expected]
    if unknown:
        raise ValueError(f"{what} has unknown names: {_some(unknown)}")

    for key, there in expected.items():
        here = state[key]
        if (here.shape, here.dtype) != (there.shape, there.dtype):
            raise ValueError(
                f"{what}: {key} must be {there.dtype} {tuple(there.shape)}, "
                f"got {here.dtype} {tuple(here.shape)}"
            )
        if not (here.is_meta or there.is_meta) and not torch.equal(here.to(there.device), there):
            raise ValueError(f"{what}: {key} does not hold what follows from the grids and settings")

    check_finite({key: state[key] for key, there in expected.items() if there.is_meta}, what)


def check_finite(weights: Mapping[str, Tensor], what: str) -> None:
    """Refuses NaN and infinite weights: whatever is drawn with them would be noise.

    Raises:
        ValueError: there is one.
    """
    for key, weight in weights.items():
        if not weight.is_meta and not weight.isfinite().all():
            raise ValueError(f"{what}: {key} holds NaN or infinite numbers")


def _some(keys: list[str], most: int = 3) -> str:
    more = f" and {len(keys) - most} more" if len(keys) > most else ""
    return ", ".join(f"{key:.80}" for key in keys[:most]) + more
