"""Contrast of places: which token shows which place, what the loss is, and that it is learned."""

import math

import pytest
import torch

from var_pe import settings
from var_pe.pyramid import Pyramid
from var_pe.stages.config import Config
from var_pe.tasks.classifier import ClassifierTask, ClassifierTraining
from var_pe.tasks.generator import GeneratorTask, GeneratorTraining
from var_pe.tasks.losses.contrastive import (
    Contrastive,
    cells_at,
    contrast_of_crops,
    contrast_of_levels,
    crops_of,
    place_contrast,
)


def test_a_crop_shows_what_it_says():
    """A picture whose pixels hold their own place tells where every pixel of a crop is from."""
    yx_L2 = Pyramid.of([(16, 24)]).positions().yx_L2
    images_B2HW = yx_L2.T.unflatten(1, (16, 24)).expand(8, -1, -1, -1).contiguous()
    torch.manual_seed(0)
    crop_B2HW, centre_B2, side_B = crops_of(images_B2HW, 0.4)
    assert ((side_B >= 0.4) & (side_B <= 1)).all()
    assert (centre_B2.abs() + side_B[:, None] <= 1 + 1e-6).all()
    expected_B2L = (centre_B2[:, None] + side_B[:, None, None] * yx_L2).mT
    inner = (slice(None), slice(None), slice(1, -1), slice(1, -1))  # at the border nothing is beyond
    torch.testing.assert_close(
        crop_B2HW[inner], expected_B2L.unflatten(2, (16, 24))[inner], atol=1e-5, rtol=0
    )


def test_the_loss_is_infonce_over_the_places_of_the_same_picture():
    """By hand, of vectors that are equal or at right angles."""
    a_BlC = torch.eye(4)[None, :2]
    b_BmC = 3 * torch.eye(4)[None]
    match_1l = torch.tensor([[0, 3]])
    right = -math.log(math.exp(2) / (math.exp(2) + 3))
    wrong = -math.log(1 / (math.exp(2) + 3))
    found = place_contrast(a_BlC, b_BmC, match_1l, temperature=0.5)
    assert float(found) == pytest.approx((right + wrong) / 2)


def test_a_token_s_place_lies_in_one_cell_of_the_level_before():
    """Of a 2x4 level, cell (1, 3) of 4x8 lies in (0, 1); tokens that agree so cost less than others."""
    yx_12 = Pyramid.of([(4, 8)]).positions().yx_L2[None, [0, 11, 31]]
    assert cells_at(yx_12, (2, 4)).tolist() == [[0, 1, 7]]

    pyramid = Pyramid.of([1, (2, 4), (4, 8)])
    coarse_8C = torch.eye(8)
    fine_hwC = coarse_8C.unflatten(0, (2, 4)).repeat_interleave(2, 0).repeat_interleave(2, 1)
    x_1LC = torch.cat([torch.ones(1, 8), coarse_8C, fine_hwC.flatten(0, 1)])[None]
    assert contrast_of_levels(x_1LC, pyramid, 3, 0.1) < 0.01
    assert contrast_of_levels(x_1LC.flip(1), pyramid, 3, 0.1) > 1
    assert contrast_of_levels(x_1LC[:, :9], pyramid, 2, 0.1) == 0  # one cell has nothing to be told from


def test_crops_agree_where_they_show_the_same_place():
    """A whole picture's tokens are those of a crop that leaves nothing out, and of no other."""
    whole_1LC = torch.eye(16)[None]
    none_12, all_1 = torch.zeros(1, 2), torch.ones(1)
    assert contrast_of_crops(whole_1LC, whole_1LC, none_12, all_1, (4, 4), 0.1) < 0.01
    assert contrast_of_crops(whole_1LC, whole_1LC, none_12 + 0.5, all_1 / 2, (4, 4), 0.1) > 1


@pytest.mark.parametrize("kind", ["generator", "classifier", "classifier with prompts"])
def test_it_is_added_with_its_weight_and_learned(kind, make_generator, make_tokenizer, make_vit):
    """A few steps on one batch bring it down, whatever else they learn."""
    torch.manual_seed(0)
    contrastive = Contrastive(weight=0.5, layer=1)
    assert (contrastive.block(2), Contrastive().block(2)) == (0, 1)
    if kind == "generator":
        model, tokenizer = make_generator("learned").train(), make_tokenizer()
        config, plain = GeneratorTraining(contrastive=contrastive), GeneratorTraining()
        given = [model, tokenizer, [], [model.pyramid], {}]
        tasks = [GeneratorTask(*given, rules, None, steps=9, seed=0) for rules in (config, plain)]
        batch = {"label": torch.tensor([0, 1]), "draw_number": torch.arange(2)}
        batch["tokens"] = torch.randint(16, (2, 30))
    else:
        model = make_vit("learned", registers=1, prompts=2 if "prompts" in kind else 0).train()
        config, plain = ClassifierTraining(contrastive=contrastive), ClassifierTraining()
        tasks = [ClassifierTask(model, [], [], rules) for rules in (config, plain)]
        batch = {"image": torch.randn(4, 3, 8, 12), "label": torch.tensor([0, 1, 2, 0])}

    loss, named = tasks[0].loss(model, batch, 0)
    torch.testing.assert_close(loss, tasks[1].loss(model, batch, 0)[0] + 0.5 * named["contrast"])
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    first = float(named["contrast"])
    for step in range(30):
        optimizer.zero_grad()
        loss, named = tasks[0].loss(model, batch, step)
        loss.backward()
        optimizer.step()
    assert float(named["contrast"]) < 0.8 * first
    assert "contrast" not in tasks[1].loss(model, batch, 0)[1]


def test_a_layer_that_is_not_there_is_refused():
    """Before anything is trained, and so are stages, whose blocks see several grids."""
    with pytest.raises(
        settings.ConfigError, match=r"contrastive\.layer must be at most 6, the depth of the gen"
    ):
        settings.load(Config, "shapes.yaml", ["generator_training.contrastive={layer: 7}"])
    staged = "classifier.hierarchy=['windowed(blocks=2, window=2)']"
    more = ["classifier={}", staged, "classifier_training.contrastive={layer: 1}"]
    with pytest.raises(settings.ConfigError, match="contrastive compares tokens of one grid"):
        settings.load(Config, "shapes.yaml", more)
    padded = ["classifier={padding: end}", "classifier_training.contrastive={layer: 1}"]
    with pytest.raises(settings.ConfigError, match=r"leave classifier\.padding at none"):
        settings.load(Config, "shapes.yaml", padded)
