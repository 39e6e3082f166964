"""Whether a loaded model has all of its weights: diffusers leaves those empty that a file lacks."""

from pathlib import Path

from torch import nn


def check_whole(model: nn.Module, folder: Path) -> None:
    """Raises:
    ValueError: a weight was not in the folder's file; it would fail at its first use, far from here."""
    if empty := [name for name, tensor in model.state_dict().items() if tensor.is_meta]:
        more = f" and {len(empty) - 1} more" if len(empty) > 1 else ""
        raise ValueError(f"the weights in {folder} do not fit its config.json: they lack {empty[0]}{more}")
