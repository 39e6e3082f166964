"""The training set as tokens: encoded once by a finished tokenizer, memory-mapped ever after.

A cache is a folder named after the hash of its key, so another tokenizer, data set or augmentation is another
folder. Each process writes one shard; `index.json`, written last, is what makes the cache complete.
"""

import hashlib
import json
from bisect import bisect_right
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from var_pe.data.images import ImageDataset
from var_pe.data.sampler import Draw
from var_pe.files import written_whole

INDEX = "index.json"


def full_key(dataset: ImageDataset, views: int, vocabulary: int, key: dict[str, Any]) -> dict[str, Any]:
    """The caller's key and what the cache adds, as JSON reads it back (tuples as lists)."""
    own = {"data": dataset.fingerprint, "images": len(dataset), "views": views, "vocabulary": vocabulary}
    return json.loads(json.dumps({**key, "cache": own}, sort_keys=True))


def cache_folder(folder: Path, key: dict[str, Any]) -> Path:
    return folder / hashlib.blake2b(json.dumps(key, sort_keys=True).encode(), digest_size=8).hexdigest()


def check_tokens(tokens_BL: Tensor, vocabulary: int) -> None:
    if tokens_BL.min() < 0 or tokens_BL.max() >= vocabulary:
        raise ValueError(
            f"tokens must lie in 0 .. vocabulary - 1 = {vocabulary - 1}, "
            f"the encoder gave {int(tokens_BL.min())} .. {int(tokens_BL.max())}"
        )


def write_shard(
    file: Path,
    dataset: ImageDataset,
    indices: range,
    encode: Callable[[Tensor], Tensor],
    views: int,
    batch_size: int,
    vocabulary: int,
    workers: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Tokens of these images, (views, images, L), in one .npy file, and their labels in another beside it."""
    dtype = np.uint16 if vocabulary <= 65536 else np.int32
    labels = np.full(len(indices), -1, np.int64)
    chunks = [indices[i : i + batch_size] for i in range(0, len(indices), batch_size)]
    draws = [[Draw(view, index, index) for index in chunk] for view in range(views) for chunk in chunks]
    done, shard = 0, None
    with written_whole(file) as draft, torch.inference_mode():
        for batch_draws, batch in zip(
            draws, DataLoader(dataset, batch_sampler=draws, num_workers=workers), strict=True
        ):
            tokens_BL = encode(batch["image"]).cpu()
            check_tokens(tokens_BL, vocabulary)
            if shard is None:
                shard = open_memmap(draft, "w+", dtype, (views, len(indices), tokens_BL.shape[1]))
            first = batch_draws[0].index - indices.start
            shard[batch_draws[0].epoch, first : first + len(tokens_BL)] = tokens_BL.numpy()
            labels[first : first + len(tokens_BL)] = batch["label"].numpy()
            done += len(tokens_BL)
            if progress:
                progress(done, views * len(indices))
        assert shard is not None, "a shard holds at least one image"
        shard.flush()
    with written_whole(labels_file(file)) as draft, draft.open("wb") as stream:
        np.save(stream, labels)
    with written_whole(skipped_file(file)) as draft:
        draft.write_text(str(int(dataset.unreadable[indices.start : indices.stop].sum())))


def labels_file(shard: Path) -> Path:
    return shard.with_name(shard.name.replace("tokens-", "labels-"))


def skipped_file(shard: Path) -> Path:
    """How many of the shard's pictures could not be read."""
    return shard.with_name(shard.name.replace("tokens-", "skipped-")).with_suffix(".txt")


def build_token_cache(
    folder: str | Path,
    dataset: ImageDataset,
    encode: Callable[[Tensor], Tensor],
    *,
    views: int,
    batch_size: int,
    key: dict[str, Any],
    rank: int = 0,
    world: int = 1,
    wait: Callable[[], object] = lambda: None,
    progress: Callable[[int, int], None] | None = None,
    vocabulary: int = 65536,
    workers: int = 0,
) -> Path:
    """Encodes each image once per view, unless that is done; returns the cache's own folder below `folder`.

    `encode` maps images (B, C, H, W) to int64 tokens (B, L) below `vocabulary`. View v is that of epoch v.
    `key` says what else the tokens depend on: the tokenizer's hash, the pyramid. `wait` is a barrier over
    processes; `progress` is told how many of this process's encodings are done, and of how many.
    """
    if views < 1:
        raise ValueError(f"views must be at least 1 to build a token cache, got {views}")
    if views > 1 and not dataset.augments:
        raise ValueError(f"views={views} would hold {views} equal copies: without augmentation set views=1")
    key = full_key(dataset, views, vocabulary, key)
    target = cache_folder(Path(folder), key)
    if (target / INDEX).is_file():
        return target
    target.mkdir(parents=True, exist_ok=True)
    cuts = [len(dataset) * r // world for r in range(world + 1)]
    names = [f"tokens-{r:05d}-of-{world:05d}.npy" for r in range(world)]
    if cuts[rank] < cuts[rank + 1]:
        own = range(cuts[rank], cuts[rank + 1])
        write_shard(
            target / names[rank], dataset, own, encode, views, batch_size, vocabulary, workers, progress
        )
    wait()
    if rank == 0:
        shards = [
            {"file": names[r], "first": cuts[r], "bytes": (target / names[r]).stat().st_size}
            for r in range(world)
            if cuts[r] < cuts[r + 1]
        ]
        with written_whole(target / INDEX) as draft:
            written = [target / names[r] for r in range(world) if cuts[r] < cuts[r + 1]]
            skipped = sum(int(skipped_file(shard).read_text()) for shard in written)
            draft.write_text(json.dumps({"key": key, "skipped": skipped, "shards": shards}, indent=2))
    wait()
    return target


class TokenDataset(Dataset[dict[str, Any]]):
    """A finished token cache, asked by `Draw`; an epoch reads the view epoch % views.

    An item is {"tokens": int64 (L,), "label": int or -1, "index", "draw_number"}. How many processes wrote it
    does not matter.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not (self.folder / INDEX).is_file():
            raise ValueError(f"token cache {folder} is not complete (it has no {INDEX}): build it again")
        try:
            content = json.loads((self.folder / INDEX).read_text())
            self.key = content["key"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"token cache {folder} has a damaged {INDEX}: delete the folder") from error
        if cache_folder(self.folder.parent, self.key).name != self.folder.absolute().name:
            raise ValueError(
                f"token cache {folder} was made from something else than its name says: delete it"
            )
        self.skipped: int = content.get("skipped", 0)  # pictures that could not be read when it was built
        self.views, self.length = self.key["cache"]["views"], self.key["cache"]["images"]
        self.firsts = [shard["first"] for shard in content["shards"]]
        self.shards = [self._open(shard["file"], shard["bytes"]) for shard in content["shards"]]
        self.labels = np.concatenate([self._labels(shard["file"]) for shard in content["shards"]])
        if len(self.labels) != self.length:
            raise ValueError(
                f"token cache {folder} should hold {self.length} labels but holds {len(self.labels)}: "
                f"delete the folder"
            )
        self.tokens_per_image = self.shards[0].shape[2]

    def _open(self, name: str, size: int) -> np.ndarray:
        file = self.folder / name
        found = file.stat().st_size if file.is_file() else 0
        if found != size:
            raise ValueError(
                f"token cache {file} should hold {size} bytes but holds {found}: delete the folder"
            )
        return np.load(file, mmap_mode="r")

    def _labels(self, name: str) -> np.ndarray:
        file = labels_file(self.folder / name)
        try:
            return np.load(file)
        except (OSError, EOFError, ValueError) as error:
            raise ValueError(f"token cache {file} cannot be read ({error}): delete the folder") from error

    def __reduce__(self) -> tuple[type["TokenDataset"], tuple[Path]]:
        return TokenDataset, (
            self.folder,
        )  # a worker maps the files itself instead of being sent their contents

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, key: Draw | int) -> dict[str, Any]:
        draw = key if isinstance(key, Draw) else Draw(0, int(key), int(key))
        if not 0 <= draw.index < self.length:
            raise IndexError(f"index {draw.index} of a token cache of {self.length} images")
        shard = bisect_right(self.firsts, draw.index) - 1
        tokens_L = self.shards[shard][draw.epoch % self.views, draw.index - self.firsts[shard]]
        return {
            "tokens": torch.from_numpy(tokens_L.astype(np.int64)),
            "label": int(self.labels[draw.index]),
            "index": draw.index,
            "draw_number": draw.draw_number,
        }
