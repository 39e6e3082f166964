"""Attacks and scores of other data, by libraries: bounds, determinism, and formulas by hand."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from var_pe.evaluation.features import FeatureSet


def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 3))


IMAGES_BCHW = torch.rand(5, 1, 4, 4, generator=torch.Generator().manual_seed(0)) - 0.5
LABELS_B = torch.tensor([0, 1, 2, 0, 1])


def test_fgsm_is_one_step_along_the_gradient_s_sign():
    pytest.importorskip("art")
    from var_pe.evaluation.attacks import attacked

    model = linear()
    images_BCHW = IMAGES_BCHW.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(F.cross_entropy(model(images_BCHW), LABELS_B), images_BCHW)
    found = attacked(model, IMAGES_BCHW, LABELS_B, "FGSM", epsilon=0.1)
    torch.testing.assert_close(found, (IMAGES_BCHW + 0.1 * gradient.sign()).clamp(-1, 1))


def test_pgd_stays_in_its_bounds_and_follows_from_its_seed():
    """And leaves numpy's own generator as it was."""
    pytest.importorskip("art")
    from var_pe.evaluation.attacks import attacked

    model = linear()
    np.random.seed(7)
    before = np.random.random()
    np.random.seed(7)
    first = attacked(model, IMAGES_BCHW, LABELS_B, "PGD", epsilon=0.1, steps=2, seed=0)
    assert np.random.random() == before
    assert torch.equal(first, attacked(model, IMAGES_BCHW, LABELS_B, "PGD", epsilon=0.1, steps=2, seed=0))
    assert not torch.equal(first, attacked(model, IMAGES_BCHW, LABELS_B, "PGD", epsilon=0.1, steps=2, seed=1))
    assert (first - IMAGES_BCHW).abs().max() <= 0.1 + 1e-6


def test_scores_of_other_data_are_those_of_the_articles():
    pytest.importorskip("pytorch_ood")
    from var_pe.evaluation.outliers import Outlyingness, auroc

    torch.manual_seed(0)
    labels_N = torch.arange(90) % 3
    features_NF = torch.randn(90, 4) + 5 * F.one_hot(labels_N, 4)
    known = FeatureSet(features_NF, torch.randn(90, 3), labels_N)
    found = FeatureSet(torch.randn(7, 4), torch.randn(7, 3), torch.full((7,), -1))
    scores = Outlyingness(known).scores(found)
    torch.testing.assert_close(scores["energy"], -found.logits_NV.logsumexp(1))
    torch.testing.assert_close(scores["largest probability"], -found.logits_NV.softmax(1).amax(1))

    means_V = torch.stack([features_NF[labels_N == label].mean(0) for label in range(3)])
    centred_NF = features_NF - means_V[labels_N]
    precision_FF = (centred_NF.T @ centred_NF).inverse()
    apart_NVF = found.features_NF[:, None] - means_V
    squares_NV = torch.einsum("nvf,fg,nvg->nv", apart_NVF, precision_FF, apart_NVF)
    torch.testing.assert_close(scores["Mahalanobis"], squares_NV.amin(1) / 2, rtol=1e-3, atol=1e-5)

    assert auroc(torch.tensor([0.0, 1.0]), torch.tensor([2.0, 3.0])) == 1
    assert auroc(torch.tensor([0.0, 3.0]), torch.tensor([1.0, 2.0])) == pytest.approx(0.5)
