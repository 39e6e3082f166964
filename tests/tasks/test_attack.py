"""Adversarial training: an attack keeps its bounds and is the library's; the task learns what it gives."""

import shutil

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import nn

from var_pe import settings
from var_pe.models.vit import ViTClassifier
from var_pe.stages.config import Config
from var_pe.stages.models import weights_hash
from var_pe.stages.train import train_classifier
from var_pe.tasks.attack import UNIT, Attack, ascended, attacked
from var_pe.tasks.classifier import ClassifierTask, ClassifierTraining


def tiny() -> ViTClassifier:
    torch.manual_seed(0)
    model = ViTClassifier(
        image_size=(8, 8), image_channels=1, num_classes=4, patch_size=4, dim=16, depth=1, num_heads=2
    )
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    return model.eval()


IMAGES_BCHW = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
LABELS_B = torch.tensor([0, 1, 2, 3, 0, 1])


def loss_of(model: nn.Module):
    return lambda images_BCHW: F.cross_entropy(model(images_BCHW), LABELS_B, reduction="sum")


def test_an_attack_stays_in_its_bounds_and_raises_the_loss():
    model, attack = tiny(), Attack(epsilon=16, step_size=4, steps=5)
    changed_BCHW = attacked(loss_of(model), IMAGES_BCHW, attack)
    assert (changed_BCHW - IMAGES_BCHW).abs().max() <= 16 * UNIT + 1e-6
    assert changed_BCHW.abs().max() <= 1
    assert not changed_BCHW.requires_grad
    assert loss_of(model)(changed_BCHW) > loss_of(model)(IMAGES_BCHW)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_it_is_that_of_the_library():
    """From the images themselves, where chance has no part."""
    attacks = pytest.importorskip("art.attacks.evasion")
    from art.estimators.classification import PyTorchClassifier

    model, attack = tiny(), Attack(epsilon=16, step_size=4, steps=5)
    estimator = PyTorchClassifier(
        model, nn.CrossEntropyLoss(), (1, 8, 8), 4, clip_values=(-1.0, 1.0), device_type="cpu"
    )
    theirs = attacks.ProjectedGradientDescentPyTorch(
        estimator, eps=16 * UNIT, eps_step=4 * UNIT, max_iter=5, verbose=False
    ).generate(IMAGES_BCHW.numpy(), LABELS_B.numpy())
    ours_BCHW = ascended(loss_of(model), IMAGES_BCHW, IMAGES_BCHW, attack)
    torch.testing.assert_close(ours_BCHW, torch.from_numpy(theirs), atol=1e-5, rtol=0)


def test_the_task_learns_the_attacked_batch():
    """Its loss is that of the batch after the same attack, by the same random numbers."""
    model, attack = tiny(), Attack(epsilon=16)
    batch = {"image": IMAGES_BCHW, "label": LABELS_B}
    task = ClassifierTask(model, None, None, ClassifierTraining(attack=attack))
    torch.manual_seed(3)
    loss, _ = task.loss(model, batch, step=0)
    torch.manual_seed(3)
    changed_BCHW = attacked(loss_of(model), IMAGES_BCHW, attack)
    torch.testing.assert_close(loss, F.cross_entropy(model(changed_BCHW), LABELS_B))

    plain, _ = ClassifierTask(model, None, None, ClassifierTraining()).loss(model, batch, step=0)
    assert loss > plain


def test_a_killed_adversarial_training_ends_with_the_same_bits(tmp_path):
    """Starts of attacks follow from the step: a resumed run meets the same ones."""
    words = [f"run={tmp_path}/run", f"tokenizer_run={tmp_path}/tokenizer", "classifier={}"]
    words += [f"data.{rest}" for rest in ("shapes_train=16", "shapes_test=8", "height=16", "width=16")]
    words += [f"classifier.{rest}" for rest in ("dim=16", "depth=1", "num_heads=2", "patch_size=8")]
    training = ("steps=4", "batch=4", "save_every=2", "warmup=0", "trackers=[]", "attack={steps: 2}")
    words += [f"classifier_training.{rest}" for rest in training]
    config, accelerator, folder = settings.load(Config, None, words), Accelerator(), tmp_path / "run"

    train_classifier(config, accelerator)
    before = weights_hash(folder / "classifier")
    shutil.rmtree(folder / "classifier")
    shutil.rmtree(folder / "checkpoints" / "step_00000004")
    train_classifier(config, accelerator)
    assert weights_hash(folder / "classifier") == before
