"""Average precision by hand."""

import pytest
import torch

from var_pe.evaluation.detection import average_precision


def image(boxes, labels, **more):
    found = {"boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), "labels": torch.tensor(labels)}
    return found | {name: torch.tensor(value) for name, value in more.items()}


def test_precision_is_averaged_over_recall():
    """Two boxes of a class: what scores best is right, the next wrong, the third right; 101 recalls."""
    truth = [image([[0, 0, 10, 10], [20, 20, 40, 40]], [0, 0], iscrowd=[0, 0])]
    boxes = [[0, 0, 10, 10], [50, 50, 60, 60], [20, 20, 40, 40]]
    found = [image(boxes, [0, 0, 0], scores=[0.9, 0.8, 0.7])]
    values = average_precision(found, truth, ["a", "b"])
    expected = (51 * 1 + 50 * 2 / 3) / 101
    assert values["ap"] == pytest.approx(expected, abs=1e-4)
    assert values["ap/a"] == pytest.approx(expected, abs=1e-4)
    assert values["recall"] == pytest.approx(1)
    assert "ap/b" not in values


def test_what_is_found_in_a_crowd_is_not_held_against():
    truth = [image([[0, 0, 10, 10], [20, 20, 80, 80]], [0, 0], iscrowd=[0, 1])]
    found = [image([[30, 30, 40, 40], [0, 0, 10, 10]], [0, 0], scores=[0.9, 0.8])]
    assert average_precision(found, truth, ["a"])["ap"] == pytest.approx(1)
