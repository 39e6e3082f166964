"""What a set of pictures of made-up shapes shows, as asked or not; read by `shapes_reader.py`."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from var_pe.data.shapes import CLASSES, SPACE, WHOLE, Factors
from var_pe.evaluation.features import FeatureSet
from var_pe.evaluation.shapes_reader import KIND_OF_CLASS, KINDS, NOTHING

# Classes that ask for a half of the picture besides a kind
HALVED = np.array([part != (WHOLE, WHOLE) for part in ((v, u) for _, v, u in CLASSES.values())])
VALUES = Factors(len(KINDS), *SPACE[1:])  # of each factor, the class's being its kinds

# The scores' names and what they mean, in the order of a report
NOTHING_READ = "nothing_read_shapes"
SHAPE_SCORES = {
    "as_asked_shapes": "as asked in kind and half, all values the set's",
    "kind_as_asked_shapes": "kind as asked",
    "half_as_asked_shapes": "half as asked, of these",
    "size_of_set_shapes": "size is one of the set's",
    "colour_of_set_shapes": "colour is one of the set's",
    "ground_of_set_shapes": "ground is one of the set's",
    "values_that_occur_shapes": "share of the set's values that occur",
    NOTHING_READ: "no shape can be read",
}


def shape_scores(read: FeatureSet, class_names: Sequence[str]) -> dict[str, float]:
    """`SHAPE_SCORES`, in [0, 1], of the pictures that were read.

    `half_as_asked` is a share of those whose kind is as asked and whose class asks for a half; without such
    pictures it is left out. All others but `values_that_occur` are shares of all pictures.

    Args:
        read: from `ShapeReader`, with the numbers of the classes that were asked for; -1 where it is unknown.
        class_names: what these numbers are called.
    """
    asked_N = asked_classes(read.labels_N.numpy(), class_names)
    kind_N, *factors = read.features_NF.numpy().astype(np.int64).T
    found = dict(zip(Factors._fields, factors, strict=True))

    # What was asked
    right_kind_N = (asked_N != NOTHING) & (kind_N == KIND_OF_CLASS[asked_N])
    right_half_N = found["label"] == asked_N
    of_set_N3 = np.stack([found[name] for name in ("size", "colour", "ground")], 1) != NOTHING
    right_N = right_kind_N & right_half_N & of_set_N3.all(1)
    values = {"as_asked": right_N.mean(), "kind_as_asked": right_kind_N.mean()}
    halved_N = right_kind_N & HALVED[asked_N]
    if halved_N.any():
        values["half_as_asked"] = right_half_N[halved_N].mean()

    # What was not: it should be as in the set
    for name, share in zip(("size", "colour", "ground"), of_set_N3.mean(0), strict=True):
        values[f"{name}_of_set"] = share
    occurring = [len(set(numbers.tolist()) - {NOTHING}) for numbers in (kind_N, *factors[1:])]
    values["values_that_occur"] = sum(occurring) / sum(VALUES)
    values["nothing_read"] = (kind_N == NOTHING).mean()
    return {f"{name}_shapes": float(value) for name, value in values.items()}


def asked_classes(label_N: NDArray[np.int64], class_names: Sequence[str]) -> NDArray[np.int64]:
    """The numbers in `CLASSES` of labels; NOTHING where there is none or the name is not one of the set's."""
    numbers = {name: number for number, name in enumerate(CLASSES)}
    of_label = np.array([*(numbers.get(name, NOTHING) for name in class_names), NOTHING])
    known_N = (label_N >= 0) & (label_N < len(class_names))
    return of_label[np.where(known_N, label_N, len(class_names))]
