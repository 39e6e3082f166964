"""The pipeline's promises: diffusers' conventions, one generator per image, sentences for wrong inputs."""

import numpy as np
import pytest
import torch
from PIL import Image

from var_pe.sampling.pipeline import VARPipeline


def seeds(*numbers: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(number) for number in numbers]


def test_saved_and_loaded_it_draws_the_same(line, make_generator, make_tokenizer, make_loud, tmp_path):
    """One folder holds tokenizer, generator and the classes' names."""
    pipe = VARPipeline(make_tokenizer(), make_loud(make_generator(line)), ("ant", "bee", "cat"))
    pipe.set_progress_bar_config(disable=True)
    pipe.save_pretrained(tmp_path)
    loaded = VARPipeline.from_pretrained(tmp_path)
    given = dict(class_labels=["cat", 0], output_type="pt")
    assert torch.equal(
        pipe(**given, generator=seeds(0, 1)).images, loaded(**given, generator=seeds(0, 1)).images
    )
    assert loaded.class_names == ("ant", "bee", "cat")


def test_it_loads_in_half_precision(pipeline, tmp_path):
    """As diffusers users do on small GPUs; tokens are then other ones, pictures are pictures."""
    pipeline.save_pretrained(tmp_path)
    half = VARPipeline.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert half.transformer.dtype == half.tokenizer.dtype == torch.bfloat16
    images = half(["ant"], generator=seeds(0), output_type="pt").images
    assert images.dtype == torch.float32
    assert images.isfinite().all()


def test_output_types_are_one_picture_in_several_forms(pipeline):
    """pt and np lie in [0, 1], PIL rounds them, latents decode to them, tokens add up to the latents."""

    def drawn(output_type: str):
        return pipeline([0, 2], generator=seeds(0, 1), output_type=output_type).images

    pt, latent, tokens = drawn("pt"), drawn("latent"), drawn("tokens")
    assert pt.shape == (2, 3, 8, 8)
    assert 0 <= pt.min() < pt.max() <= 1
    np.testing.assert_array_equal(drawn("np"), pt.permute(0, 2, 3, 1).numpy())
    for picture, image in zip(drawn("pil"), pt, strict=True):
        assert isinstance(picture, Image.Image)
        np.testing.assert_array_equal(
            np.asarray(picture), (image * 255).round().permute(1, 2, 0).byte().numpy()
        )
    assert tokens.shape == (2, 30)
    tokenizer = pipeline.tokenizer
    torch.testing.assert_close(tokenizer.quantizer.sum_of(tokens, tokenizer.pyramid).detach(), latent)
    torch.testing.assert_close(tokenizer.decode(tokens) / 2 + 0.5, pt)
    (images,) = pipeline([0, 2], generator=seeds(0, 1), output_type="pt", return_dict=False)
    assert torch.equal(images, pt)


def test_one_channel_is_a_grey_picture(make_generator, make_tokenizer):
    pipe = VARPipeline(make_tokenizer(image_channels=1), make_generator())
    (picture,) = pipe(1, generator=seeds(0)).images
    assert picture.mode == "L"


def test_labels_by_number_and_by_name(pipeline):
    assert pipeline.labels("bee") == pipeline.labels(1) == pipeline.labels([1]) == [1]
    assert pipeline.labels(["cat", 0, None]) == [2, 0, 3]
    assert pipeline.labels(None) == [3]
    assert pipeline.labels(np.int64(2)) == pipeline.labels(torch.tensor(2)) == [2]
    assert pipeline.labels(torch.tensor([2, 0])) == pipeline.labels(np.array([2, 0])) == [2, 0]
    by_name, by_number = (
        pipeline(labels, generator=seeds(0, 1), output_type="tokens").images
        for labels in (["ant", "cat"], [0, 2])
    )
    assert torch.equal(by_name, by_number)


def test_an_image_follows_from_its_own_generator(pipeline):
    """Alone, in a batch, or among several of a label: generator and label are all that counts."""
    many = pipeline(
        ["ant", "cat"], num_images_per_label=2, generator=seeds(0, 1, 2, 3), output_type="tokens"
    ).images
    for place, (label, seed) in enumerate([(0, 0), (0, 1), (2, 2), (2, 3)]):
        assert torch.equal(
            pipeline(label, generator=seeds(seed), output_type="tokens").images[0], many[place]
        )
    assert not torch.equal(many[0], many[1])


def test_a_single_generator_seeds_all_in_order(pipeline):
    """Reproducible, no two alike, and the first ones do not depend on how many follow."""
    three, again = (pipeline([1, 1, 1], generator=seeds(5)[0], output_type="tokens").images for _ in range(2))
    assert torch.equal(three, again)
    assert len({tuple(tokens) for tokens in three.tolist()}) == 3
    assert torch.equal(pipeline([1], generator=seeds(5)[0], output_type="tokens").images, three[:1])
    torch.manual_seed(0)
    one = pipeline([1], output_type="tokens").images
    torch.manual_seed(0)
    assert torch.equal(pipeline([1], output_type="tokens").images, one)
    assert not torch.equal(pipeline([1], output_type="tokens").images, one)


def test_settings_reach_the_draw(pipeline):
    """Guidance, temperature, top-k and top-p each change something; greedy needs no generator."""

    def drawn(seed: int = 0, **settings):
        return pipeline([0, 1], generator=seeds(seed, seed + 1), output_type="tokens", **settings).images

    plain = drawn()
    for settings in (
        {"guidance_scale": 9.0},
        {"guidance_schedule": "constant"},
        {"temperature": 0.3},
        {"top_k": 2},
        {"top_p": 0.3},
    ):
        assert not torch.equal(drawn(**settings), plain), settings
    assert torch.equal(drawn(0, top_k=1), drawn(8, top_k=1))


def test_a_callback_sees_every_level(pipeline):
    seen = []
    images = pipeline(
        "ant",
        generator=seeds(0),
        output_type="latent",
        callback_on_level_end=lambda pipe, level, kept: seen.append((pipe, level, kept["latents"].clone())),
    ).images
    assert [(pipe is pipeline, level) for pipe, level, _ in seen] == [(True, level) for level in range(4)]
    assert torch.equal(seen[-1][2], images)
    assert not torch.equal(seen[0][2], images)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"class_labels": "dog"}, "there is no class 'dog'; there are ant, bee, cat"),
        ({"class_labels": 3}, "must lie in 0 .. 2 .None: unconditional., got 3"),
        ({"class_labels": -1}, "must lie in 0 .. 2"),
        ({"class_labels": 1.5}, "numbers, names or None, got 1.5"),
        ({"class_labels": [1.5]}, "numbers, names or None, got 1.5"),
        ({"class_labels": []}, "at least one label"),
        ({"output_type": "jpeg"}, "output_type is one of pil, np, pt, latent, tokens, got 'jpeg'"),
        ({"num_images_per_label": 0}, "num_images_per_label must be at least 1, got 0"),
        ({"class_labels": [0, 1], "generator": seeds(0)}, "one for each image or a single one, got 1 for 2"),
        ({"guidance_scale": -1}, "guidance_scale must be finite and at least 0"),
        ({"guidance_schedule": "cosine"}, "guidance_schedule is one of linear, constant or 4 factors"),
        ({"temperature": 0}, "temperature must be above 0"),
        ({"top_k": -1}, "top_k must be at least 0"),
        ({"top_p": 2}, "top_p must lie in"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_wrong_inputs_are_named(given, sentence, pipeline):
    with pytest.raises(ValueError, match=sentence):
        pipeline(**({"class_labels": 0} | given))


def test_classes_that_have_no_names_or_are_not_there(make_generator, make_tokenizer):
    nameless = VARPipeline(make_tokenizer(), make_generator())
    with pytest.raises(ValueError, match="no class 'ant'; there are none with a name"):
        nameless("ant")
    classless = VARPipeline(make_tokenizer(), make_generator(num_classes=0))
    assert classless(generator=seeds(0), output_type="tokens").images.shape == (1, 30)
    with pytest.raises(ValueError, match="the generator has no classes: class_labels must be None, got 0"):
        classless(0)
    with pytest.raises(ValueError, match="class_names: one for each of 3 classes or none, got 2"):
        VARPipeline(make_tokenizer(), make_generator(), ("ant", "bee"))
