"""Defences: what they leave of a picture, the gradient that an attack which knows of them takes, refusals."""

import pytest
import torch
from torch import Tensor

from var_pe.evaluation.defences import Defence, Defended, defended, parse_defence


def pictures(channels: int = 3) -> Tensor:
    """As files give them, in whole 255ths."""
    numbers = torch.Generator().manual_seed(0)
    return torch.randint(256, (4, channels, 12, 16), generator=numbers) / 127.5 - 1


@pytest.fixture(autouse=True)
def _library():
    pytest.importorskip("art")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("word", ["jpeg=50", "bits=3", "median=3", "gaussian=1"])
def test_every_picture_is_changed_by_itself_and_stays_one(word, channels):
    """The same alone as in a batch, of the same shape, in [-1, 1]; and what is one colour stays so."""
    images_BCHW, defence = pictures(channels), parse_defence(word)
    seen_BCHW = defended(images_BCHW, defence)
    assert seen_BCHW.shape == images_BCHW.shape
    assert seen_BCHW.dtype == torch.float32
    assert seen_BCHW.abs().max() <= 1 + 1e-6
    assert not torch.allclose(seen_BCHW, images_BCHW, atol=0.01)
    torch.testing.assert_close(defended(images_BCHW[1:2], defence), seen_BCHW[1:2])

    even = torch.full((1, channels, 12, 16), -1.0)
    torch.testing.assert_close(defended(even, defence), even)


def test_bits_round_to_so_many_values():
    seen_BCHW = defended(pictures(), Defence("bits", 2))
    assert torch.equal(seen_BCHW.unique(), torch.tensor([0, 1 / 3, 2 / 3, 1]).mul(2).sub(1))


def test_a_median_is_the_middle_of_its_window():
    images_BCHW = pictures()
    middle = images_BCHW[1, 2, 3:6, 7:10].median()
    torch.testing.assert_close(defended(images_BCHW, Defence("median", 3))[1, 2, 4, 8], middle)


def test_the_best_jpeg_hardly_changes_grey_pictures():
    """A rounding down of all values, which ART does by itself, would show as half a 255th on average."""
    images_BCHW = pictures(1)
    change_BCHW = 127.5 * (defended(images_BCHW, Defence("jpeg", 95)) - images_BCHW)
    assert change_BCHW.mean().abs() < 0.2
    assert change_BCHW.abs().max() < 12


@pytest.mark.parametrize("word", ["bits=2", "median=3", "jpeg=60"])
def test_an_attack_that_knows_of_a_defence_is_the_library_s(word, make_vit, make_loud):
    """FGSM through ART's own preprocessor, whose gradient it too takes for the identity's."""
    from art.attacks.evasion import FastGradientMethod
    from art.defences.preprocessor import FeatureSqueezing, JpegCompression, SpatialSmoothing
    from art.estimators.classification import PyTorchClassifier

    from var_pe.evaluation.attacks import attacked

    model, defence = make_loud(make_vit("rope", image_size=(12, 16))), parse_defence(word)
    labels_B, unit_BCHW = torch.tensor([0, 1, 2, 0]), (pictures() + 1) / 2
    ours = attacked(Defended(model, defence), pictures(), labels_B, "FGSM", epsilon=0.1)

    class FromUnit(torch.nn.Module):
        """ART's JPEG takes pictures in [0, 1] alone."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: Tensor) -> Tensor:
            return self.model(2 * x.float() - 1)

    art = {
        "bits": FeatureSqueezing(clip_values=(0, 1), bit_depth=2, apply_predict=True),
        "median": SpatialSmoothing(window_size=3, channels_first=True),
        "jpeg": JpegCompression(clip_values=(0, 1), quality=60, channels_first=True),
    }
    estimator = PyTorchClassifier(
        model=FromUnit(),
        loss=torch.nn.CrossEntropyLoss(),
        input_shape=(3, 12, 16),
        nb_classes=3,
        clip_values=(0, 1),
        preprocessing_defences=[art[defence.kind]],
        device_type="cpu",
    )
    theirs = FastGradientMethod(estimator, eps=0.05).generate(unit_BCHW.numpy(), labels_B.numpy())
    same = torch.isclose(ours, torch.from_numpy(theirs).float() * 2 - 1, atol=1e-4).float().mean()
    # ART rounds values down before JPEG, so that a gradient near 0 may have the other sign
    assert same > (0.9 if defence.kind == "jpeg" else 0.999)


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        (
            "blur=1",
            "a defence is one of jpeg, bits, median, gaussian .*, as in jpeg=50, got 'blur=1",
        ),
        ("jpeg", "jpeg takes a whole number from 1 to 95, the quality, got ''"),
        ("jpeg=0", "jpeg takes a whole number from 1 to 95, the quality, got 0"),
        ("bits=2.5", "bits takes a whole number from 1 to 8"),
        ("median=4", "median takes an odd number of at least 3"),
        ("gaussian=nan", "gaussian takes a number above 0"),
        ("gaussian=inf", "gaussian takes a number above 0"),
    ],
)
def test_what_is_no_defence_is_said(word, sentence):
    with pytest.raises(ValueError, match=sentence):
        parse_defence(word)
