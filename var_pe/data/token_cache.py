"""The training set as tokens: encoded once by a finished tokenizer, then read through a memory map.

A cache is a folder named after the hash of its key, so another tokenizer, data set or augmentation gets
another folder. Each process writes one shard; `index.json` is written last and marks the cache as complete.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict, cast

import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from var_pe.data.image_set import Batch, ImageItem, ImageSet
from var_pe.data.sampler import Draw
from var_pe.files import remove_drafts, reserve, write_text, written_whole
from var_pe.processes import Processes

INDEX = "index.json"


def full_key(images: ImageSet, views: int, vocabulary: int, key: Mapping[str, object]) -> dict[str, object]:
    """The caller's key with what the cache adds to it, as JSON reads it back (tuples become lists)."""
    own = {"data": images.fingerprint, "images": len(images), "views": views, "vocabulary": vocabulary}
    return json.loads(json.dumps({**key, "cache": own}, sort_keys=True))


def cache_folder(folder: Path, key: Mapping[str, object]) -> Path:
    text = json.dumps(key, sort_keys=True)
    return folder / hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def check_tokens(tokens_BL: Tensor, vocabulary: int) -> None:
    """Refuses tokens that are not in the vocabulary: the file's integer type would wrap them around."""
    if tokens_BL.min() < 0 or tokens_BL.max() >= vocabulary:
        raise ValueError(
            f"tokens must lie in 0 .. vocabulary - 1 = {vocabulary - 1}, "
            f"the encoder gave {int(tokens_BL.min())} .. {int(tokens_BL.max())}"
        )


def write_shard(
    shard: Path,
    images: ImageSet,
    indices: range,
    encode: Callable[[Tensor], Tensor],
    *,
    views: int,
    batch_size: int,
    vocabulary: int,
    on_progress: Callable[[int], object] | None,
) -> None:
    """Writes the tokens of these images, (views, images, L), into a .npy file, their labels into another."""
    chunks = [indices[i : i + batch_size] for i in range(0, len(indices), batch_size)]
    draws = [[Draw(view, index, index) for index in chunk] for view in range(views) for chunk in chunks]
    labels_N = np.full(len(indices), -1, np.int64)
    tokens_VNL = None

    loader = DataLoader(cast(Dataset[ImageItem], images), batch_sampler=draws)

    with written_whole(shard) as draft, torch.inference_mode():
        for drawn, batch in zip(draws, loader, strict=True):
            tokens_BL = encode(batch["image"]).cpu()
            check_tokens(tokens_BL, vocabulary)

            # The file is made with the first batch, which says how many tokens an image has.
            if tokens_VNL is None:
                shape = views, len(indices), tokens_BL.shape[1]
                dtype = np.uint16 if vocabulary <= 65536 else np.int32
                tokens_VNL = open_memmap(draft, "w+", dtype, shape)
                reserve(draft)

            first = drawn[0].index - indices.start
            here = slice(first, first + len(tokens_BL))
            tokens_VNL[drawn[0].epoch, here] = tokens_BL.numpy()
            labels_N[here] = batch["label"].numpy()
            if on_progress:
                on_progress(len(tokens_BL))

        assert tokens_VNL is not None, "a shard holds at least one image"
        tokens_VNL.flush()

    # Beside the tokens: the labels, and how many pictures could not be read
    with written_whole(labels_file(shard)) as draft, draft.open("wb") as stream:
        np.save(stream, labels_N)
    unreadable = images.unreadable[indices.start : indices.stop]
    write_text(skipped_file(shard), str(int(unreadable.sum())))


def labels_file(shard: Path) -> Path:
    return shard.with_name(shard.name.replace("tokens-", "labels-"))


def skipped_file(shard: Path) -> Path:
    """The file with the number of the shard's pictures that could not be read."""
    return shard.with_name(shard.name.replace("tokens-", "skipped-")).with_suffix(".txt")


def build_token_cache(
    folder: Path,
    images: ImageSet,
    encode: Callable[[Tensor], Tensor],
    processes: Processes = Processes(),
    *,
    key: Mapping[str, object],
    vocabulary: int,
    views: int,
    batch_size: int = 256,
    on_progress: Callable[[int], object] | None = None,
) -> Path:
    """Encodes each image once per view, unless the cache exists; returns its own folder below `folder`.

    `encode` maps images (B, C, H, W) to int64 tokens (B, L) below `vocabulary`. View v is augmented as in
    epoch v. `key` holds what else the tokens depend on: the tokenizer's hash, the pyramid. `on_progress(n)`
    is called when this process has encoded n more images.

    Raises:
        ValueError: the number of views is below 1, or all views would be equal.
    """
    if views < 1:
        raise ValueError(f"views must be at least 1 to build a token cache, got {views}")
    if views > 1 and not images.augments:
        raise ValueError(f"views={views} would hold {views} equal copies: without augmentation set views=1")

    full = full_key(images, views, vocabulary, key)
    target = cache_folder(folder, full)
    if (target / INDEX).is_file():
        return target

    # The shards: one for each process that has at least one image
    shares = [Processes(rank, processes.world).share(len(images)) for rank in range(processes.world)]
    shards = {
        target / f"tokens-{rank:05d}-of-{processes.world:05d}.npy": share
        for rank, share in enumerate(shares)
        if share
    }

    # Each process writes its own.
    target.mkdir(parents=True, exist_ok=True)
    if processes.is_main:
        remove_drafts(target)
    for shard, share in shards.items():
        if share == shares[processes.rank]:
            write_shard(
                shard,
                images,
                share,
                encode,
                views=views,
                batch_size=batch_size,
                vocabulary=vocabulary,
                on_progress=on_progress,
            )
    processes.wait()

    # The index makes the cache complete, so it comes last.
    if processes.is_main:
        content = {
            "key": full,
            "skipped": sum(int(skipped_file(shard).read_text()) for shard in shards),
            "shards": [
                {"file": shard.name, "first": share.start, "bytes": shard.stat().st_size}
                for shard, share in shards.items()
            ],
        }
        write_text(target / INDEX, json.dumps(content, indent=2))
    processes.wait()
    return target


class TokenItem(TypedDict):
    """The tokens of one image, int64 (L,), with the other entries of `ImageItem`."""

    tokens: Tensor
    label: int
    index: int
    draw_number: int


class TokenDataset(Dataset[TokenItem]):
    """A finished token cache, read by `Draw`; epoch e reads view e % views.

    The number of processes that wrote the cache does not matter.

    Raises:
        ValueError: the cache is not complete, is damaged, or belongs to another key.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        content = self._read_index()
        self.key = content["key"]
        if cache_folder(self.folder.parent, self.key).name != self.folder.absolute().name:
            raise ValueError(
                f"token cache {folder} was made from other images or another tokenizer than its name "
                "says: delete it"
            )

        # Older indices lack the number of pictures that could not be read.
        self.skipped: int = content.get("skipped", 0)
        self.views: int = self.key["cache"]["views"]
        self.num_images: int = self.key["cache"]["images"]

        # The shards, memory-mapped, and all labels
        self.firsts = [shard["first"] for shard in content["shards"]]
        self.shards = [self._open(shard["file"], shard["bytes"]) for shard in content["shards"]]
        self.labels_N = np.concatenate([self._labels(shard["file"]) for shard in content["shards"]])
        if len(self.labels_N) != self.num_images:
            raise ValueError(
                f"token cache {folder} should hold {self.num_images} labels but holds "
                f"{len(self.labels_N)}: delete the folder"
            )
        self.tokens_per_image = self.shards[0].shape[2]

    def _read_index(self) -> dict[str, Any]:
        if not (self.folder / INDEX).is_file():
            raise ValueError(f"token cache {self.folder} is not complete (it has no {INDEX}): build it again")
        try:
            content = json.loads((self.folder / INDEX).read_text())
            if isinstance(content["key"], dict):
                return content
        except (ValueError, KeyError, TypeError):
            pass
        raise ValueError(f"token cache {self.folder} has a damaged {INDEX}: delete the folder")

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
        """How a data worker gets the cache: it maps the files itself; their contents are not sent to it."""
        return TokenDataset, (self.folder,)

    def __len__(self) -> int:
        return self.num_images

    def passed_over(self, processes: Processes) -> int:
        """How many pictures could not be read when the cache was built; the same on every process."""
        return self.skipped

    def __getitem__(self, key: Draw | int) -> TokenItem:
        draw = Draw.of(key)
        if not 0 <= draw.index < self.num_images:
            raise IndexError(f"index {draw.index} of a token cache of {self.num_images} images")

        batch = self.__getitems__([draw])
        return {
            "tokens": batch["tokens"][0],
            "label": int(batch["label"][0]),
            "index": draw.index,
            "draw_number": draw.draw_number,
        }

    def __getitems__(self, draws: Sequence[Draw]) -> Batch:
        """The items of these draws as one batch, which is how torch's `DataLoader` asks for them."""
        epoch_B, index_B, draw_number_B = np.array(draws, np.int64).T

        # From each shard all of its images at once
        tokens_BL = np.empty((len(draws), self.tokens_per_image), np.int64)
        shard_B = np.searchsorted(self.firsts, index_B, side="right") - 1
        for shard in np.unique(shard_B):
            here_M = np.flatnonzero(shard_B == shard)
            rows_M = index_B[here_M] - self.firsts[shard]
            tokens_BL[here_M] = self.shards[shard][epoch_B[here_M] % self.views, rows_M]

        return {
            "tokens": torch.from_numpy(tokens_BL),
            "label": torch.from_numpy(self.labels_N[index_B]),
            "index": torch.from_numpy(index_B.copy()),
            "draw_number": torch.from_numpy(draw_number_B.copy()),
        }
