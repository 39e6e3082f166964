"""Editing keeps what the mask leaves alone: tokens at every level, and pixels when asked."""

import logging

import numpy as np
import pytest
import torch
from PIL import Image

from var_pe.pyramid import Pyramid
from var_pe.sampling.inpaint import VARInpaintPipeline
from var_pe.sampling.masks import RULES, outpainting, pictures, repainted
from var_pe.sampling.pipeline import VARPipeline

LEVELS = Pyramid.square(1, 2, 3, 4)


def seeds(*numbers: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(number) for number in numbers]


@pytest.fixture
def editor(pipeline) -> VARInpaintPipeline:
    return VARInpaintPipeline(pipeline.tokenizer, pipeline.transformer, pipeline.class_names)


@pytest.fixture
def image() -> torch.Tensor:
    return torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def mask_of(rows: slice, columns: slice = slice(None)) -> torch.Tensor:
    mask = torch.zeros(8, 8)
    mask[rows, columns] = 1
    return mask


EVERYWHERE, NOWHERE, TOP = mask_of(slice(None)), mask_of(slice(0)), mask_of(slice(4))


@pytest.mark.parametrize("rule", sorted(RULES))
def test_tokens_outside_the_mask_stay(rule, editor, image):
    """At every level; inside, others are drawn, and as many draws as seeds."""
    tokens = editor.tokenizer.encode(image * 2 - 1)
    drawn = editor(image, TOP, "ant", mask_rule=rule, generator=seeds(0, 1), output_type="tokens").images
    inside = repainted(TOP[None, None], LEVELS, rule=rule, strength=1.0).expand(2, -1)
    assert torch.equal(drawn[~inside], tokens[~inside])
    assert not torch.equal(drawn[inside], tokens[inside])
    other = editor(image, TOP, "ant", mask_rule=rule, generator=seeds(8, 9), output_type="tokens").images
    assert not torch.equal(drawn, other)


def test_an_empty_mask_gives_the_reconstruction_or_the_picture(editor, image):
    reconstruction = editor.tokenizer.decode(editor.tokenizer.encode(image * 2 - 1)) / 2 + 0.5
    torch.testing.assert_close(editor(image, NOWHERE, output_type="pt").images, reconstruction)
    torch.testing.assert_close(
        editor(image, EVERYWHERE, strength=0.0, output_type="pt").images, reconstruction
    )
    assert torch.equal(editor(image, NOWHERE, keep_unmasked=True, output_type="pt").images, image)


@pytest.mark.parametrize("rule", ["any", "half", "all"])
def test_a_full_mask_is_plain_generation(rule, editor, pipeline, image):
    """With the same seeds the same tokens and pixels, bit for bit: there is one way to draw."""
    for output_type in ("tokens", "pt"):
        edited = editor(
            image, EVERYWHERE, ["bee", None], mask_rule=rule, generator=seeds(3, 4), output_type=output_type
        ).images
        plain = pipeline(["bee", None], generator=seeds(3, 4), output_type=output_type).images
        assert torch.equal(edited, plain)


def test_unmasked_pixels_are_the_original_s_when_asked(editor):
    """To the byte, through PIL; at every level of the strip as well."""
    bytes_HWC = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    mask = Image.fromarray((TOP.numpy() * 255).astype(np.uint8))
    output = editor(
        Image.fromarray(bytes_HWC), mask, "ant", keep_unmasked=True, return_levels=True, generator=seeds(0)
    )
    for (picture,) in [output.images, *output.levels]:
        np.testing.assert_array_equal(np.asarray(picture)[4:], bytes_HWC[4:])
        assert not np.array_equal(np.asarray(picture)[:4], bytes_HWC[:4])
    plain = editor(Image.fromarray(bytes_HWC), mask, "ant", generator=seeds(0)).images[0]
    np.testing.assert_array_equal(np.asarray(plain)[:4], np.asarray(output.images[0])[:4])


def test_an_edit_follows_from_its_own_picture_mask_label_and_seed(editor, image):
    """Alone or among others, several of each picture included."""
    masks = torch.stack([TOP, 1 - TOP])[:, None]
    together = editor(
        image,
        masks,
        ["ant", "cat"],
        num_images_per_label=2,
        generator=seeds(0, 1, 2, 3),
        output_type="tokens",
    ).images
    for row, (picture, label) in enumerate([(0, "ant"), (0, "ant"), (1, "cat"), (1, "cat")]):
        alone = editor(
            image[picture], masks[picture], label, generator=seeds(row), output_type="tokens"
        ).images
        assert torch.equal(alone[0], together[row])
    assert not torch.equal(together[0], together[1])


def test_one_picture_under_many_classes(editor, image):
    edits = editor(image[0], TOP, ["ant", "bee", "cat"], generator=seeds(0, 0, 0), output_type="pt").images
    assert edits.shape == (3, 3, 8, 8)
    assert not torch.equal(edits[0], edits[1])


def test_strength_leaves_coarse_levels_alone(editor, image):
    tokens = editor.tokenizer.encode(image * 2 - 1)
    half = editor(image, EVERYWHERE, "ant", strength=0.5, generator=seeds(0, 1), output_type="tokens").images
    assert torch.equal(half[:, :5], tokens[:, :5])
    assert not torch.equal(half[:, 5:14], tokens[:, 5:14])


@pytest.mark.parametrize(
    ("strength", "changing"),
    [
        (0.0, 0),
        (0.01, 1),
        (0.1, 1),
        (0.125, 1),
        (0.25, 1),
        (0.37, 1),
        (0.375, 2),
        (0.625, 3),
        (0.9, 4),
        (1.0, 4),
    ],
)
def test_strength_is_rounded_to_whole_levels(strength, changing):
    """A half counts, and a little is never nothing: an edit that changes no token looks like a bad model."""
    drawn = repainted(EVERYWHERE[None, None], LEVELS, rule="half", strength=strength)[0]
    assert [bool(drawn[span].all()) for span in LEVELS.spans] == [False] * (4 - changing) + [True] * changing


def cells(rule: str, mask: torch.Tensor, grid: tuple[int, int]) -> list[list[int]]:
    return RULES[rule](mask[None, None], grid)[0, 0].int().tolist()


def test_rules_say_how_much_of_a_cell_counts():
    """A quarter of a cell, exactly half of it, more, all."""
    quarter, half, most = (
        mask_of(slice(2), slice(2)),
        mask_of(slice(4), slice(2)),
        mask_of(slice(3), slice(4)),
    )
    for mask, expected in (
        (quarter, "100"),
        (half, "100"),
        (most, "110"),
        (mask_of(slice(4), slice(4)), "111"),
    ):
        found = "".join(str(cells(rule, mask, (2, 2))[0][0]) for rule in ("any", "half", "all"))
        assert found == expected
        assert all(cells(rule, mask, (2, 2))[1] == [0, 0] for rule in ("any", "half", "all"))
    assert cells("any", mask_of(slice(1), slice(1)), (1, 1)) == [[1]]
    assert cells("half", TOP, (1, 1)) == [[0]]
    for grid, given in (((1, 1), True), ((1, 3), True), ((2, 2), False)):  # VAR gives levels of three tokens
        assert (not RULES["var"](EVERYWHERE[None, None], grid).any()) == given


def test_var_s_rule_reads_the_pixels_about_a_cell_s_middle():
    """As the notebook's `interpolate` does, which smooths nothing: 2 x 2 pixels of 8 x 8 count."""
    mask = torch.zeros(16, 16)
    mask[3:5, 3:5] = 1
    assert cells("var", mask, (2, 2)) == [[1, 0], [0, 0]]
    assert cells("var", 1 - mask, (2, 2)) == [[0, 1], [1, 1]]


def test_a_grey_mask_is_cut_at_one_half(editor, image):
    """Below, nothing may change; above, all may, as under white."""

    def edited(mask: torch.Tensor) -> torch.Tensor:
        return editor(image, mask, "ant", generator=seeds(0, 1), keep_unmasked=True, output_type="pt").images

    assert torch.equal(edited(EVERYWHERE * 0.45), image)
    assert torch.equal(edited(EVERYWHERE * 0.55), edited(EVERYWHERE))


def test_outpainting_masks_the_margin_and_nothing_else(editor, image, make_generator, make_tokenizer):
    wide, mask = outpainting(image, left=4, right=4, bottom=2)
    assert wide.shape == (2, 3, 10, 16)
    assert torch.equal(wide[..., :8, 4:12], image)
    assert not mask[..., :8, 4:12].any()
    assert mask.sum() == 2 * (10 * 16 - 8 * 8)
    pipe = VARInpaintPipeline(make_tokenizer(), make_generator("sinusoidal"))
    drawn = pipe(wide, mask, 1, keep_unmasked=True, generator=seeds(0, 1), output_type="pt").images
    assert torch.equal(drawn[..., :8, 4:12], image)
    with pytest.raises(ValueError, match="learned table was made for the grids 1-2-3-4"):
        editor(wide, mask, 1)
    with pytest.raises(ValueError, match=r"margins .* at least 0, got \(-1, 0, 0, 0\)"):
        outpainting(image, left=-1)


def test_pictures_come_in_every_form(image):
    """Bytes and floats, one and many, rows first: all are the same picture."""
    bytes_BHWC = (image * 255).round().byte().permute(0, 2, 3, 1).numpy()
    expected = torch.from_numpy(bytes_BHWC).permute(0, 3, 1, 2) / 255
    forms = [
        bytes_BHWC,
        list(bytes_BHWC),
        [Image.fromarray(picture) for picture in bytes_BHWC],
        bytes_BHWC.astype(np.float32) / 255,
        expected,
        list(expected),
    ]
    for form in forms:
        torch.testing.assert_close(pictures(form, 3), expected)
        torch.testing.assert_close(pictures(form[0], 3), expected[:1])
    grey = Image.fromarray(bytes_BHWC[0]).convert("L")
    assert pictures(grey, 1).shape == (1, 1, 8, 8)
    assert pictures(grey, 3).shape == (1, 3, 8, 8)
    assert torch.equal(pictures(TOP.bool(), 1), TOP[None, None])


def test_pipelines_become_each_other_and_load_from_one_folder(pipeline, editor, image, tmp_path):
    pipeline.save_pretrained(tmp_path)
    loaded = VARInpaintPipeline.from_pretrained(tmp_path)
    shared = VARInpaintPipeline.from_pipe(pipeline)
    assert shared.transformer is pipeline.transformer
    expected = editor(image, TOP, "ant", generator=seeds(0, 1), output_type="pt").images
    for other in (loaded, shared):
        assert torch.equal(other(image, TOP, "ant", generator=seeds(0, 1), output_type="pt").images, expected)
    assert isinstance(VARPipeline.from_pipe(shared), VARPipeline)


def test_another_kind_of_pipeline_leaves_the_models_as_they_are_and_warns_of_nothing(pipeline, caplog):
    """diffusers casts the shared models to float32, and warns of modules in a list that is empty."""
    logger = logging.getLogger("diffusers")
    logger.addHandler(caplog.handler)
    try:
        half = pipeline.to(torch.float16)
        assert VARInpaintPipeline.from_pipe(half).transformer.dtype == half.tokenizer.dtype == torch.float16
        assert VARInpaintPipeline.from_pipe(half, torch_dtype=torch.float32).tokenizer.dtype == torch.float32
    finally:
        logger.removeHandler(caplog.handler)
    assert "float32" not in caplog.text


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"mask_rule": "most"}, "mask_rule is one of any, half, all, var, got 'most'"),
        ({"strength": 1.5}, r"strength must lie in \[0, 1\], got 1.5"),
        ({"mask_image": torch.zeros(8, 4)}, r"mask_image must have the image's size \(8, 8\), got \(8, 4\)"),
        (
            {"mask_image": torch.full((8, 8), 255.0)},
            r"mask_image: values must lie in \[0, 1\], got 255 .. 255",
        ),
        ({"image": torch.rand(3, 8, 8) * 2 - 1}, r"image: values must lie in \[0, 1\], got -"),
        ({"image": torch.rand(1, 8, 8)}, "image must have 3 channels, got 1"),
        ({"image": torch.rand(3, 9, 8), "mask_image": torch.zeros(9, 8)}, "downsampling factor 2, got 9x8"),
        ({"image": [torch.rand(3, 8, 8), torch.rand(3, 8, 4)]}, "image must be pictures of one size"),
        ({"image": []}, "image must be pictures of one size"),
        ({"class_labels": ["ant", "bee", "cat"]}, "one or 3 of each, got {'image': 2, 'mask_image': 1"),
        ({"class_labels": "dog"}, "there is no class 'dog'"),
        ({"num_images_per_label": 0}, "num_images_per_label must be at least 1, got 0"),
        ({"keep_unmasked": True, "output_type": "latent"}, "keep_unmasked needs pictures, .* got 'latent'"),
        ({"top_k": -1}, "top_k must be at least 0"),
        ({"pyramid": [1, 2]}, "the pyramid 1-2 ends at 2x2, but 8x8 pixels are 4x4 tokens"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_wrong_inputs_are_named(given, sentence, editor, image):
    with pytest.raises(ValueError, match=sentence):
        editor(**({"image": image, "mask_image": TOP} | given))
