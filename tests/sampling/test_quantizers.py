"""Drawing, editing and likelihood under every quantizer: what they ask of it is the walk alone."""

import pytest
import torch

from tests.conftest import QUANTIZER_VARIANTS, QUANTIZERS
from var_pe.sampling.inpaint import VARInpaintPipeline
from var_pe.sampling.likelihood import bits_per_level
from var_pe.sampling.pipeline import VARPipeline


def seeds(*numbers):
    return [torch.Generator().manual_seed(number) for number in numbers]


@pytest.fixture(params=[*QUANTIZERS, *QUANTIZER_VARIANTS])
def drawing(request, make_tokenizer, make_generator, make_loud) -> VARPipeline:
    tokenizer = make_tokenizer(quantizer=request.param)
    generator = make_loud(make_generator(codebook_size=tokenizer.quantizer.num_codes))
    pipe = VARPipeline(tokenizer, generator, ("ant", "bee", "cat"))
    pipe.set_progress_bar_config(disable=True)
    return pipe


@torch.no_grad()
def test_it_is_drawn_edited_scored_and_saved(drawing, tmp_path):
    tokens_BL = drawing(["ant", "bee"], generator=seeds(0, 1), output_type="tokens").images
    pictures = drawing(["ant", "bee"], generator=seeds(0, 1), output_type="pt").images
    torch.testing.assert_close(pictures, drawing.tokenizer.decode(tokens_BL) / 2 + 0.5)
    smooth = drawing(["ant", "bee"], generator=seeds(0, 1), smooth=True, output_type="pt").images
    assert smooth.isfinite().all()
    assert not torch.equal(smooth, pictures)

    # What is drawn under teacher forcing has the likelihood of the cached levels.
    labels = torch.tensor([[0], [1]])
    bits = bits_per_level(drawing.transformer, drawing.tokenizer, tokens_BL, labels)
    assert bits.isfinite().all()
    assert (bits > 0).all()

    editor = VARInpaintPipeline(drawing.tokenizer, drawing.transformer, drawing.class_names)
    mask = torch.zeros(8, 8)
    mask[:4] = 1
    edited = editor(pictures, mask, "cat", generator=seeds(2, 3), keep_unmasked=True, output_type="pt").images
    assert torch.equal(edited[..., 4:, :], pictures[..., 4:, :])
    assert not torch.equal(edited[..., :4, :], pictures[..., :4, :])

    drawing.save_pretrained(tmp_path)
    again = VARPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    assert torch.equal(again(["ant", "bee"], generator=seeds(0, 1), output_type="pt").images, pictures)
