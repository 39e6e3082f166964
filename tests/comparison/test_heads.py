"""Segmentation and detection heads: what they are trained and scored on."""

import pytest
import torch

from var_pe.comparison.head_study import SeedScore, as_markdown, over_seeds
from var_pe.comparison.heads import (
    HEADS,
    DetectionHead,
    HeadTraining,
    SegmentationHead,
    annotated_shapes,
    box_iou,
    patch_tokens,
    tokens,
    train_head,
)
from var_pe.models.vit import ViTClassifier

TRUTH = annotated_shapes(24, (16, 24), "train")


@pytest.fixture
def vit() -> ViTClassifier:
    return ViTClassifier(
        image_size=(16, 24), num_classes=12, dim=16, depth=1, num_heads=2, registers=2
    ).eval()


def test_boxes_hold_exactly_the_pixels_of_the_shape():
    for classes_HW, box_4 in zip(TRUTH.classes_NHW, TRUTH.boxes_N4, strict=True):
        y, x, h, w = (box_4 * torch.tensor([16, 24, 16, 24])).tolist()
        inside_HW = torch.zeros(16, 24, dtype=torch.bool)
        inside_HW[round(y - h / 2) : round(y + h / 2), round(x - w / 2) : round(x + w / 2)] = True
        shape_HW = classes_HW > 0
        assert not (shape_HW & ~inside_HW).any()
        for axis in (0, 1):  # bars leave a gap between them
            rows, allowed = (mask.any(axis).nonzero()[:, 0] for mask in (shape_HW, inside_HW))
            assert (rows[0], rows[-1]) == (allowed[0], allowed[-1])


def test_a_map_of_pixels_lies_where_its_patch_lies():
    """Patch (row 1, column 2) of 4 x 6 is rows 4..7 and columns 8..11 of the picture."""
    head = SegmentationHead(3, 4)
    x_BLC = torch.zeros(1, 24, 3)
    x_BLC[0, 1 * 6 + 2] = 1
    changed_HW = (head.logits(x_BLC, (4, 6)) != head.logits(0 * x_BLC, (4, 6))).any(1)[0]
    expected_HW = torch.zeros(16, 24, dtype=torch.bool)
    expected_HW[4:8, 8:12] = True
    assert torch.equal(changed_HW, expected_HW)


class Oracle(DetectionHead):
    """Says for every token what a perfect head would."""

    def __init__(self, truth, grid):
        super().__init__(16, 4)
        h, w = grid
        cells_L2 = torch.cartesian_prod(torch.arange(h), torch.arange(w)) + 0.5
        centre_N12 = truth.boxes_N4[:, None, :2] * torch.tensor([h, w])
        offset_NL2 = centre_N12 - cells_L2
        near_NL1 = -(offset_NL2 + 1e-3).abs().amax(-1, keepdim=True)  # a border belongs to the cell after it
        sides_NL2 = truth.boxes_N4[:, None, 2:].log().expand(-1, h * w, -1)
        self.answer_NL5 = torch.cat([1e4 * near_NL1, offset_NL2, sides_NL2], dim=-1)
        del self.mlp

    def mlp(self, x_BLC):
        return self.answer_NL5


def test_a_perfect_detector_finds_every_box_and_has_no_loss():
    """The loss's targets and the decoding must be each other's inverse."""
    head = Oracle(TRUTH, (4, 6))
    torch.testing.assert_close(head.boxes(None, (4, 6)), TRUTH.boxes_N4)
    assert head.score(iter([(None, (4, 6), TRUTH)])) == 1
    assert head.loss(None, (4, 6), TRUTH) < 1e-4


def test_a_perfect_segmentation_scores_one_and_an_empty_one_zero(monkeypatch):
    head = SegmentationHead(16, 4)
    present = TRUTH.classes_NHW.unique().numel() - 1
    for value, expected in ((TRUTH.classes_NHW, present / 12), (torch.zeros_like(TRUTH.classes_NHW), 0.0)):
        one_hot_BVHW = torch.nn.functional.one_hot(value, 13).permute(0, 3, 1, 2)
        monkeypatch.setattr(head, "logits", lambda *_, found=one_hot_BVHW: found)
        assert head.score(iter([(None, (4, 6), TRUTH)])) == pytest.approx(expected)


def test_overlap_of_boxes():
    first_14 = torch.tensor([[0.5, 0.5, 0.2, 0.4]])
    assert box_iou(first_14, first_14).item() == pytest.approx(1)
    moved_14 = torch.tensor([[0.5, 0.7, 0.2, 0.4]])
    assert box_iou(first_14, moved_14).item() == pytest.approx(1 / 3)
    assert box_iou(first_14, torch.tensor([[0.9, 0.5, 0.2, 0.4]])).item() == 0


@pytest.mark.parametrize("task", sorted(HEADS))
@pytest.mark.parametrize("frozen", [True, False])
def test_training_lowers_the_loss_and_leaves_what_is_frozen(task, frozen, vit):
    before = {name: value.clone() for name, value in vit.state_dict().items()}
    start = HEADS[task](16, 4)
    head = train_head(vit, task, TRUTH, HeadTraining(steps=20, batch=8), frozen=frozen)
    same = all(torch.equal(value, before[name]) for name, value in vit.state_dict().items())
    assert same == frozen
    with torch.no_grad():
        x_BLC = patch_tokens(vit, TRUTH.images_NCHW)
        assert head.loss(x_BLC, (4, 6), TRUTH) < start.loss(x_BLC, (4, 6), TRUTH)


def test_prefix_tokens_are_no_patches(vit):
    (found,) = tokens(vit, TRUTH, 24)
    assert found[0].shape == (24, 24, 16)
    assert found[1] == (4, 6)


def test_evidence_is_mean_and_spread_over_seeds():
    scores = [
        SeedScore("rope", seed, "detection", True, (8, 8), value) for seed, value in ((0, 0.2), (1, 0.4))
    ]
    (row,) = over_seeds(scores)
    assert row.mean == pytest.approx(0.3)
    assert row.spread == pytest.approx(0.1414, abs=1e-4)
    assert row.seeds == (0, 1)
    assert "| `rope` | 30.0 ± 14.1 |" in as_markdown([row])
