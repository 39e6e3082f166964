"""Tables as people have them: file names, label types, the hub, and what can be wrong with a file."""

import socket
from dataclasses import replace

import datasets
import numpy as np
import pyarrow
import pytest
from datasets import ClassLabel, Features, Value
from huggingface_hub.errors import HfHubHTTPError
from PIL import Image
from pyarrow import parquet
from torch.utils.data import DataLoader

from var_pe.data.sources import DataConfig, open_source
from var_pe.data.streams import open_stream
from var_pe.data.tables import parquet_splits
from var_pe.processes import Processes


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
        (["dog", "cat", "dog"], Value("string"), ("cat", "dog"), [1, 0, 1]),
        (["dog", "cat", "cat"], Value("large_string"), ("cat", "dog"), [1, 0, 0]),
        ([1, 2, 3], Value("int64"), ("1", "2", "3"), [0, 1, 2]),
        ([10**9, 7, 5], Value("int64"), ("5", "7", "1000000000"), [2, 1, 0]),
        ([1.0, 0.0, 1.0], Value("float64"), ("0", "1"), [1, 0, 1]),
        ([True, False, True], Value("bool"), ("False", "True"), [1, 0, 1]),
        ([2, 1, 0], None, ("a", "b", "c"), [2, 1, 0]),
    ],
)
def test_labels_of_every_type_become_numbers_from_zero(tmp_path, labels, kind, names, numbers):
    """Labels that count from 1 must not make a class that no picture has."""
    source = opened(table(tmp_path / "t", labels, kind))
    assert source.class_names == names
    assert [source.read(i)[1] for i in range(3)] == numbers


@pytest.mark.parametrize(
    ("labels", "kind", "what"),
    [
        (["cow", "cat", "cow"], Value("string"), "2 images of split test of .* has label cow"),
        ([0, 1, 7], None, "1 image of split test of .* has label 7"),
        ([0, 1, -2], None, "1 image of split test of .* has label -2"),
        ([2], ClassLabel(names=["cat", "dog", "cow"]), "1 image of split test of .* has label cow"),
    ],
)
def test_a_class_that_training_does_not_have_is_named_before_training(tmp_path, labels, kind, what):
    """At the first validation, hours later, it would be too late."""
    known = Value("string") if isinstance(labels[0], str) else ClassLabel(names=["cat", "dog"])
    path = table(tmp_path / "t", ["dog", "cat"], known)
    table(tmp_path / "t", [0] * len(labels) if kind is None else labels, kind or known, "test.parquet")
    if kind is None:  # `datasets` does not write such labels, other programs do
        stored = parquet.read_table(tmp_path / "t" / "test.parquet")
        changed = stored.set_column(1, stored.schema.field(1), pyarrow.array(labels))
        parquet.write_table(changed, tmp_path / "t" / "test.parquet")
    with pytest.raises(ValueError, match=f"{what}, which is not one of the 2 classes of the training split"):
        opened(path, train=False)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("names", [["fox", "dog", "cat"], ["dog", "fox"], ["cow", "fox", "dog"]])
def test_two_lists_of_names_are_brought_together_by_name(tmp_path, names, streaming):
    """Tables are written split by split, and each writer may number the classes in its own way."""
    path = table(tmp_path / "t", [0, 1, 2], ClassLabel(names=["cat", "dog", "fox"]))
    numbers = [names.index("fox"), names.index("dog")]
    table(tmp_path / "t", numbers, ClassLabel(names=names), "test.parquet")
    if streaming:
        config = DataConfig(source="parquet", path=path, streaming=True)
        stream = open_stream(config, train=False)
        assert stream.class_names == ("cat", "dog", "fox")
        assert [item["label"] for item in stream] == [2, 1]
        return
    source = opened(path, train=False)
    assert source.class_names == ("cat", "dog", "fox")
    assert [source.read(i)[1] for i in range(2)] == source.labels_N.tolist() == [2, 1]


def test_names_of_one_file_and_numbers_of_another_do_not_pass_for_each_other(tmp_path):
    path = table(tmp_path / "t", [0, 1, 2])
    table(tmp_path / "t", ["c", "a"], Value("string"), "test.parquet")
    assert opened(path, train=False).labels_N.tolist() == [2, 0]
    table(tmp_path / "t", [1, 0], Value("int64"), "test.parquet")
    with pytest.raises(ValueError, match=r"1 image of split test of .* has label 1, which is not one"):
        opened(path, train=False)


def test_a_test_split_alone_is_read_by_its_own_names(tmp_path):
    """Scores are often made on another machine than the training."""
    path = table(tmp_path / "t", [0, 2], name="test.parquet")
    table(tmp_path / "t", [0, 1], name="more-validation.parquet")
    assert opened(path, train=False).class_names == ("a", "b", "c")


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        ([2, -1, 0, None], None),
        (["c", None, "a", " "], Value("string")),
        ([9, None, 4, -1], Value("int64")),
        ([9.0, float("nan"), 4.0, None], Value("float32")),
    ],
)
def test_pictures_without_a_label_are_left_out_and_counted(tmp_path, labels, kind):
    """As a class of their own, or as class -1, they would spoil training and every score silently."""
    source = opened(table(tmp_path / "t", labels, kind))
    assert len(source) == 2
    assert source.labels_N.tolist() == [source.read(i)[1] for i in range(2)]
    assert [np.array_equal(source.read(i)[0], picture(row)) for i, row in ((0, 0), (1, 2))] == [True, True]
    (remark,) = source.remarks
    assert remark.startswith("split train of")
    assert remark.endswith("left out 2 images of 4 without a label (empty or -1)")
    unlabelled = opened(table(tmp_path / "t", labels, kind), label_column="unlabelled")
    assert (len(unlabelled), unlabelled.remarks) == (4, ())


def test_a_stream_leaves_pictures_without_a_label_out_and_counts_them(tmp_path):
    config = DataConfig(source="parquet", path=table(tmp_path / "t", [2, -1, 0, None]), streaming=True)
    stream = open_stream(config, train=True)
    assert sorted(item["label"] for item in DataLoader(stream, batch_size=None, num_workers=1)) == [0, 2]
    assert stream.left_out(Processes()) == 2


@pytest.mark.parametrize("streaming", [False, True])
def test_a_test_split_with_hidden_labels_is_refused(tmp_path, streaming):
    """Accuracies of 0 would look like a bad model."""
    path = table(tmp_path / "t", [0, 1, 2])
    table(tmp_path / "t", [-1, -1], name="test.parquet")
    with pytest.raises(
        ValueError, match=r"none of the 2 images of split test .* has a label .*all are empty"
    ):
        opened(path, train=False)
    config = DataConfig(source="parquet", path=path, streaming=True)
    stream = open_stream(config, train=False)
    assert list(stream) == []
    assert stream.nothing() == f"{path} has no picture with a label (2 have none)"


@pytest.mark.parametrize(
    ("labels", "kind", "message"),
    [
        ([0, 1, -2], Value("int64"), r"holds -2, but classes are names or whole numbers from 0 \(-1 and an"),
        ([0.0, 1.5, 2.0], Value("float64"), "holds 1.5, but classes are names or whole numbers from 0"),
        ([b"a", b"b", b"c"], Value("binary"), "must hold classes, numbers or names, got Value"),
        ([[0], [1], [2]], datasets.Sequence(Value("int64")), "must hold classes, numbers or names, got"),
    ],
)
def test_labels_that_are_no_classes_are_refused(tmp_path, labels, kind, message):
    with pytest.raises(ValueError, match=message):
        opened(table(tmp_path / "t", labels, kind))


def test_paths_in_a_table_may_begin_at_the_table(tmp_path, monkeypatch):
    """Tables and pictures are moved together."""
    (tmp_path / "t" / "pictures").mkdir(parents=True)
    for i in range(2):
        picture(i).save(tmp_path / "t" / "pictures" / f"{i}.png")
    columns = {"image": [f"pictures/{i}.png" for i in range(2)], "label": ["a", "b"]}
    datasets.Dataset.from_dict(columns).to_parquet(str(tmp_path / "t" / "train.parquet"))
    for path in (tmp_path / "t", tmp_path / "t" / "train.parquet"):
        source = opened(str(path))
        assert np.array_equal(source.read(1)[0], picture(1))
    monkeypatch.chdir(tmp_path / "t")
    assert np.array_equal(opened(".").read(1)[0], picture(1))


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


def test_tables_that_lie_here_are_opened_without_the_network(tmp_path, monkeypatch):
    """Behind a wall that answers nothing, every opening would wait for it."""
    asked = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *given, **named: asked.append(given) or [])
    opened(table(tmp_path / "t", [0, 1, 2]))
    assert not asked


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


def two_files(folder, first: datasets.Dataset, second: datasets.Dataset, split: str = "train") -> DataConfig:
    folder.mkdir(exist_ok=True)
    first.to_parquet(str(folder / f"{split}-0.parquet"))
    second.to_parquet(str(folder / f"{split}-1.parquet"))
    return DataConfig(source="parquet", path=str(folder))


def refusal(config: DataConfig, train: bool, streaming: bool) -> str:
    config = replace(config, streaming=streaming)
    with pytest.raises(ValueError, match=r"cannot be used") as caught:
        (open_stream if streaming else open_source)(config, train)
    return str(caught.value)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize(
    ("names", "difference"),
    [
        (["a", "c", "b"], "1 means c in the one, b in the other"),
        (["a", "b", "c", "d"], "3 means d in the one, no class in the other"),
        (["a", "b"], "2 means no class in the one, c in the other"),
    ],
)
def test_files_of_a_split_that_list_other_classes_are_refused(tmp_path, names, difference, split, streaming):
    """Labels of every file would be read by the first file's list, and so be wrong silently."""
    if split == "test":
        table(tmp_path / "t", [0, 1, 2])
    config = two_files(tmp_path / "t", rows([0, 1, 2]), rows([0, 1], ClassLabel(names=names)), split)
    first, second = (tmp_path / "t" / f"{split}-{number}.parquet" for number in (0, 1))
    assert refusal(config, split == "train", streaming) == (
        f"split {split} of {tmp_path / 't'} cannot be used: column label of {second} lists other classes "
        f"than that of {first}: {difference}, but the files of a split need one list of classes"
    )


@pytest.mark.parametrize("streaming", [False, True])
def test_a_test_split_is_not_matched_with_a_training_split_of_two_lists(tmp_path, streaming):
    table(tmp_path / "t", [0, 1], name="test.parquet")
    config = two_files(tmp_path / "t", rows([0, 1]), rows([0, 1], ClassLabel(names=["c", "b", "a"])))
    assert "0 means c in the one, a in the other" in refusal(config, False, streaming)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("labels", "kind", "sort"),
    [
        ([0, 1], Value("int64"), "numbers without a list of classes"),
        (["a", "b"], Value("string"), "text"),
        ([True, False], Value("bool"), "true and false"),
    ],
)
def test_files_of_a_split_that_store_labels_in_other_ways_are_refused(
    tmp_path, labels, kind, sort, streaming
):
    """Which of them said what a number means would hang on the order of their names."""
    for place, pair in enumerate(
        [(rows([0, 1, 2]), rows(labels, kind)), (rows(labels, kind), rows([0, 1, 2]))]
    ):
        config = two_files(tmp_path / str(place), *pair)
        said = refusal(config, True, streaming)
        listed = "numbers with a list of classes"
        assert f"train-1.parquet holds {listed if place else sort}, but that of" in said
        assert f"train-0.parquet holds {sort if place else listed}: the files" in said


def test_labels_of_files_that_differ_without_need_are_read(tmp_path):
    """Neither a column that is not read nor the width of a number says what a label means."""
    config = two_files(tmp_path / "w", rows([4, 5], Value("int64")), rows([5.0, None], Value("float32")))
    assert open_source(config, True).labels_N.tolist() == [0, 1, 1]
    other = rows([1, 0], ClassLabel(names=["z", "y", "x"]))
    config = two_files(tmp_path / "u", rows([0, 1]), other)
    assert len(open_source(replace(config, label_column="unlabelled"), True)) == 4


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("empty", [0, 1])
@pytest.mark.parametrize("columns", [["image", "label"], ["image"], []])
def test_a_file_without_rows_is_passed_over(tmp_path, columns, empty, streaming):
    """Writers leave such files where a shard had nothing to hold; pandas' columns in it have no type."""
    path = table(tmp_path / "t", [2, 1, 0], name=f"train-{1 - empty}.parquet")
    nothing = pyarrow.table({column: pyarrow.nulls(0) for column in columns})
    parquet.write_table(nothing, tmp_path / "t" / f"train-{empty}.parquet")
    config = DataConfig(source="parquet", path=path, streaming=streaming, test_split="train")
    source = (open_stream if streaming else open_source)(config, train=False)
    assert source.class_names == ("a", "b", "c")
    labels = [item["label"] for item in source] if streaming else source.labels_N.tolist()
    assert labels == [2, 1, 0]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("train", [True, False])
def test_a_split_without_rows_is_one_sentence(tmp_path, train, streaming):
    split = "train" if train else "test"
    path = table(tmp_path / "t", [], name=f"{split}.parquet")
    if not train:
        table(tmp_path / "t", [0, 1, 2])
    said = refusal(DataConfig(source="parquet", path=path), train, streaming)
    assert said == f"split {split} of {path} cannot be used: {path}/{split}.parquet: no rows, so no images"


@pytest.mark.parametrize("streaming", [False, True])
def test_files_of_other_columns_are_named(tmp_path, streaming):
    """A column that a file lacks would be read as labels that are empty."""
    plain, lacking = rows([0, 1, 2]), rows([0, 1]).remove_columns("label")
    more = rows([0, 1]).add_column("extra", [1, 2])
    for place, (pair, what) in enumerate(
        [
            ((plain, lacking), "train-1.parquet has no column label, which {0}/train-0.parquet has"),
            ((lacking, plain), "train-1.parquet has a column label, which {0}/train-0.parquet lacks"),
            ((plain, more), "train-1.parquet has a column extra, which {0}/train-0.parquet lacks"),
        ]
    ):
        config = two_files(tmp_path / str(place), *pair)
        said = refusal(config, True, streaming)
        assert said.endswith(f"{what.format(config.path)}: the files of a split need the same columns")

    # A column that nobody reads may be missing.
    config = replace(two_files(tmp_path / "spare", more, plain), streaming=streaming)
    (open_stream if streaming else open_source)(config, True)
