"""data.classes: the pictures of the named classes alone, numbered in that order, from every source."""

from dataclasses import replace

import numpy as np
import pytest

from tests.data.test_sources import write_cifar100, write_folder, write_idx
from var_pe.data.class_names import no_such_class
from var_pe.data.counts import what_is_read
from var_pe.data.sources import DataConfig, open_source
from var_pe.data.streams import open_stream


def folder(path) -> DataConfig:
    return DataConfig(source="imagefolder", path=write_folder(path / "set", ("ant", "bee", "cat")))


def table(path) -> DataConfig:
    return DataConfig(source="cifar100", path=write_cifar100(path / "set"))


def idx(path) -> DataConfig:
    write_idx(path / "set", train=True)
    write_idx(path / "set", train=False)
    return DataConfig(source="fashion_mnist", path=str(path / "set"))


def shapes(path) -> DataConfig:
    return DataConfig(source="shapes", shapes_train=60, shapes_test=30)


def pictures_of(source, name: str) -> list[bytes]:
    """The pictures of a class as they are read, in order, under the label that both ways of asking give."""
    label = source.class_names.index(name)
    numbers = np.flatnonzero(source.labels_N == label).tolist()
    read = [source.read(number) for number in numbers]
    assert {found for _, found in read} <= {label}
    return [picture.tobytes() for picture, _ in read]


@pytest.mark.parametrize("make", [folder, table, idx, shapes])
def test_the_named_classes_alone_are_used_in_the_order_of_their_names(tmp_path, make):
    config = make(tmp_path)
    names = open_source(config, train=True).class_names
    third, first = names[2], names[0]
    for train in (True, False):
        every = open_source(config, train)
        some = open_source(replace(config, classes=[third, first]), train)
        assert some.class_names == (third, first)
        assert len(some) == sum(len(pictures_of(every, name)) for name in (third, first))
        for name in (third, first):
            assert pictures_of(some, name) == pictures_of(every, name)

        # What is kept is known by the choice and by its order; one class is enough.
        turned, one = (open_source(replace(config, classes=c), train) for c in ([first, third], [third]))
        assert len({source.fingerprint for source in (every, some, turned, one)}) == 4
        assert len({source.identity for source in (every, some, turned, one)}) == 4
        assert pictures_of(one, third) == pictures_of(every, third)

    said = what_is_read(replace(config, classes=[third, first]))
    assert sum(f"data.classes takes 2 of {len(names)} classes" in sentence for sentence in said) == 1


@pytest.mark.parametrize("make", [folder, table, idx, shapes])
def test_a_class_that_is_not_there_is_named_with_its_neighbours(tmp_path, make):
    config = make(tmp_path)
    names = open_source(config, train=True).class_names
    with pytest.raises(ValueError, match=r"^data\.classes: there is no class .*did you mean") as caught:
        open_source(replace(config, classes=[names[0], f"{names[1]}s"]), train=True)
    assert names[1] in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"classes": ["a", "b", "a"]}, "^classes names a twice"),
        ({"classes": ["a"], "label_column": "unlabelled"}, "data.label_column=unlabelled reads no classes"),
        ({"classes": [7]}, r"classes must be list of str, got \[7\] \(put text in quotes\)"),
    ],
)
def test_a_choice_that_cannot_be_meant_is_refused(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        DataConfig(**settings)


def test_what_is_held_out_and_known_does_not_depend_on_other_classes(tmp_path):
    """Models of few and of many classes are tested on the same pictures; a run outlives a new class."""
    write_folder(tmp_path / "set", ("ant", "bee", "cat"), count=10)
    config = DataConfig(source="imagefolder", path=str(tmp_path / "set" / "train"), hold_out=0.3)
    chosen = replace(config, classes=["cat", "ant"])
    for train in (True, False):
        every, some = open_source(config, train), open_source(chosen, train)
        assert pictures_of(some, "cat") == pictures_of(every, "cat")
        assert len(open_source(replace(chosen, limit=2), train)) == 2

    before = open_source(chosen, train=True).identity
    (tmp_path / "set" / "train" / "bee" / "0.png").unlink()
    (tmp_path / "set" / "train" / "dog").mkdir()
    (tmp_path / "set" / "train" / "dog" / "0.heic").touch()  # an error, if the class were wanted
    assert open_source(chosen, train=True).identity == before
    with pytest.raises(ValueError, match="holds no picture that can be read"):
        open_source(config, train=True)


@pytest.mark.parametrize("make", [folder, table])
def test_a_stream_holds_the_named_classes_alone(tmp_path, make):
    config = make(tmp_path)
    names = open_source(config, train=True).class_names
    config = replace(config, classes=[names[2], names[0]])
    source = open_source(config, train=False)
    stream = open_stream(replace(config, streaming=True), train=False)
    assert stream.class_names == source.class_names
    assert [item["label"] for item in stream] == source.labels_N.tolist()
    few = open_stream(replace(config, streaming=True, limit=2), train=False)
    assert len(list(few)) == 2


def test_settings_that_came_later_leave_what_results_are_kept_by():
    """A new setting at its default must not have everything drawn and scored once more."""
    kept = DataConfig().record()
    assert "classes" not in kept
    assert kept["framing"] is None
    assert DataConfig(source="shapes", classes=["ring"]).record()["classes"] == ["ring"]


def test_a_class_that_is_not_there_has_neighbours():
    names = [f"class {number}" for number in range(30)] + ["Labrador retriever", "golden retriever"]
    assert no_such_class("labrador retreiver", names) == (
        "there is no class 'labrador retreiver'; the nearest of 32 are Labrador retriever, golden retriever"
    )
    assert no_such_class("retriever", names).endswith("are golden retriever, Labrador retriever")
    assert no_such_class("zzz", names).endswith("none is similar")
    assert no_such_class("dgo", ["cat", "dog"]) == (
        "there is no class 'dgo'; did you mean dog? there are cat, dog"
    )
    assert no_such_class("zzz", ["cat", "dog"]) == "there is no class 'zzz'; there are cat, dog"
    assert no_such_class("dog", []) == "there is no class 'dog'; the classes have no names"
