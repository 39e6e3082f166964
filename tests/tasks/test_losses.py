"""What the tasks measure: losses, drops and scores on numbers small enough to check by hand."""

import math

import pytest
import torch
import torch.nn.functional as F

from var_pe.pyramid import Pyramid
from var_pe.tasks.classifier import ClassifierTraining
from var_pe.tasks.generator import GeneratorTraining, known_labels, label_drops
from var_pe.tasks.losses import tokens
from var_pe.tasks.losses.reconstruction import psnr, reconstruction_terms
from var_pe.tasks.losses.tokens import per_level, token_losses


def test_labels_are_dropped_by_draw_number_alone():
    """Any process that meets an image drops its label or not alike, in any batch and also after a resume."""
    numbers = torch.arange(100, 200)
    together = label_drops(numbers, 0.3, seed=1)
    alone = torch.cat([label_drops(numbers[i : i + 1], 0.3, seed=1) for i in range(100)])
    assert torch.equal(together, alone)
    assert torch.equal(together.flip(0), label_drops(numbers.flip(0), 0.3, seed=1))
    assert not torch.equal(together, label_drops(numbers, 0.3, seed=2))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9])
def test_the_share_of_dropped_labels_is_the_one_asked_for(share, seed):
    """Too few and guidance has nothing to lean on, too many and classes are learned slowly."""
    dropped = label_drops(torch.arange(100_000), share, seed)
    error = 4 * math.sqrt(share * (1 - share) / 100_000)  # four standard deviations
    assert dropped.float().mean() == pytest.approx(share, abs=error)
    assert not label_drops(torch.arange(1000), 0.0, seed).any()


def test_neighbours_lose_their_labels_independently():
    """Batches of neighbouring draw numbers must not lose all of their labels together, or none."""
    dropped = label_drops(torch.arange(64_000), 0.1, seed=0).view(1000, 64).float()
    per_batch = dropped.sum(1)
    assert per_batch.var() == pytest.approx(64 * 0.1 * 0.9, rel=0.15)
    assert (dropped[:, 1:] * dropped[:, :-1]).mean() == pytest.approx(0.01, abs=0.002)


def test_which_labels_are_dropped_is_written_down_once():
    """Another rule would train another model under the same seed, and a resumed run would mix the two."""
    dropped = label_drops(torch.arange(64), 0.1, seed=0)
    assert dropped.nonzero()[:, 0].tolist() == [3, 6, 7, 17, 30, 51, 60, 63]


def test_images_without_a_label_are_unconditional():
    """An index of -1 would silently take the last row of the class table."""
    assert known_labels(torch.tensor([2, -1, 0]), 5).tolist() == [2, 5, 0]
    assert known_labels(torch.tensor([2, -1, 0]), 0).tolist() == [0, 0, 0]


def test_psnr_is_measured_over_the_picture_and_not_its_margin():
    """A black border that every model gets right would lift the number by a decibel."""
    images = torch.zeros(1, 1, 6, 6)
    rebuilt = images.clone()
    rebuilt[:, :, 1:5, 1:5] = 0.2  # of a range of 2: an error of 0.1
    assert float(psnr(rebuilt, images, (1, 1, 4, 4))) == pytest.approx(20.0, abs=1e-4)
    assert float(psnr(rebuilt, images, (0, 0, 6, 6))) > 23


def test_losses_are_split_by_level():
    """The mean over tokens hides coarse levels behind the finest one."""
    values = torch.tensor([[1.0, 2.0, 2.0, 2.0, 4.0]])
    found = per_level(values, Pyramid.square(1, 2), "loss")
    assert {name: float(value) for name, value in found.items()} == {"loss/level_0": 1.0, "loss/level_1": 2.5}


def test_token_losses_are_cross_entropies_in_nats():
    """Nats per token is what others report."""
    assert float(token_losses(torch.zeros(1, 1, 8), torch.zeros(1, 1, dtype=torch.long))) == pytest.approx(
        math.log(8)
    )


def test_token_losses_and_their_gradients_are_torchs_own(monkeypatch):
    """Worked out for some tokens at a time, the last ones fewer; weighted, as losses by level would be."""
    monkeypatch.setitem(tokens.AT_A_TIME, "cpu", 4 * 7)
    logits_BLV = torch.randn(2, 5, 7, dtype=torch.float64, requires_grad=True)
    token_BL = torch.randint(7, (2, 5))
    weight_BL = torch.randn(2, 5, dtype=torch.float64)
    expected_BL = F.cross_entropy(logits_BLV.transpose(1, 2), token_BL, reduction="none")
    (of_torch_BLV,) = torch.autograd.grad((expected_BL * weight_BL).sum(), logits_BLV)

    loss_BL = token_losses(logits_BLV.clone(), token_BL)
    torch.testing.assert_close(loss_BL, expected_BL)
    (of_ours_BLV,) = torch.autograd.grad((loss_BL * weight_BL).sum(), logits_BLV)
    torch.testing.assert_close(of_ours_BLV, of_torch_BLV)


def test_losses_of_logits_in_16_bits_are_computed_in_32(monkeypatch):
    """Only what comes in and the gradient that goes out is rounded."""
    monkeypatch.setitem(tokens.AT_A_TIME, "cpu", 4 * 7)
    logits_BLV = torch.randn(2, 5, 7).bfloat16().requires_grad_()
    token_BL = torch.randint(7, (2, 5))
    exact_BLV = logits_BLV.detach().float().requires_grad_()

    found_BL, expected_BL = (
        token_losses(logits_BLV.clone(), token_BL),
        token_losses(exact_BLV.clone(), token_BL),
    )
    assert torch.equal(found_BL, expected_BL)
    (of_exact_BLV,) = torch.autograd.grad(expected_BL.square().sum(), exact_BLV)
    (of_logits_BLV,) = torch.autograd.grad(found_BL.square().sum(), logits_BLV)
    assert torch.equal(of_logits_BLV, of_exact_BLV.bfloat16())


def test_logits_whose_gradient_is_written_over_them_are_not_used_again():
    """A second backward pass would take gradients for logits."""
    logits_BLV = torch.randn(1, 3, 4, requires_grad=True)
    loss = token_losses(2 * logits_BLV, torch.tensor([[0, 3, 1]])).sum()
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_reconstruction_terms_are_plain_means():
    """Their weights mean the same at every image size."""
    terms = reconstruction_terms(torch.full((1, 1, 4, 4), 0.5), torch.zeros(1, 1, 4, 4))
    assert float(terms["l1"]) == 0.5
    assert float(terms["l2"]) == 0.25


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: GeneratorTraining(label_drop=1.0), "label_drop must be float, at least 0, below 1, got 1.0"),
        (lambda: GeneratorTraining(batch=10, accumulate=3), "accumulate must be a divisor of batch"),
        (lambda: GeneratorTraining(schedule="step"), "schedule must be one of"),
        (lambda: GeneratorTraining(precision="fp8"), "precision must be one of auto, float32, bf16"),
        (lambda: ClassifierTraining(mixup=-1.0), "mixup must be float, at least 0"),
    ],
)
def test_settings_out_of_range_say_the_rule(make, said):
    """One sentence with setting, value and rule is all a person needs."""
    with pytest.raises(ValueError, match=said):
        make()
