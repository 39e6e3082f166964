"""The training set as tokens: encoded once, memory-mapped, found again by what it was made from."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from var_pe.data.images import ImageDataset
from var_pe.data.sampler import Draw
from var_pe.progress import Counter


def build_token_cache(
    folder: Path,
    images: ImageDataset,
    encode: Callable[[Tensor], Tensor],
    *,
    views: int,
    key: dict[str, Any],
    batch_size: int = 256,
    rank: int = 0,
    world: int = 1,
    wait: Callable[[], None] = lambda: None,
) -> Path:
    """The cache for `key` below `folder`, built if it is not there yet; each process encodes its share.

    View v of an image is its augmentation in epoch v. Shards get their names when they are complete and `index.json`
    comes last, so a cache without it was interrupted and is built again.

    Raises:
        ValueError: more than one view of images that never vary.
    """
    if views < 1 or (views > 1 and not images.varies):
        raise ValueError(f"views must be 1 where nothing is cropped or flipped at random, got {views}")
    cache = folder / hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    if (cache / "index.json").exists():
        return cache
    wait()  # nobody may see a finished cache while another still looks for one
    cache.mkdir(parents=True, exist_ok=True)
    bounds = [len(images) * process // world for process in range(world + 1)]
    tokens, labels = _encoded(
        images, encode, range(bounds[rank], bounds[rank + 1]), views, batch_size, rank == 0
    )
    _write(cache / f"tokens_{rank:05d}.npy", tokens)
    _write(cache / f"labels_{rank:05d}.npy", labels)
    wait()
    if rank == 0:
        index = {"key": key, "views": views, "bounds": bounds}
        partial = cache / "index.json.partial"
        partial.write_text(json.dumps(index))
        os.replace(partial, cache / "index.json")
    wait()
    return cache


def _encoded(
    images: ImageDataset,
    encode: Callable[[Tensor], Tensor],
    chosen: range,
    views: int,
    batch_size: int,
    shown: bool,
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Tokens (n, views, L) and labels (n,) of the chosen images."""
    tokens, labels = [], []
    with Counter(len(chosen), "encoding", shown=shown) as counter:
        for start in range(chosen.start, chosen.stop, batch_size):
            indices = range(start, min(start + batch_size, chosen.stop))
            by_view = []
            for view in range(views):
                items = [images[Draw(view, index, index)] for index in indices]
                by_view.append(encode(torch.stack([item["image"] for item in items])))
            tokens.append(torch.stack(by_view, dim=1).to(torch.int32).numpy())
            labels += [item["label"] for item in items]
            counter.add(len(indices))
    return np.concatenate(tokens), np.array(labels, np.int64)


def _write(path: Path, array: np.ndarray[Any, Any]) -> None:
    partial = path.with_name(path.name + ".partial")
    with open(partial, "wb") as file:
        np.save(file, array)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


class TokenDataset(Dataset[dict[str, Any]]):
    """Tokens of the cached images, addressed by `Draw`: the view follows from the epoch."""

    def __init__(self, cache: Path) -> None:
        index = json.loads((cache / "index.json").read_text())
        self.views, self.bounds = int(index["views"]), list(index["bounds"])
        shards = range(len(self.bounds) - 1)
        self.tokens = [np.load(cache / f"tokens_{i:05d}.npy", mmap_mode="r") for i in shards]
        self.labels = np.concatenate([np.load(cache / f"labels_{i:05d}.npy") for i in shards])

    def __len__(self) -> int:
        return int(self.bounds[-1])

    def __getitem__(self, draw: Draw | int) -> dict[str, Any]:
        epoch, index, place = (0, draw, draw) if isinstance(draw, int) else draw
        shard = int(np.searchsorted(self.bounds, index, side="right")) - 1
        tokens_L = self.tokens[shard][index - self.bounds[shard], epoch % self.views]
        return {
            "tokens": torch.from_numpy(tokens_L.astype(np.int64)),
            "label": int(self.labels[index]),
            "index": index,
            "place": place,
        }


def remove_interrupted(folder: Path) -> None:
    """Deletes caches that were never finished."""
    for cache in folder.glob("*"):
        if cache.is_dir() and not (cache / "index.json").exists():
            shutil.rmtree(cache)
