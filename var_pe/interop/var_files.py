"""VAR's files on disk, read without running anything in them; its statistics, kept for the way back."""

import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from var_pe.interop.var_checkpoint import has_hits, keep_hits, kept_hits
from var_pe.interop.var_state import HITS, VQVAE, plain_state, shape_of
from var_pe.models.tokenizer import VQTokenizer

HITS_FILE = "var_statistics.safetensors"


def read_state(path: Path) -> Any:
    """What a `.safetensors` file, or one written by `torch.save` under any name, holds: tensors, on the CPU.

    Raises:
        ValueError: it is no such file, is damaged, or holds objects that could run code.
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
        warnings.simplefilter("ignore")  # of what a damaged file looks like
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)


def save_hits(tokenizer: VQTokenizer, folder: Path) -> None:
    """Keeps VAR's statistics of code use with a saved tokenizer: its own weights file does not hold them.

    A tokenizer that never was VAR's has none, and takes away those of another that lay in the folder.
    """
    if has_hits(tokenizer):
        folder.mkdir(parents=True, exist_ok=True)
        save_file({HITS: kept_hits(tokenizer)}, folder / HITS_FILE)
    else:
        (folder / HITS_FILE).unlink(missing_ok=True)


def load_hits(tokenizer: VQTokenizer, folder: Path) -> None:
    """Gives them back, to a tokenizer that does not have them by now.

    Raises:
        ValueError: the file is damaged or of another tokenizer.
    """
    if not has_hits(tokenizer) and (folder / HITS_FILE).exists():
        state = plain_state(read_state(folder / HITS_FILE), VQVAE)
        shape_of(state, HITS, 2, VQVAE)
        keep_hits(tokenizer, state[HITS])
