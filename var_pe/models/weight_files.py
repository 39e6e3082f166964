"""A saved model's files of weights: in one format, whole or in shards, of one variant or of several.

diffusers writes over what has the same name and leaves the rest, so that a later load may find old weights.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from var_pe.files import format_of_weights, no_weights, remove

STEM = "diffusion_pytorch_model"
KINDS = ("safetensors", "bin")

# a file of weights or a shard of one, and an index of shards; both may name a variant
FILE = re.compile(rf"{STEM}(?:\.([^.]+?))?(?:-\d{{5}}-of-\d{{5}})?\.(?:{'|'.join(KINDS)})")
INDEX = re.compile(rf"{STEM}\.(?:{'|'.join(KINDS)})\.index(?:\.([^.]+))?\.json")


def files_by_variant(folder: Path) -> dict[str | None, list[Path]]:
    """All files of weights and indices in a folder; None is the variant without a name."""
    found: dict[str | None, list[Path]] = {}
    for path in sorted(folder.glob(f"{STEM}*")):
        match = FILE.fullmatch(path.name) or INDEX.fullmatch(path.name)
        if match:
            found.setdefault(match[1], []).append(path)
    return found


def weight_files(folder: Path, variant: str | None = None) -> list[Path]:
    """The files of a saved model that hold the weights of a variant, those that diffusers reads.

    Raises:
        ValueError: there are none, or a shard is missing.
    """
    found = files_by_variant(folder)
    if variant not in found:
        raise ValueError(_no_weights_in(folder, variant, list(found)))

    for kind in KINDS:
        of_kind = [path for path in found[variant] if f".{kind}" in path.name]
        index = [path for path in of_kind if path.suffix == ".json"]
        if index:
            return _shards(index[0])
        if of_kind:
            return of_kind
    return []


def _no_weights_in(folder: Path, variant: str | None, variants: list[str | None]) -> str:
    named = [name for name in variants if name is not None]
    if variant is None and named:
        return (
            f"{folder} has weights of the variant {' and '.join(named)} alone: "
            f"from_pretrained(..., variant={named[0]!r}) loads them"
        )
    if variant is not None:
        there = ", ".join(named) or "none with a name"
        return f"{folder} has no weights of the variant {variant}; its variants: {there}"
    return f"{folder} has no weights: there is no {STEM}.safetensors in it"


def _shards(index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{index} must say which file holds which weight (weight_map)") from error

    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise ValueError(
            f"{index.parent} lacks {missing[0]}, which {index.name} names: the file was lost, or the index "
            f"is left from an earlier save and can be removed"
        )
    return [index.parent / name for name in names]


def stored(file: Path) -> tuple[dict[str, tuple[int, ...]], dict[str, Tensor]]:
    """The shapes of all tensors in a file, and the grids that are stored beside tables.

    Raises:
        ValueError: it is damaged or something else.
    """
    other = no_weights(file)
    if other is not None:
        raise ValueError(f"{file} {other}")
    kind = format_of_weights(file)
    if kind is not None and (kind == ".safetensors") != (file.suffix == ".safetensors"):
        writer = "safetensors" if kind == ".safetensors" else "torch.save"
        right = file.with_suffix(".safetensors" if kind == ".safetensors" else ".bin").name
        raise ValueError(f"{file} was written by {writer}: its name must be {right}")
    if file.suffix == ".bin":
        tensors = _pickled(file)
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        return shapes, {name: tensor for name, tensor in tensors.items() if name.endswith("grids_K2")}

    try:
        with safe_open(file, framework="pt") as tensors:
            shapes = {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
            grids = {name: tensors.get_tensor(name) for name in shapes if name.endswith("grids_K2")}
    except SafetensorError as error:
        raise ValueError(f"{file} is not a safetensors file, or a damaged one: {error}") from error
    return shapes, grids


def _pickled(file: Path) -> dict[str, Tensor]:
    try:
        state = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # bytes at random read as a pickle fail in every way
        raise ValueError(f"{file} was not written by torch.save, or is damaged") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{file} must map names to tensors")
    return state


def make_room(folder: Path, variant: str | None, weights: Mapping[str, Tensor]) -> None:
    """Removes a variant's files, whatever their format and number, before `weights` are saved as it.

    Raises:
        ValueError: another variant in the folder has other weights, and would stay beside the new ones.
    """
    found = files_by_variant(folder)
    for name in found:
        if name != variant and not _same(weight_files(folder, name), weights):
            which = "weights without a variant's name" if name is None else f"the variant {name}"
            raise ValueError(
                f"{folder} holds {which} of another model, which would lie beside the new weights: "
                f"choose another folder or remove them"
            )

    for path in found.get(variant, []):
        remove(path)


def _same(files: list[Path], weights: Mapping[str, Tensor]) -> bool:
    """Whether files hold these weights, but for the rounding of a shorter type."""
    names = set()
    for file in files:
        if file.suffix == ".bin":
            state = _pickled(file)
        else:
            with safe_open(file, framework="pt") as tensors:
                state = {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118
        names |= set(state)
        for name, there in state.items():
            here = weights.get(name)
            if here is None or here.shape != there.shape:
                return False
            if not torch.allclose(here.detach().cpu().float(), there.float(), rtol=0.02, atol=1e-4):
                return False
    return names == set(weights)
