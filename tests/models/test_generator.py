"""The generator's promises, checked for every registered encoding."""

import pytest
import torch
from torch import Tensor

from var_pe.models.generator import VARTransformer
from var_pe.pyramid import Pyramid
from var_pe.seeding import generator_for

PYRAMIDS = [((1, 1), (2, 3), (4, 6)), ((3, 4),), (1, 2, 3, 4, 5, 6, 7), ((2, 2), (1, 4), (3, 5))]
OPTIONS = [
    {"shared_adaln": True},
    {"qk_norm": False},
    {"num_classes": 0},
    {"level_embedding": "sinusoidal"},
    {"level_embedding": "none"},
    {"depth": 1, "num_heads": 1},
]


def asked(model: VARTransformer, pyramid: Pyramid | None = None, batch: int = 2) -> tuple[Tensor, Tensor]:
    """Labels and inputs of all levels but the first."""
    pyramid = pyramid or model.pyramid
    generator = torch.Generator().manual_seed(3)
    length = pyramid.num_tokens - pyramid.spans[0].stop
    labels_B = torch.randint(model.num_classes + 1, (batch,), generator=generator)
    return labels_B, torch.randn(batch, length, model.word_embed.in_features, generator=generator)


def level_by_level(
    model: VARTransformer, labels_B: Tensor, inputs_BLZ: Tensor, pyramid: Pyramid | None = None
) -> Tensor:
    """The logits that sampling sees if it is fed the same inputs."""
    pyramid = pyramid or model.pyramid
    positions, class_BC = pyramid.positions(), model.class_embed(labels_B)
    x_BlC, first = model.first_level(class_BC, positions), pyramid.spans[0].stop
    cache, logits = model.new_cache(x_BlC, pyramid), []
    for level, span in enumerate(pyramid.spans):
        if level:
            x_BlC = model.embed_inputs(inputs_BLZ[:, span.start - first : span.stop - first])
        logits.append(model.level_logits(x_BlC, class_BC, positions, level, cache))
    return torch.cat(logits, 1)


def check_cache(model: VARTransformer, pyramid: Pyramid | None = None) -> None:
    labels_B, inputs_BLZ = asked(model, pyramid)
    full_BLV = model(labels_B, inputs_BLZ, pyramid)
    assert full_BLV.std() > 0.1  # there is something to compare
    torch.testing.assert_close(
        level_by_level(model, labels_B, inputs_BLZ, pyramid), full_BLV, atol=1e-5, rtol=0
    )


@pytest.fixture
def generator(line, make_generator, make_loud) -> VARTransformer:
    return make_loud(make_generator(line))


@torch.no_grad()
def test_cached_levels_match_one_full_pass(generator):
    """Sampling level by level must see what training saw, or samples drift from the trained model."""
    check_cache(generator)


@torch.no_grad()
def test_a_view_of_the_level_before_is_drawn_as_it_is_trained(line, make_generator, make_loud):
    """The cache forgets levels that nobody sees any more, and no level looks at them in training either."""
    model = make_loud(make_generator(line, (1, 2, (2, 3), 4, 4), levels_before=1))
    check_cache(model)
    cache = model.new_cache(model.start_C[None, None], model.pyramid)
    assert cache.layers[0].kv_2BHLD.shape[3] == 16 + 16


@torch.no_grad()
def test_what_is_seen_of_the_levels_before(make_generator, make_loud):
    """In one block, a change of a level's input reaches its own level and the next so many."""
    inputs_BLZ = torch.randn(1, 42, 4, generator=torch.Generator().manual_seed(0))
    for before, reaches in ((1, [False, True, True, False, False]), (2, [False, True, True, True, False])):
        model = make_loud(make_generator("none", (1, 2, (2, 3), 4, 4), depth=1, levels_before=before))
        logits_BLV = model(torch.tensor([0]), inputs_BLZ)
        changed_BLZ = inputs_BLZ.clone()
        changed_BLZ[:, :4] += 1
        differ_L = (model(torch.tensor([0]), changed_BLZ) - logits_BLV).abs().amax((0, 2)) > 1e-6
        assert [bool(differ_L[span].any()) for span in model.pyramid.spans] == reaches


@torch.no_grad()
@pytest.mark.parametrize("levels", PYRAMIDS, ids=str)
def test_any_pyramid_will_do(line, levels, make_generator, make_loud):
    """Rectangles, one level, many levels, a first level of several tokens."""
    check_cache(make_loud(make_generator(line, levels)))


@torch.no_grad()
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_cached_levels_match_under_other_options(options, make_generator, make_loud):
    check_cache(make_loud(make_generator("learned", **options)))


@torch.no_grad()
def test_no_level_sees_a_finer_one(generator):
    """Changing a level's inputs leaves every coarser level's logits alone, bit for bit."""
    labels_B, inputs_BLZ = asked(generator)
    before_BLV = generator(labels_B, inputs_BLZ)
    for span in generator.pyramid.spans[1:]:
        changed_BLZ = inputs_BLZ.clone()
        changed_BLZ[:, span.start - 1 :] += 1
        after_BLV = generator(labels_B, changed_BLZ)
        assert torch.equal(after_BLV[:, : span.start], before_BLV[:, : span.start])
        assert not torch.allclose(after_BLV[:, span], before_BLV[:, span])


@torch.no_grad()
def test_a_level_sees_all_of_itself_and_of_coarser_ones(generator):
    """The first token of the finest level is reached by the last token of every level."""
    labels_B, inputs_BLZ = asked(generator)
    before_BLV, finest = generator(labels_B, inputs_BLZ), generator.pyramid.spans[-1].start
    for span in generator.pyramid.spans[1:]:
        changed_BLZ = inputs_BLZ.clone()
        changed_BLZ[:, span.stop - 2] += 1
        assert not torch.equal(generator(labels_B, changed_BLZ)[:, finest], before_BLV[:, finest])
    others_B = (labels_B + 1) % (generator.num_classes + 1)
    assert not torch.allclose(generator(others_B, inputs_BLZ), before_BLV)


def test_every_parameter_learns(generator):
    """DDP stops at a parameter without a gradient; a weight that nothing reads is a mistake."""
    labels_B = torch.arange(generator.num_classes + 1)
    _, inputs_BLZ = asked(generator, batch=len(labels_B))
    generator.train()(labels_B, inputs_BLZ).square().mean().backward()
    idle = [name for name, p in generator.named_parameters() if p.grad is None or not p.grad.any()]
    assert not idle, f"no gradient reaches {idle}"


def test_a_few_steps_lower_the_loss(line, make_generator):
    """From its own initial weights, tiny gates and head included."""
    model = make_generator(line).train()
    labels_B, inputs_BLZ = asked(model)
    target_BL = torch.randint(16, (2, model.pyramid.num_tokens), generator=generator_for(0))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(12):
        loss = torch.nn.functional.cross_entropy(model(labels_B, inputs_BLZ).transpose(1, 2), target_BL)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.3


def test_the_same_network_around_every_encoding(line, make_generator):
    """A comparison needs all else equal: weights follow from (seed, name), not from what ran before."""
    torch.manual_seed(1)
    plain = make_generator("none", seed=5).state_dict()
    torch.manual_seed(2)
    ours = make_generator(line, seed=5).state_dict()
    around = {name for name in ours if not name.startswith("position_encoding.")}
    assert around == set(plain)
    assert all(torch.equal(ours[name], plain[name]) for name in around)
    again, other = make_generator(line, seed=5).state_dict(), make_generator(line, seed=6).state_dict()
    assert all(torch.equal(ours[name], again[name]) for name in ours)
    drawn = [
        name
        for name in ours
        if ours[name].dim() > 1 and ours[name].is_floating_point() and ours[name].std() > 0
    ]
    fixed = [name for name in drawn if torch.equal(ours[name], other[name])]
    assert all(name.startswith("position_encoding.") for name in fixed), fixed


def test_no_two_parameters_start_alike(make_generator):
    """Blocks seeded by their kind instead of their path would be copies of each other."""
    drawn = [p.detach().flatten()[:16] for p in make_generator().parameters() if p.dim() > 1]
    ratios = torch.stack([p / p.norm() for p in drawn])
    assert (ratios @ ratios.T - torch.eye(len(drawn))).abs().max() < 0.95


@torch.no_grad()
def test_initial_values_are_var_s():
    """As in VAR: one deviation for all, then small gates, head and residual branches."""
    model = VARTransformer(
        dim=128, depth=8, num_heads=2, codebook_size=256, latent_channels=32, num_classes=50
    )
    std = (1 / (3 * 128)) ** 0.5
    block = model.blocks[3]
    expected = {
        model.class_embed.weight: std,
        model.start_C: std,
        model.word_embed.weight: std,
        model.position_encoding.table_LC: std,
        model.head.weight: 0.02 * std,
        model.head_modulation.weight: 0.5 * std,
        block.attn.qkv.weight: std,
        block.attn.proj.weight: std / 4,
        block.mlp.fc1.weight: std,
        block.mlp.fc2.weight: std / 4,
        block.modulation.weight[:256]: 1e-3 * std,
        block.modulation.weight[256:]: 0.5 * std,
    }
    for values, deviation in expected.items():
        torch.testing.assert_close(
            values.std().item(), deviation, rtol=0.2 if values.dim() == 1 else 0.06, atol=0
        )
    biases = [name for name, p in model.named_parameters() if name.endswith("bias") and p.any()]
    assert not biases
    torch.testing.assert_close(block.attn.log_scale_H.exp(), torch.full((2,), 4.0))


@torch.no_grad()
def test_bf16_keeps_codes_in_float32(generator, monkeypatch):
    """Positions are added before anything is rounded; logits are near the exact ones, float32 to draw by."""
    labels_B, inputs_BLZ = asked(generator)
    exact_BLV, seen = generator(labels_B, inputs_BLZ), []
    embed = generator.position_encoding.embed

    def spy(x_BLC, context):
        summed = embed(x_BLC, context)
        seen.append((x_BLC.dtype, summed.dtype, torch.is_autocast_enabled("cpu")))
        return summed

    monkeypatch.setattr(generator.position_encoding, "embed", spy)
    with torch.autocast("cpu", torch.bfloat16):
        rounded_BLV = generator(labels_B, inputs_BLZ)
        cached_BLV = level_by_level(generator, labels_B, inputs_BLZ)
    assert set(seen) == {(torch.float32, torch.float32, False)}
    assert (rounded_BLV.dtype, cached_BLV.dtype) == (torch.bfloat16, torch.float32)
    assert (rounded_BLV - exact_BLV).abs().mean() < 0.05 * exact_BLV.std()
    assert (cached_BLV - exact_BLV).abs().mean() < 0.05 * exact_BLV.std()


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16])
def test_the_whole_model_in_another_type(generator, make_tokenizer, dtype):
    """As diffusers users load it; the codes of positions stay float32."""
    labels_B, inputs_BLZ = asked(generator)
    exact_BLV = generator(labels_B, inputs_BLZ)
    tokenizer = make_tokenizer().to(dtype)
    ours_BLV = generator.to(dtype)(labels_B, inputs_BLZ)
    assert (ours_BLV - exact_BLV).abs().mean() < 0.05 * exact_BLV.std()
    drawn = generator.generate(tokenizer, labels_B, generators=[generator_for(0), generator_for(1)])
    assert tokenizer.decode(drawn.tokens_BL).dtype == dtype
    assert tokenizer.encode(torch.zeros(1, 3, 8, 8, dtype=dtype)).shape == (1, 30)


@torch.no_grad()
def test_saved_and_loaded_it_is_the_same_model(generator, tmp_path):
    """config.json makes lists of tuples; factors and grids are stored beside the weights."""
    generator.save_pretrained(tmp_path)
    loaded = VARTransformer.from_pretrained(tmp_path)
    labels_B, inputs_BLZ = asked(generator)
    assert torch.equal(loaded(labels_B, inputs_BLZ), generator(labels_B, inputs_BLZ))
    assert loaded.pyramid == generator.pyramid
    assert not loaded.training
    ours, theirs = generator.state_dict(), loaded.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@torch.no_grad()
@pytest.mark.parametrize("size", [(8, 8), (4, 6), (1, 1)], ids=str)
def test_other_sizes_where_the_encoding_can_follow(size, make_generator, make_loud):
    model = make_loud(make_generator("sinusoidal", level_embedding="sinusoidal"))
    check_cache(model, model.pyramid.for_size(*size))
    check_cache(model, Pyramid.square(1, 2, 4, 6, 8))


def test_other_sizes_are_refused_where_it_cannot(make_generator):
    labels_B, inputs_BLZ = asked(make_generator(), Pyramid.square(1, 2, 5))
    with pytest.raises(ValueError, match="learned table was made for the grids 1-2-3-4, asked for 1-2-5"):
        make_generator()(labels_B, inputs_BLZ, Pyramid.square(1, 2, 5))
    five = Pyramid.square(1, 2, 3, 4, 5)
    with pytest.raises(ValueError, match="level_embedding learned has 4 levels, asked for 5"):
        make_generator("sinusoidal")(*asked(make_generator(), five), five)


@torch.no_grad()
def test_learned_positions_with_fixed_levels_are_one_line(make_generator, make_loud):
    """The two are chosen apart: a table for positions, a code that knows unseen levels for levels."""
    hybrid = make_loud(make_generator("learned", level_embedding="sinusoidal"))
    names = [name for name, _ in hybrid.named_parameters()]
    assert "position_encoding.table_LC" in names
    assert not [name for name in names if name.startswith("level_embed")]
    without = make_loud(make_generator("learned", level_embedding="none"))
    without.load_state_dict(hybrid.state_dict())
    assert not torch.allclose(hybrid(*asked(hybrid)), without(*asked(hybrid)))


@torch.no_grad()
def test_without_an_encoding_a_level_is_a_bag_of_tokens(make_generator, make_loud):
    """Shuffling a level's tokens shuffles its logits and changes nothing else."""
    bag = make_loud(make_generator("none"))
    labels_B, inputs_BLZ = asked(bag)
    order = torch.arange(29)
    order[-16:] = order[-16:].flip(0)
    shuffled_BLV = bag(labels_B, inputs_BLZ[:, order])
    torch.testing.assert_close(shuffled_BLV[:, 1:], bag(labels_B, inputs_BLZ)[:, 1:][:, order])


@torch.no_grad()
@pytest.mark.parametrize("encoding", ["learned", "sinusoidal", "mixed(learned=0.7, sinusoidal=0.3)"])
def test_with_one_it_is_not(encoding, make_generator, make_loud):
    model = make_loud(make_generator(encoding))
    labels_B, inputs_BLZ = asked(model)
    order = torch.arange(29)
    order[-16:] = order[-16:].flip(0)
    shuffled_BLV = model(labels_B, inputs_BLZ[:, order])[:, 1:]
    assert not torch.allclose(shuffled_BLV, model(labels_B, inputs_BLZ)[:, 1:][:, order], atol=1e-2)


# sampling


@pytest.fixture
def tokenizer(make_tokenizer):
    return make_tokenizer()


def numbers(*images: int) -> list[torch.Generator]:
    return [generator_for(0, "image", image) for image in images]


def test_an_image_is_the_same_alone_and_in_a_batch(generator, tokenizer):
    """Image 17 must not change when more are drawn with it, in another order or on another process."""
    settings = dict(guidance_scale=1.5, top_k=12, top_p=0.95)
    labels_B = torch.tensor([0, 1, 2, 3, 1])
    together = generator.generate(tokenizer, labels_B, generators=numbers(10, 11, 12, 13, 14), **settings)
    for row in (4, 0, 3):
        alone = generator.generate(
            tokenizer, labels_B[row : row + 1], generators=numbers(10 + row), **settings
        )
        assert torch.equal(alone.tokens_BL[0], together.tokens_BL[row])
        torch.testing.assert_close(alone.f_hat_BZhw[0], together.f_hat_BZhw[row])
    assert not torch.equal(together.tokens_BL[1], together.tokens_BL[4])  # one label, two generators


def test_drawing_is_what_training_taught(generator, tokenizer):
    """Greedy tokens are the likeliest ones under teacher forcing on themselves, guidance included."""
    labels_B = torch.tensor([0, 2])
    drawn = generator.generate(tokenizer, labels_B, generators=numbers(0, 1), guidance_scale=2.0, top_k=1)
    inputs_BLZ = tokenizer.quantizer.teacher_forcing(drawn.tokens_BL, generator.pyramid)
    with torch.no_grad():
        conditional = generator(labels_B, inputs_BLZ)
        unconditional = generator(torch.full((2,), generator.num_classes), inputs_BLZ)
    t_L = 2.0 * generator.pyramid.positions().level_L[:, None] / 3
    assert torch.equal(((1 + t_L) * conditional - t_L * unconditional).argmax(-1), drawn.tokens_BL)
    torch.testing.assert_close(
        drawn.f_hat_BZhw, tokenizer.quantizer.sum_of(drawn.tokens_BL, generator.pyramid).detach()
    )


@pytest.mark.parametrize(
    ("settings", "rows"),
    [
        ({}, 3),
        ({"guidance_scale": 0.0, "guidance_schedule": "constant"}, 3),
        ({"guidance_scale": 2.0, "guidance_schedule": (0, 0, 0, 0)}, 3),
        ({"guidance_scale": 0.5}, 6),
    ],
)
def test_without_guidance_there_is_no_unconditional_half(settings, rows, make_generator, tokenizer):
    """It would double the time of every image for nothing."""
    model, seen = make_generator(), []
    model.head.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    model.generate(tokenizer, torch.tensor([0, 1, 2]), generators=numbers(0, 1, 2), **settings)
    assert seen == [rows] * 4


@pytest.mark.parametrize("levels", PYRAMIDS, ids=str)
def test_any_pyramid_is_drawn(levels, make_generator, make_tokenizer):
    model, tokenizer, seen = make_generator("sinusoidal", levels), make_tokenizer(levels), []
    drawn = model.generate(
        tokenizer,
        torch.tensor([0, 1]),
        generators=numbers(0, 1),
        guidance_scale=1.0,
        on_level=lambda level, f_hat_BZhw: seen.append((level, f_hat_BZhw.clone())),
    )
    assert drawn.tokens_BL.shape == (2, model.pyramid.num_tokens)
    assert drawn.f_hat_BZhw.shape == (2, 4, *model.pyramid.finest)
    assert [level for level, _ in seen] == list(range(model.pyramid.num_levels))
    assert torch.equal(seen[-1][1], drawn.f_hat_BZhw)


def test_another_size_is_drawn(make_generator, tokenizer):
    model, wide = make_generator("sinusoidal"), Pyramid.square(1, 2, 3, 4).for_size(3, 8)
    drawn = model.generate(tokenizer, torch.tensor([0]), wide, generators=numbers(0))
    assert tokenizer.decode(drawn.tokens_BL, wide).shape == (1, 3, 6, 16)


def test_one_level_is_guided_as_asked(make_generator, make_loud, make_tokenizer):
    """The linear schedule's first level has none and its last has all: a level that is alone is the last."""
    model, tokenizer = make_loud(make_generator("learned", ((4, 4),))), make_tokenizer(((4, 4),))
    labels_B = torch.tensor([0, 1])
    linear, constant = (
        model.generate(
            tokenizer, labels_B, generators=numbers(0, 1), guidance_scale=3.0, guidance_schedule=schedule
        ).tokens_BL
        for schedule in ("linear", "constant")
    )
    assert torch.equal(linear, constant)
    assert not torch.equal(linear, model.generate(tokenizer, labels_B, generators=numbers(0, 1)).tokens_BL)


def test_wrong_settings_are_named(make_generator, tokenizer):
    model, labels_B = make_generator(), torch.tensor([0, 1])
    with pytest.raises(ValueError, match="own generator: got 1 for 2 labels"):
        model.generate(tokenizer, labels_B, generators=numbers(0))
    with pytest.raises(ValueError, match="temperature must be above 0 and finite, got 0"):
        model.generate(tokenizer, labels_B, generators=numbers(0, 1), temperature=0)
    with pytest.raises(ValueError, match="generator's depth must be at least 1, got 0"):
        make_generator(depth=0)
    with pytest.raises(ValueError, match="multiple of the number of heads, got 32 and 5"):
        make_generator(num_heads=5)


# the published code's numbers


@torch.no_grad()
def test_logits_equal_the_published_code_s(golden):
    """With its weights, ours is VAR: the sequence, mask, adaptive norms, cosine attention, head."""
    inputs_BLZ, labels_B = golden.expected["teacher_forcing_input"], golden.expected["labels"]
    nobody_B = torch.full_like(labels_B, golden.num_classes)
    for labels, name in ((labels_B, "logits"), (nobody_B, "logits_unconditional")):
        logits_BLV = golden.transformer(labels, inputs_BLZ)
        torch.testing.assert_close(logits_BLV, golden.expected[name], atol=2e-4, rtol=0)


def test_greedy_tokens_equal_the_published_code_s(golden):
    """And so is sampling: guidance by level, the walk, the cache."""
    drawn = golden.transformer.generate(
        golden.tokenizer,
        golden.expected["labels"],
        generators=numbers(0, 1),
        guidance_scale=golden.cfg,
        top_k=1,
    )
    assert torch.equal(drawn.tokens_BL, golden.expected["greedy_tokens"])


@torch.no_grad()
def test_another_size_is_the_pyramid_scaled_to_it(make_generator, make_loud):
    one, other = (make_loud(make_generator()) for _ in range(2))
    one.set_input_size((4, 8), "timm")
    other.set_pyramid(Pyramid(((1, 2), (2, 4), (3, 6), (4, 8))), "timm")
    assert one.pyramid == other.pyramid
    inputs_BLZ = torch.randn(1, one.pyramid.num_tokens - 2, 4)
    assert torch.equal(one(torch.tensor([0]), inputs_BLZ), other(torch.tensor([0]), inputs_BLZ))
    with pytest.raises(ValueError, match="resampling convention"):
        one.set_input_size((8, 8))


def test_the_way_back_from_another_size_leads_home(make_generator):
    model = make_generator("sinusoidal", level_embedding="sinusoidal")
    for size in ((3, 3), (2, 7), (4, 4)):
        model.set_input_size(size)
    assert model.pyramid == Pyramid.square(1, 2, 3, 4)
    model.set_pyramid(Pyramid.square(1, 4))
    model.set_input_size((8, 8))
    assert model.pyramid == Pyramid.square(2, 8)


@pytest.mark.parametrize("size", [(8.5, 8), (float("nan"), 8), (8,), 8, ("8", "8"), (0, 8)], ids=str)
def test_an_input_size_is_two_sides(size, make_generator):
    with pytest.raises(ValueError, match="a generator's input size is two whole numbers of at least 1"):
        make_generator("sinusoidal").set_input_size(size)
