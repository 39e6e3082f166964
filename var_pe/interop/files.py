"""Files of weights from elsewhere, read without running anything that is in them."""

import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file


def read_state(path: Path) -> Any:
    """What a `.safetensors` file, or one written by `torch.save` under any name, holds: tensors, on the CPU.

    Raises:
        ValueError: the file has another format, is damaged, or holds objects that could run code.
    """
    if not path.is_file():
        raise ValueError(f"{path} is not a file")
    try:
        path.open("rb").close()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from error

    try:
        return load_file(path) if path.suffix == ".safetensors" else _unpickled(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file, or a damaged one: {error}") from error
    except pickle.UnpicklingError as error:
        if "GLOBAL" in str(error):
            raise ValueError(f"{path} holds objects other than tensors, which are not loaded") from error
        raise ValueError(f"{path} was not written by torch.save, or is damaged") from error
    except Exception as error:  # bytes at random read as a pickle fail in every way, OSError among them
        raise ValueError(f"{path} was not written by torch.save, or is damaged") from error


def _unpickled(path: Path) -> Any:
    zipped = zipfile.is_zipfile(path)
    if zipped:
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:  # torch does not look at the checksums
                raise zipfile.BadZipFile

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a damaged file may look like an old format
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
