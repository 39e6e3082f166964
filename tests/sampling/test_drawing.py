"""Images of a config's settings: rounded pixels, and settings that are refused before anything is drawn."""

import pytest
import torch

from var_pe.sampling.config import SamplingConfig
from var_pe.sampling.drawing import draw_images
from var_pe.seeding import generator_for

CONFIG = SamplingConfig()


def test_pixels_are_rounded_not_cut(pipeline):
    """Cutting makes pictures darker by half a step, which a distance between distributions sees."""
    exact = pipeline([0], generator=[generator_for(0, "image", 5)], output_type="pt").images
    drawn = draw_images(pipeline, [0], [5], CONFIG)
    assert drawn.dtype == torch.uint8
    assert (drawn / 255 - exact).abs().max() <= 0.5001 / 255


@pytest.mark.parametrize("wrong", ["images_per_class", "batch", "temperature"])
def test_what_cannot_be_drawn_is_refused_before_a_folder_is_claimed(wrong):
    """A folder that holds nothing but the settings of a mistake would refuse the corrected command."""
    with pytest.raises(ValueError, match=f"{wrong} must be .*, got 0"):
        SamplingConfig(**{wrong: 0})
