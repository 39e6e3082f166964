"""Files of weights from elsewhere, read without running anything that is in them."""

import json
import pickle
import re
import warnings
import zipfile
from argparse import Namespace
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from var_pe.files import format_of_weights, no_weights

# what the weights in a folder are called, in the order of preference
NAMES = ("model.safetensors", "pytorch_model.safetensors", "open_clip_model.safetensors", "pytorch_model.bin")
INDICES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")


def read_folder(folder: Path) -> dict[str, Tensor]:
    """The weights of a folder as the hub has them: one file, or an index and its shards.

    Raises:
        ValueError: there are none, or a shard is missing or damaged.
    """
    for name in NAMES:
        if (folder / name).exists():
            return cast(dict[str, Tensor], read_state(folder / name))

    indices = [folder / name for name in INDICES if (folder / name).exists()]
    if not indices:
        raise ValueError(f"{folder} has no weights: none of {', '.join(NAMES)}; name the file itself")
    try:
        shards = sorted(set(json.loads(indices[0].read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{indices[0]} must say which file holds which weight (weight_map)") from error

    missing = [shard for shard in shards if not (folder / shard).exists()]
    if missing:
        raise ValueError(f"{folder} lacks {', '.join(missing)}, which {indices[0].name} names")
    state: dict[str, Tensor] = {}
    for shard in shards:
        state |= read_state(folder / shard)
    return state


def read_state(path: Path) -> Any:
    """What a file of safetensors or of `torch.save` holds, under any name: tensors, on the CPU.

    Raises:
        ValueError: the file has another format, is damaged, or holds objects that could run code.
    """
    if not path.is_file():
        raise ValueError(f"{path} is not a file")
    try:
        path.open("rb").close()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from error
    other = no_weights(path)
    if other is not None:
        raise ValueError(f"{path} {other}")

    kind = format_of_weights(path) or path.suffix
    try:
        return load_file(path) if kind == ".safetensors" else _unpickled(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file, or a damaged one: {error}") from error
    except pickle.UnpicklingError as error:
        foreign = re.search(r"GLOBAL (\S+)", str(error))
        if foreign:
            raise ValueError(
                f"{path} holds objects other than tensors ({foreign[1]}), which are not loaded: save "
                f"model.state_dict() alone"
            ) from error
        raise ValueError(f"{path} was not written by torch.save, or is damaged") from error
    except Exception as error:  # bytes at random read as a pickle fail in every way, OSError among them
        raise ValueError(f"{path} was not written by torch.save, or is damaged") from error


def _unpickled(path: Path) -> object:
    zipped = zipfile.is_zipfile(path)
    if zipped:
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:  # torch does not look at the checksums
                raise zipfile.BadZipFile

    # Trainings of DeiT and MAE save their command line beside the weights: plain values under names.
    with warnings.catch_warnings(), torch.serialization.safe_globals([Namespace]):
        warnings.simplefilter("ignore")  # a damaged file may look like an old format
        if path.suffix != ".safetensors":
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
        with path.open("rb") as file:  # torch goes by the name, where it is told
            return torch.load(file, map_location="cpu", weights_only=True)
