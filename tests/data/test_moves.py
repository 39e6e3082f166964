"""Changes of place: what they do equals slicing, turning by quarters and torchvision's rotation."""

import pytest
import torch
from torchvision.transforms.v2 import functional as vision

from var_pe.data.moves import MOVES, Move, shifted, turned

IMAGES_BCHW = torch.rand(8, 1, 12, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_a_shift_moves_whole_pixels_and_repeats_the_border():
    moved_BCHW = shifted(IMAGES_BCHW[:2], [(3, 0), (0, -2)])
    assert torch.equal(moved_BCHW[0, :, 3:], IMAGES_BCHW[0, :, :-3])
    assert torch.equal(moved_BCHW[0, :, :3], IMAGES_BCHW[0, :, :1].expand(-1, 3, -1))
    assert torch.equal(moved_BCHW[1, :, :, :-2], IMAGES_BCHW[1, :, :, 2:])


def test_a_quarter_turn_of_a_square_is_exact():
    square_BCHW = IMAGES_BCHW[..., :12]
    turned_BCHW = turned(square_BCHW, torch.full((8,), 90.0), 1.0)
    torch.testing.assert_close(turned_BCHW, square_BCHW.rot90(-1, (2, 3)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("width", [12, 16])
def test_turns_are_torchvision_s(width):
    """Of any sides, inside a circle that no border reaches; torchvision counts angles the other way."""
    images_BCHW = IMAGES_BCHW[..., :width]
    found = turned(images_BCHW, torch.full((8,), 20.0), 1.0)[..., 3:9, 3:9]
    bilinear = vision.InterpolationMode.BILINEAR
    wanted = vision.rotate(images_BCHW, -20, interpolation=bilinear)[..., 3:9, 3:9]
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)


def test_a_crop_shows_the_middle():
    """A ramp from left to right, half of it shown, is half as steep; no side is preferred."""
    ramp_BCHW = torch.linspace(-1, 1, 16).expand(1, 1, 12, 16)
    shown_BCHW = Move(zoom=2.0)(ramp_BCHW, seed=0)
    torch.testing.assert_close(shown_BCHW.diff(dim=3), ramp_BCHW.diff(dim=3) / 2, atol=1e-5, rtol=0)
    torch.testing.assert_close(shown_BCHW.flip(3), -shown_BCHW, atol=1e-5, rtol=0)


def test_an_image_s_direction_follows_from_seed_and_number():
    """Alone or in a batch; small and large amounts go the same way."""
    for move in MOVES.values():
        together = move(IMAGES_BCHW, seed=0)
        torch.testing.assert_close(together[5:6], move(IMAGES_BCHW[5:6], seed=0, first=5))

    ramp_BCHW = torch.linspace(-1, 1, 16).expand(8, 1, 16, 16)
    ramp_BCHW = ramp_BCHW + ramp_BCHW.mT / 100
    signs = [(move(ramp_BCHW, seed=0) - ramp_BCHW).mean((1, 2, 3)).sign() for move in (Move(1), Move(4))]
    assert torch.equal(signs[0], signs[1])
    assert len({*signs[0].tolist()}) == 2
