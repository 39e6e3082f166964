"""The pipeline's promises: diffusers' conventions, one generator per image, sentences for wrong inputs."""

import logging

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from var_pe.models.choice import gumbel_mix
from var_pe.pyramid import Pyramid
from var_pe.sampling.pipeline import VARPipeline
from var_pe.sampling.rejection import children


def seeds(*numbers: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(number) for number in numbers]


def bright(images_BCHW: torch.Tensor) -> torch.Tensor:
    """A classifier of three classes: how much red, green and blue there is."""
    return 20 * images_BCHW.mean((2, 3))


def test_it_loads_without_a_warning(pipeline, tmp_path, monkeypatch, caplog):
    """A warning about nothing teaches people to overlook those about something."""
    pipeline.save_pretrained(tmp_path)
    monkeypatch.setattr(logging.getLogger("diffusers"), "propagate", True)
    VARPipeline.from_pretrained(tmp_path)
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


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


@pytest.mark.parametrize("part", ["tokenizer", "transformer"])
def test_a_folder_that_lacks_a_weight_is_refused(part, pipeline, tmp_path):
    """diffusers leaves it empty, and the first use fails far from the folder that is to blame."""
    pipeline.save_pretrained(tmp_path)
    (file,) = (tmp_path / part).glob("*.safetensors")
    state = load_file(file)
    name = sorted(state)[0]
    del state[name]
    save_file(state, file, metadata={"format": "pt"})
    said = f"weights in {tmp_path / part} are not those .* describes: {name} is missing"
    with pytest.raises(ValueError, match=said):
        VARPipeline.from_pretrained(tmp_path)


@pytest.mark.parametrize("index", ["", "{", "[]", '{"_class_name": "StableDiffusionPipeline"}'])
def test_a_folder_of_something_else_is_refused(index, tmp_path):
    (tmp_path / "model_index.json").write_text(index)
    with pytest.raises(ValueError, match=f"{tmp_path} has no model_index.json of a pipeline of var_pe"):
        VARPipeline.from_pretrained(tmp_path)


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
    output = pipeline([0, 2], generator=seeds(0, 1), output_type="pt", return_tokens=True)
    assert torch.equal(output.tokens, tokens)
    assert torch.equal(output.images, pt)


@pytest.mark.parametrize("slice_size", [1, 2, 5])
def test_pictures_decoded_in_slices_are_the_same(slice_size, pipeline):
    """Where memory is short: no more of them pass through the decoder at once."""
    whole = pipeline([0, 1, 2], generator=seeds(0, 1, 2), output_type="pt").images
    seen = []
    pipeline.tokenizer.decoder.register_forward_hook(lambda *given: seen.append(len(given[2])))
    pipeline.enable_slicing(slice_size)
    sliced = pipeline([0, 1, 2], generator=seeds(0, 1, 2), output_type="pt").images
    torch.testing.assert_close(sliced, whole, atol=1e-6, rtol=0)
    assert seen == {1: [1, 1, 1], 2: [2, 1], 5: [3]}[slice_size]

    pipeline.disable_slicing()
    pipeline([0, 1, 2], generator=seeds(0, 1, 2))
    assert seen[-1] == 3
    with pytest.raises(ValueError, match="slice_size must be at least 1, got 0"):
        pipeline.enable_slicing(0)


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


def test_a_generator_that_goes_on_draws_others(pipeline):
    """Another call with the same object, as with any of torch's samplers; an equal new one draws the same."""
    (generator,) = seeds(3)
    first, second = (pipeline(1, generator=[generator], output_type="tokens").images for _ in range(2))
    assert torch.equal(first, pipeline(1, generator=seeds(3), output_type="tokens").images)
    assert not torch.equal(first, second)


def test_settings_reach_the_draw(pipeline):
    """Guidance, temperature, top-k and top-p each change something; greedy needs no generator."""

    def drawn(seed: int = 0, **settings):
        return pipeline([0, 1], generator=seeds(seed, seed + 1), output_type="tokens", **settings).images

    plain = drawn()
    for settings in (
        {"guidance_scale": 9.0},
        {"guidance_schedule": "constant"},
        {"scale_guidance": [0, 0, 0, 2.0]},
        {"temperature": 0.3},
        {"temperature": [1, 1, 1, 0.3]},
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


def test_a_callback_can_see_the_running_picture(pipeline):
    seen = []
    final = pipeline(
        "ant",
        generator=seeds(0),
        output_type="pt",
        callback_on_level_end=lambda pipe, level, kept: seen.append(pipe.decode(kept["latents"], "pt")),
    ).images
    assert torch.equal(seen[-1], final)
    assert len({tuple(picture.flatten().tolist()) for picture in seen}) == 4


def test_a_temperature_is_its_level_s_own(pipeline):
    """Levels before the one that differs keep their tokens."""
    plain, changed = (
        pipeline([0, 1], generator=seeds(0, 1), output_type="tokens", temperature=temperature).images
        for temperature in (1.0, [1, 1, 0.2, 1])
    )
    assert torch.equal(plain[:, :5], changed[:, :5])
    assert not torch.equal(plain[:, 5:14], changed[:, 5:14])


def test_the_levels_run_from_coarse_to_the_image(pipeline):
    """VAR's strip: what callbacks would decode, in the same form as the images."""
    seen = []
    output = pipeline(
        ["ant", "bee"],
        generator=seeds(0, 1),
        output_type="pt",
        return_levels=True,
        callback_on_level_end=lambda pipe, level, kept: seen.append(pipe.decode(kept["latents"], "pt")),
    )
    assert len(output.levels) == 4
    assert all(torch.equal(level, picture) for level, picture in zip(output.levels, seen, strict=True))
    assert torch.equal(output.levels[-1], output.images)
    images, levels = pipeline("ant", generator=seeds(0), return_levels=True, return_dict=False)
    assert len(images) == 1
    assert [len(level) for level in levels] == [1] * 4
    assert pipeline("ant", generator=seeds(0)).levels is None


def test_given_tokens_stay_and_the_others_follow_them(pipeline):
    given = torch.full((2, 30), -1)
    given[:, ::3] = torch.arange(10) + torch.tensor([[0], [6]])
    free, led = (
        pipeline([0, 1], generator=seeds(0, 1), output_type="tokens", given_tokens=tokens).images
        for tokens in (None, given)
    )
    assert torch.equal(led[given >= 0], given[given >= 0])
    assert not torch.equal(led[given < 0], free[given < 0])
    nothing = pipeline(
        [0, 1], generator=seeds(0, 1), output_type="tokens", given_tokens=torch.full((2, 30), -1)
    ).images
    assert torch.equal(nothing, free)


def test_smooth_mixes_codes_where_there_is_a_choice(pipeline):
    """Greedy drawing has no randomness; else pictures differ, and follow from the image's generator alone."""

    def drawn(labels, *numbers: int, **settings):
        return pipeline(labels, generator=seeds(*numbers), output_type="pt", **settings).images

    assert torch.equal(drawn([0, 1], 0, 1, top_k=1), drawn([0, 1], 4, 5, top_k=1, smooth=True))
    together = drawn([0, 1], 0, 1, smooth=True)
    assert not torch.allclose(together, drawn([0, 1], 0, 1))
    torch.testing.assert_close(drawn(1, 1, smooth=True)[0], together[1])
    assert not torch.allclose(drawn(1, 2, smooth=True)[0], together[1])
    given = torch.arange(30)[None] % 16
    all_given = drawn(0, 0, smooth=True, given_tokens=given)
    torch.testing.assert_close(all_given * 2 - 1, pipeline.tokenizer.decode(given))


def test_mixing_ends_at_the_last_level(pipeline, monkeypatch):
    """Progress runs from 0 at the first level to 1 at the last, as in VAR: the last one hardly mixes."""
    progress = []

    def watched(logits_BlV, key_Bl, r):
        progress.append(r)
        return gumbel_mix(logits_BlV, key_Bl, r)

    monkeypatch.setattr("var_pe.models.generator.gumbel_mix", watched)
    pipeline(0, generator=seeds(0), smooth=True)
    assert progress == pytest.approx([0, 1 / 3, 2 / 3, 1])


def test_the_classifier_s_favourite_is_kept(pipeline):
    """Of four drawings; the kept image follows from its own generator, whatever is drawn beside it."""
    settings = dict(output_type="pt", guidance_scale=0.0)
    together = pipeline(
        [0, 1, 2], generator=seeds(0, 1, 2), keep_best="1/4", classifier=bright, **settings
    ).images
    for place in range(3):
        (parent,) = seeds(place)
        candidates = [
            pipeline(place, generator=[child], **settings).images[0] for child in children(parent, 4)
        ]
        likelihood = torch.stack([bright(c[None] * 2 - 1)[0].log_softmax(0)[place] for c in candidates])
        assert likelihood.max() > likelihood.min()
        torch.testing.assert_close(together[place], candidates[likelihood.argmax()])
        alone = pipeline(place, generator=seeds(place), keep_best=0.25, classifier=bright, **settings).images
        torch.testing.assert_close(alone[0], together[place])


def test_the_classifier_sees_pictures_as_it_was_trained_on_them(pipeline):
    """In [-1, 1]: one of [0, 1] would be pale, and the choice that of a classifier out of its depth."""
    seen = []

    def watched(images_BCHW: torch.Tensor) -> torch.Tensor:
        seen.append(images_BCHW)
        return bright(images_BCHW)

    pipeline(0, generator=seeds(0), keep_best="1/2", classifier=watched)
    first, _ = children(seeds(0)[0], 2)
    shown = pipeline(0, generator=[first], output_type="pt").images
    torch.testing.assert_close(seen[0], shown * 2 - 1)


@torch.no_grad()
def test_the_temperature_comes_before_the_nucleus(pipeline):
    """As in VAR: at a quarter, 0.4 : 0.3 : 0.2 becomes 0.72 : 0.23 : 0.05, and the first is 0.7 alone."""
    head = pipeline.transformer.head
    head.weight.zero_()
    head.bias.copy_(torch.tensor([0.4, 0.3, 0.2, 0.1, *[1e-9] * 12]).log())
    tokens = pipeline([0, 1], temperature=0.25, top_p=0.7, generator=seeds(0, 1), output_type="tokens").images
    assert not tokens.any()


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    "weight", ["transformer.head.bias", "tokenizer.quantizer.codebook_VZ", "tokenizer.decoder.conv_out.bias"]
)
@torch.no_grad()
def test_weights_that_are_no_numbers_draw_nothing(weight, wrong, smooth, pipeline):
    """They would draw the last code everywhere, or a black picture, without a word."""
    part, _, name = weight.partition(".")
    getattr(pipeline, part).get_parameter(name).view(-1)[:] = wrong
    for output_type in ("pil", "pt"):
        with pytest.raises(FloatingPointError, match="are not finite: a weight of"):
            pipeline(0, generator=seeds(0), output_type=output_type, smooth=smooth, top_k=3)


def test_the_levels_of_a_kept_image_are_its_own(pipeline):
    output = pipeline(
        [0, 1], generator=seeds(0, 1), keep_best=0.25, classifier=bright, output_type="pt", return_levels=True
    )
    assert torch.equal(output.levels[-1], output.images)


@pytest.mark.parametrize(
    ("asked", "size", "tokens"),
    [
        ({"height": 16}, (16, 8), 2 * 1 + 4 * 2 + 6 * 3 + 8 * 4),
        ({"height": 4, "width": 4}, (4, 4), 1 + 1 + 4 + 4),
        ({"pyramid": [1, 2, 4, 5, [6, 5]]}, (12, 10), 1 + 4 + 16 + 25 + 30),
        ({"pyramid": Pyramid.square(2, 4)}, (8, 8), 4 + 16),
        ({"pyramid": [[4, 8]], "height": 8, "width": 16}, (8, 16), 32),
    ],
    ids=str,
)
def test_other_sizes_shapes_and_levels(asked, size, tokens, make_generator, make_tokenizer, make_loud):
    """Larger and smaller, fewer and more levels, where the encoding is a function of the place."""
    model = make_loud(make_generator("sinusoidal", level_embedding="sinusoidal"))
    pipe = VARPipeline(make_tokenizer(), model)
    assert pipe(0, generator=seeds(0), output_type="pt", **asked).images.shape == (1, 3, *size)
    together = pipe([0, 1], generator=seeds(0, 1), output_type="tokens", **asked).images
    assert together.shape == (2, tokens)
    assert torch.equal(pipe(1, generator=seeds(1), output_type="tokens", **asked).images[0], together[1])


def test_the_trained_size_is_the_trained_pyramid(pipeline):
    """Asking for it by pixels changes nothing, so that a table without a convention is not refused."""
    assert pipeline.pyramid_for(8, 8) == pipeline.pyramid_for() == pipeline.transformer.pyramid


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"class_labels": "dog"}, "there is no class 'dog'; there are ant, bee, cat"),
        ({"class_labels": 3}, "must lie in 0 .. 2 .None: unconditional., got 3"),
        ({"class_labels": -1}, "must lie in 0 .. 2"),
        ({"class_labels": 1.5}, "numbers, names or None, got 1.5"),
        ({"class_labels": [1.5]}, "numbers, names or None, got 1.5"),
        ({"class_labels": b"bee"}, "numbers, names or None, got b'bee'"),
        ({"class_labels": torch.zeros(1, 2).long()}, r"numbers, names or None, got tensor\(\[0, 0\]\)"),
        ({"class_labels": []}, "at least one label"),
        ({"output_type": "jpeg"}, "output_type is one of pil, np, pt, latent, tokens, got 'jpeg'"),
        ({"num_images_per_label": 0}, "num_images_per_label must be at least 1, got 0"),
        ({"class_labels": [0, 1], "generator": seeds(0)}, "a single one or one for each image, got 1 for 2"),
        ({"class_labels": [0], "generator": 7}, r"generator must be a torch.Generator, such as .*, got 7"),
        ({"guidance_scale": -1}, "guidance_scale must be finite and at least 0"),
        ({"guidance_schedule": [float("nan")] * 4}, "factors must be finite and at least 0, got .nan"),
        ({"scale_guidance": -1}, r"scale_guidance must be finite and at least 0 \(none\), got -1"),
        ({"scale_guidance": [1, 1]}, "scale_guidance is one number or one for each of 4 levels"),
        ({"guidance_schedule": [-1] * 4}, "factors must be finite and at least 0, got .-1"),
        ({"guidance_schedule": "cosine"}, "guidance_schedule is one of linear, constant or 4 factors"),
        ({"temperature": 0}, "temperature must be above 0"),
        ({"top_k": -1}, "top_k must be at least 0"),
        ({"top_p": 2}, "top_p must lie in"),
        ({"temperature": [1, 1]}, "one for each of 4 levels"),
        ({"height": 9}, "multiples of the downsampling factor 2, got 9x8"),
        ({"width": 0}, "multiples of the downsampling factor 2, got 8x0"),
        ({"pyramid": [1, 2, 3], "height": 8}, "1-2-3 ends at 3x3, but 8x8 pixels are 4x4 tokens"),
        ({"height": 12}, "learned table was made for the grids 1-2-3-4"),
        ({"pyramid": [1, 2, 3, 4, 4]}, "learned table was made for the grids|level_embedding learned has 4"),
        (
            {"output_type": "tokens", "smooth": True},
            "output_type=tokens goes neither with smooth, which mixes codes",
        ),
        ({"output_type": "tokens", "return_levels": True}, "return_levels, which gives pictures"),
        ({"keep_best": 0.3, "classifier": bright}, "1 over a whole number, such as 0.25 or '1/4', got 0.3"),
        ({"keep_best": "half", "classifier": bright}, "1 over a whole number, .* got 'half'"),
        ({"keep_best": 0.25}, "keep_best and classifier go together, got 0.25 and None"),
        ({"classifier": bright}, "keep_best and classifier go together, got 1"),
        ({"keep_best": 0.5, "classifier": bright, "class_labels": None}, "needs a class for every image"),
        ({"keep_best": 0.5, "classifier": lambda x: x[:, 0, 0]}, r"logits of 3 classes, got shape .1, 8."),
        ({"given_tokens": torch.zeros(1, 29).long()}, r"1 rows of 30 .-1: draw., got shape .1, 29."),
        ({"given_tokens": torch.full((1, 30), 16)}, "given tokens lie in 0 .. 15, or are -1"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_wrong_inputs_are_named(given, sentence, pipeline):
    with pytest.raises(ValueError, match=sentence):
        pipeline(**({"class_labels": 0} | given))


def test_classes_that_have_no_names_or_are_not_there(make_generator, make_tokenizer):
    nameless = VARPipeline(make_tokenizer(), make_generator())
    with pytest.raises(ValueError, match="no class 'ant'; the classes have no names"):
        nameless("ant")
    classless = VARPipeline(make_tokenizer(), make_generator(num_classes=0))
    assert classless(generator=seeds(0), output_type="tokens").images.shape == (1, 30)
    with pytest.raises(ValueError, match="the generator has no classes: class_labels must be None, got 0"):
        classless(0)
    with pytest.raises(ValueError, match="class_names: one for each of 3 classes or none, got 2"):
        VARPipeline(make_tokenizer(), make_generator(), ("ant", "bee"))
