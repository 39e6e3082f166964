"""The token cache gives what the tokenizer gives, never takes an unfinished or foreign one for its own."""

import os
import pickle
import shutil
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from var_pe.data.images import ImageDataset
from var_pe.data.pictures import CorruptImage
from var_pe.data.sampler import Draw
from var_pe.data.sources import DataConfig, open_source
from var_pe.data.token_cache import TokenDataset, build_token_cache
from var_pe.processes import Processes
from var_pe.training.batches import batch_of

KEY = {"tokenizer": "abc", "pyramid": ((1, 1), (2, 2))}
KEYS = {"key": KEY, "vocabulary": 65536}


@dataclass(frozen=True)
class OneOfThreads(Processes):
    """A process that waits for the others as threads do."""

    barrier: threading.Barrier | None = None

    def wait(self) -> None:
        self.barrier.wait()


class Killed(Processes):
    """A process that dies where it would wait for the others."""

    def wait(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


def encode(images_BCHW: Tensor) -> Tensor:
    """Five tokens that depend on every pixel."""
    return (images_BCHW.flatten(1)[:, :3070].unflatten(1, (5, -1)).abs().sum(-1) * 1000).long() % 4096


def images(**options) -> ImageDataset:
    config = DataConfig(shapes_train=11, **options)
    return ImageDataset(open_source(config, train=True), config, train=True, seed=0)


@pytest.fixture
def augmented() -> ImageDataset:
    return images(framing="crop", flip=True)


def test_the_cache_holds_what_encoding_on_the_fly_gives(tmp_path, augmented):
    """Training from the cache must be the same experiment; view v is the augmentation of epoch v."""
    folder = build_token_cache(tmp_path, augmented, encode, views=2, batch_size=4, **KEYS)
    cached = TokenDataset(folder)
    for epoch in range(4):
        item, image = cached[Draw(epoch, 9, 31)], augmented[Draw(epoch % 2, 9, 31)]
        assert torch.equal(item["tokens"], encode(image["image"][None])[0])
        assert item["tokens"].dtype == torch.int64
        assert (item["label"], item["index"], item["draw_number"]) == (image["label"], 9, 31)
    assert len(cached) == 11
    assert not torch.equal(cached[Draw(0, 9, 0)]["tokens"], cached[Draw(1, 9, 0)]["tokens"])


@pytest.mark.parametrize("world", [3, 13])
def test_any_number_of_processes_writes_the_same_cache(tmp_path, augmented, world):
    """Also more processes than images; it is read on any number."""
    alone = TokenDataset(
        build_token_cache(tmp_path / "one", augmented, encode, views=2, batch_size=4, **KEYS)
    )
    barrier = threading.Barrier(world)

    def build(rank: int) -> None:
        one = OneOfThreads(rank, world, barrier=barrier)
        build_token_cache(tmp_path / "many", augmented, encode, one, views=2, batch_size=2, **KEYS)

    threads = [threading.Thread(target=build, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    many = TokenDataset(tmp_path / "many" / alone.folder.name)
    for draw in (Draw(epoch, index, 0) for epoch in range(2) for index in range(11)):
        assert torch.equal(many[draw]["tokens"], alone[draw]["tokens"])
        assert many[draw]["label"] == alone[draw]["label"]


@pytest.mark.parametrize("world", [1, 3])
def test_a_batch_holds_what_its_items_hold(tmp_path, augmented, world):
    """It is read at once, from all shards and views, in the order of the draws."""
    barrier = threading.Barrier(world)

    def build(rank: int) -> Path:
        one = OneOfThreads(rank, world, barrier=barrier)
        return build_token_cache(tmp_path, augmented, encode, one, views=2, batch_size=2, **KEYS)

    with ThreadPoolExecutor(world) as threads:
        (folder,) = set(threads.map(build, range(world)))
    cached = TokenDataset(folder)
    assert len(cached.shards) == world

    places = [(3, 9), (0, 0), (2, 10), (1, 9), (5, 4)]
    draws = [Draw(*place, number) for number, place in enumerate(places, start=100)]
    batch = next(iter(DataLoader(cached, batch_sampler=[draws], collate_fn=batch_of)))
    for place, draw in enumerate(draws):
        image = augmented[Draw(draw.epoch % 2, draw.index, 0)]
        assert torch.equal(batch["tokens"][place], encode(image["image"][None])[0])
        assert torch.equal(batch["tokens"][place], cached[draw]["tokens"])
        assert batch["label"][place] == image["label"]
    assert batch["index"].tolist() == [9, 0, 10, 9, 4]
    assert batch["draw_number"].tolist() == [100, 101, 102, 103, 104]
    assert {values.dtype for values in batch.values()} == {torch.int64}


def test_a_finished_cache_is_not_built_again(tmp_path, augmented):
    first = build_token_cache(tmp_path, augmented, encode, views=1, batch_size=4, **KEYS)
    assert build_token_cache(tmp_path, augmented, None, views=1, batch_size=4, **KEYS) == first


def test_another_key_is_another_folder(tmp_path, augmented):
    """Tokens of an older tokenizer would train silently, to nonsense."""
    build = {"views": 1, "batch_size": 4, **KEYS}
    folders = {
        build_token_cache(tmp_path, augmented, encode, **build),
        build_token_cache(tmp_path, augmented, encode, **{**build, "views": 2}),
        build_token_cache(tmp_path, augmented, encode, **{**build, "key": {**KEY, "tokenizer": "abd"}}),
        build_token_cache(tmp_path, images(framing="crop"), encode, **build),
    }
    assert len(folders) == 4


def test_an_interrupted_build_is_not_taken_for_a_cache(tmp_path, augmented):
    """A kill half-way must lead to a fresh build, not to training on zeros."""
    calls = []

    def failing(images_BCHW: Tensor) -> Tensor:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return encode(images_BCHW)

    with pytest.raises(KeyboardInterrupt):
        build_token_cache(tmp_path, augmented, failing, views=1, batch_size=4, **KEYS)
    (folder,) = tmp_path.iterdir()
    assert list(folder.iterdir()) == []
    with pytest.raises(ValueError, match="not complete"):
        TokenDataset(folder)
    assert (
        len(TokenDataset(build_token_cache(tmp_path, augmented, encode, views=1, batch_size=4, **KEYS))) == 11
    )


def test_a_damaged_shard_is_refused(tmp_path, augmented):
    folder = build_token_cache(tmp_path, augmented, encode, views=1, batch_size=4, **KEYS)
    (shard,) = folder.glob("tokens-*")
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"should hold .* bytes but holds .* delete the folder"):
        TokenDataset(folder)


def test_a_worker_gets_the_path_and_not_the_tokens(tmp_path, augmented):
    """A pickled memory map would copy the whole set into every worker."""
    cached = TokenDataset(build_token_cache(tmp_path, augmented, encode, views=2, batch_size=4, **KEYS))
    sent = pickle.dumps(cached)
    assert len(sent) < 500
    assert torch.equal(pickle.loads(sent)[3]["tokens"], cached[3]["tokens"])


def test_large_vocabularies_and_wrong_tokens(tmp_path, augmented):
    """16 bits must never wrap a token round."""
    build = {"views": 1, "batch_size": 4, **KEYS}
    with pytest.raises(ValueError, match=r"vocabulary - 1 = 65535, the encoder gave .* 70000"):
        build_token_cache(tmp_path, augmented, lambda x: encode(x) * 0 + 70000, **build)
    build["vocabulary"] = 70001
    large = build_token_cache(tmp_path, augmented, lambda x: encode(x) * 0 + 70000, **build)
    assert TokenDataset(large)[0]["tokens"].tolist() == [70000] * 5


def test_views_without_augmentation_are_refused(tmp_path):
    with pytest.raises(ValueError, match="views=2 would hold 2 equal copies"):
        build_token_cache(tmp_path, images(), encode, views=2, batch_size=4, **KEYS)
    with pytest.raises(ValueError, match="views must be at least 1"):
        build_token_cache(tmp_path, images(), encode, views=0, batch_size=4, **KEYS)


@pytest.mark.parametrize("content", [b"", b"half", None])
def test_damaged_labels_are_refused(tmp_path, augmented, content):
    """Tokens with another picture's labels would train a generator that mixes up its classes."""
    folder = build_token_cache(tmp_path, augmented, encode, views=1, batch_size=4, **KEYS)
    (file,) = folder.glob("labels-*")
    file.write_bytes(file.read_bytes()[:-8] if content is None else content)
    with pytest.raises(ValueError, match=r"labels.* cannot be read .*delete the folder"):
        TokenDataset(folder)
    np.save(file, np.zeros(3, np.int64))
    with pytest.raises(ValueError, match="should hold 11 labels but holds 3"):
        TokenDataset(folder)


def test_a_damaged_or_borrowed_index_is_refused(tmp_path, augmented):
    """A cache copied under another's name holds another tokenizer's tokens."""
    folder = build_token_cache(tmp_path, augmented, encode, views=1, batch_size=4, **KEYS)
    borrowed = folder.rename(tmp_path / "0123456789abcdef")
    with pytest.raises(
        ValueError, match="was made from other images or another tokenizer than its name says"
    ):
        TokenDataset(borrowed)
    (borrowed / "index.json").write_text("{")
    with pytest.raises(ValueError, match=r"damaged index\.json"):
        TokenDataset(borrowed)


def test_a_cache_moves_with_its_folder(tmp_path, augmented):
    """Runs are copied from machine to machine."""
    folder = build_token_cache(tmp_path / "here", augmented, encode, views=1, batch_size=4, **KEYS)
    there = shutil.copytree(folder, tmp_path / "there" / folder.name)
    assert torch.equal(TokenDataset(there)[3]["tokens"], TokenDataset(folder)[3]["tokens"])


def test_a_kill_between_shard_and_index_leads_to_a_fresh_build(tmp_path, augmented):
    """The last moment at which a cache could look finished and not be."""
    if (child := os.fork()) == 0:
        build_token_cache(
            tmp_path,
            augmented,
            encode,
            Killed(),
            views=1,
            batch_size=4,
            **KEYS,
        )
        os._exit(1)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    (folder,) = tmp_path.iterdir()
    assert list(folder.glob("tokens-*"))
    assert not (folder / "index.json").exists()
    other = build_token_cache(tmp_path, augmented, encode, views=1, batch_size=3, **KEYS)
    assert other == folder
    assert len(TokenDataset(folder)) == 11


def test_the_tokens_stay_on_the_disk(tmp_path, augmented):
    """A set larger than memory must train from its cache."""
    folder = build_token_cache(tmp_path, augmented, encode, views=1, batch_size=4, **KEYS)
    assert all(isinstance(shard, np.memmap) for shard in TokenDataset(folder).shards)


def test_a_cache_remembers_how_many_pictures_were_skipped(tmp_path):
    """The count belongs to every run that trains from the cache, not only to the one that built it."""
    config = DataConfig(shapes_train=11, on_corrupt="skip")
    source = open_source(config, train=True)

    class Damaged:
        class_names, fingerprint = source.class_names, "damaged"

        def __len__(self) -> int:
            return len(source)

        def read(self, index):
            if index in (3, 4, 9):
                raise CorruptImage(f"corrupt image {index}")
            return source.read(index)

    dataset = ImageDataset(Damaged(), config, train=True, seed=0)
    folder = build_token_cache(tmp_path, dataset, encode, views=1, batch_size=4, **KEYS)
    cached = TokenDataset(folder)
    assert cached.skipped == 3
    assert torch.equal(cached[3]["tokens"], cached[5]["tokens"])
