"""Tables as people have them: file names, label types, the hub, and what can be wrong with a file."""

import datasets
import numpy as np
import pytest
from datasets import ClassLabel, Features, Value
from huggingface_hub.errors import HfHubHTTPError
from PIL import Image
from torch.utils.data import DataLoader

from var_pe.data.sources import DataConfig, open_source
from var_pe.data.streams import open_stream
from var_pe.data.tables import parquet_splits


def picture(number: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8))


def rows(labels: list, kind=None, image: str = "image", label: str = "label") -> datasets.Dataset:
    features = Features({image: datasets.Image(), label: kind or ClassLabel(names=["a", "b", "c"])})
    columns = {image: [picture(i) for i in range(len(labels))], label: labels}
    return datasets.Dataset.from_dict(columns, features=features)


def table(folder, labels: list, kind=None, name: str = "train.parquet") -> str:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    rows(labels, kind).to_parquet(str(folder / name))
    return str(folder)


def opened(path: str, train: bool = True, **options):
    return open_source(DataConfig(source="parquet", path=path, **options), train)


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (["train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001"], {"train": 2, "test": 1}),
        (["flowers-train", "flowers-test", "flowers_validation"], {"train": 1, "test": 1, "validation": 1}),
        (["plain/train/0000", "plain/test/0000"], {"train": 1, "test": 1}),
        (["train/part-0", "train/data-1", "val/x"], {"train": 2, "val": 1}),
        (["extra-0", "extra-1", "constrain"], {"extra": 2, "constrain": 1}),
    ],
)
def test_the_split_of_a_file_is_in_its_name_or_its_folder(tmp_path, names, splits):
    """Were two splits taken for one, a model would be tested on what it was trained on."""
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"{name}.parquet").touch()
    assert {split: len(files) for split, files in parquet_splits(tmp_path).items()} == splits


@pytest.mark.parametrize(
    ("labels", "kind", "names", "numbers"),
    [
        (["dog", "cat", None], Value("string"), ("cat", "dog"), [1, 0, -1]),
        (["dog", "cat", "cat"], Value("large_string"), ("cat", "dog"), [1, 0, 0]),
        ([1, 2, 3], Value("int64"), ("1", "2", "3"), [0, 1, 2]),
        ([10**9, -1, 5], Value("int64"), ("5", "1000000000"), [1, -1, 0]),
        ([True, False, True], Value("bool"), ("False", "True"), [1, 0, 1]),
        ([2, -1, 0], None, ("a", "b", "c"), [2, -1, 0]),
    ],
)
def test_labels_of_every_type_become_numbers_from_zero(tmp_path, labels, kind, names, numbers):
    """Labels that count from 1 must not make a class that no picture has."""
    source = opened(table(tmp_path / "t", labels, kind))
    assert source.class_names == names
    assert [source.read(i)[1] for i in range(3)] == numbers


def test_a_class_that_training_does_not_have_is_named(tmp_path):
    path = table(tmp_path / "t", ["dog", "cat"], Value("string"))
    table(tmp_path / "t", ["cow", "cat"], Value("string"), "test.parquet")
    with pytest.raises(ValueError, match=r"image 0 of .* has label cow, which is not one of the 2 classes"):
        opened(path, train=False).read(0)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("content", [b"", b"PAR1 no table", None])
def test_a_damaged_parquet_file_is_one_sentence(tmp_path, content, streaming):
    path = table(tmp_path / "t", [0, 1, 2])
    file = tmp_path / "t" / "train.parquet"
    file.write_bytes(file.read_bytes()[:400] if content is None else content)
    config = DataConfig(source="parquet", path=path, streaming=streaming)
    with pytest.raises(ValueError, match=f"parquet {path} cannot be read: ") as caught:
        (open_stream if streaming else open_source)(config, train=True)
    assert "\n" not in str(caught.value)


def test_a_stream_that_breaks_half_way_is_one_sentence(tmp_path):
    """A connection or a disk may fail after hours; the library's own errors are of many types."""
    path = table(tmp_path / "t", [0, 1, 2], name="train-0.parquet")
    table(tmp_path / "t", [0, 1, 2], name="train-1.parquet")
    config = DataConfig(source="parquet", path=path, streaming=True, test_split="train")
    stream = open_stream(config, train=False)
    (tmp_path / "t" / "train-1.parquet").write_bytes(b"PAR1 no table")
    with pytest.raises(ValueError, match=f"{path} cannot be read any further"):
        list(stream)


def test_a_stream_of_fewer_files_than_workers_goes_on(tmp_path):
    """Workers beyond the number of files have nothing to read and must not end the run."""
    config = DataConfig(source="parquet", path=table(tmp_path / "t", [0, 1, 2]), streaming=True)
    loader = DataLoader(open_stream(config, True, endless=True), batch_size=2, num_workers=2)
    labels = [int(label) for batch, _ in zip(loader, range(6), strict=False) for label in batch["label"]]
    assert sorted(labels) == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]


def test_a_hub_set_is_read_by_its_mapped_columns(monkeypatch):
    """Every set on the hub names its columns as it likes."""
    asked = {}

    def load_dataset(hub_id, *, name, streaming):
        asked.update(hub_id=hub_id, name=name)
        return datasets.DatasetDict(
            {split: rows([2, 0, 1], image="photo", label="species") for split in ("fit", "held")}
        )

    monkeypatch.setattr("var_pe.data.tables.HfApi.dataset_info", lambda *_, **__: None)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    columns = {"image_column": "photo", "label_column": "species"}
    splits = {"train_split": "fit", "test_split": "held"}
    config = DataConfig(source="hub", hub_id="me/birds", hub_config="small", **columns, **splits)
    source = open_source(config, train=False)
    assert asked == {"hub_id": "me/birds", "name": "small"}
    image, label = source.read(0)
    assert (label, source.class_names, image.size) == (2, ("a", "b", "c"), (8, 8))


@pytest.mark.parametrize(
    ("hub_id", "error", "message"),
    [
        ("no such/name!", None, "hub_id=no such/name! is not the name of a data set"),
        ("me/birds", "404", "the hub refuses data set me/birds: 404"),
        ("me/birds", "offline", r"me/birds is not in the cache and the hub cannot be reached \(OSError\)"),
    ],
)
def test_what_the_hub_answers_is_one_sentence(monkeypatch, hub_id, error, message):
    class Answer:
        headers, request = {}, None

    def answer(*_, **__):
        raise (
            OSError("no route") if error == "offline" else HfHubHTTPError("404\nlong page", response=Answer())
        )

    if error:
        monkeypatch.setattr("var_pe.data.tables.HfApi.dataset_info", answer)
    with pytest.raises(ValueError, match=message) as caught:
        open_source(DataConfig(source="hub", hub_id=hub_id), train=True)
    assert "\n" not in str(caught.value)


def test_hidden_files_are_no_tables(tmp_path):
    """A notebook's copy would be read twice, a Mac's shadow of a file is not a table."""
    path = table(tmp_path / "t", [0, 1, 2])
    copy = tmp_path / "t" / ".ipynb_checkpoints" / "train-checkpoint.parquet"
    copy.parent.mkdir()
    copy.write_bytes((tmp_path / "t" / "train.parquet").read_bytes())
    (tmp_path / "t" / "._train.parquet").write_bytes(b"\0\5\x16\7" + bytes(60))
    assert len(opened(path)) == 3


def test_a_linked_folder_of_tables_is_followed(tmp_path):
    table(tmp_path / "store", [0, 1, 2])
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "data").symlink_to(tmp_path / "store")
    assert len(opened(str(tmp_path / "t"))) == 3


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("name", ["with [brackets]", "a*b", "what?", "x#1 50%20 ünï"])
def test_paths_of_tables_are_literal(tmp_path, name, streaming):
    path = table(tmp_path / name, [0, 1, 2], name="train[v2].parquet")
    table(tmp_path / name, [0, 1], name="trainv.parquet")
    if streaming:
        stream = open_stream(DataConfig(source="parquet", path=path, streaming=True), True)
        assert len(list(stream)) == 3
    else:
        assert len(opened(path)) == 3


def test_a_split_s_name_may_be_in_another_case(tmp_path):
    path = table(tmp_path / "t", [0, 1, 2], name="Train.parquet")
    table(tmp_path / "t", [0, 1], name="my_TEST-0.parquet")
    assert [len(opened(path, train)) for train in (True, False)] == [3, 2]
