"""The public VAR code's checkpoints: the same numbers as there, the same bits on the way back."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from tests.conftest import QUANTIZERS
from tests.interop.var import reference
from var_pe.interop.var.conversion import convert, to_var
from var_pe.interop.var.settings import LADDERS, published_patch_nums
from var_pe.models.generator import VARTransformer
from var_pe.models.tokenizer import VQTokenizer
from var_pe.pyramid import Pyramid
from var_pe.sampling.pipeline import VARPipeline

GOLDEN = Path(__file__).parents[2] / "golden"
HITS = "quantize.ema_vocab_hit_SV"
FOUR_PHIS = tuple(f"qresi_ls.{i}" for i in range(4))
VARIANTS: dict[str, dict] = {
    "two_levels": dict(patch_nums=(1, 2)),
    "seven_levels": dict(patch_nums=(1, 2, 3, 4, 5, 6, 7)),
    "rectangles": dict(patch_nums=((1, 1), (2, 3), (4, 6))),
    "one_phi": dict(phis=("qresi",)),
    "two_phis": dict(phis=("qresi_ls.0", "qresi_ls.1")),
    "a_phi_per_level": dict(phis=("0", "1", "2")),
    "a_phi_for_each_of_four": dict(patch_nums=(1, 2, 3, 4), phis=("0", "1", "2", "3")),
    "no_phi": dict(phis=()),
    "shared_modulation": dict(shared=True),
    "no_attention_norm": dict(heads=None, dim=128),
    "no_attention_norm_shared": dict(heads=None, shared=True),
    "narrow_heads": dict(heads=4),
    "one_class": dict(classes=1),
    "one_block_and_narrow_hidden": dict(depth=1, hidden=96),
    "wider_tokenizer": dict(widths=(32, 32, 96), blocks=2),
    "no_attention_in_the_tokenizer": dict(attention=False),
}


@pytest.fixture
def make_case(stand_in):
    """States of the two models as VAR's code would hold them, for small settings."""

    def make(
        patch_nums=(1, 2, 3), codes=32, latent=4, widths=(32, 64), blocks=1, phis=FOUR_PHIS, attention=True,
        dim=64, depth=2, heads=1, classes=5, shared=False, hidden=None,
    ) -> SimpleNamespace:  # fmt: skip
        pyramid = Pyramid(patch_nums)
        common = dict(levels=pyramid.num_levels, codes=codes, latent=latent)
        vqvae = reference.vqvae_shapes(**common, widths=widths, blocks=blocks, phis=phis, attention=attention)
        var = reference.var_shapes(
            **common, tokens=pyramid.num_tokens, dim=dim, depth=depth, heads=heads, classes=classes,
            shared=shared, hidden=hidden,
        )  # fmt: skip
        return SimpleNamespace(
            vqvae=stand_in(vqvae, patch_nums),
            var=stand_in(var, patch_nums),
            patch_nums=patch_nums,
            grids=pyramid.grids,
            side=2 ** (len(widths) - 1),
        )

    return make


@pytest.fixture
def case(make_case) -> SimpleNamespace:
    return make_case()


@pytest.fixture(params=VARIANTS)
def variant(request, make_case) -> SimpleNamespace:
    return make_case(**VARIANTS[request.param])


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=0)  # the golden cases' own tolerance


def same_bits(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        assert ours[key].dtype == value.dtype, key
        assert torch.equal(ours[key], value), key


# the same numbers


@torch.no_grad()
def test_golden_images_become_the_published_code_s_tokens_and_pictures(golden):
    """Its own numbers, through the whole tokenizer: convolutions, attention, walk, decoder."""
    expected, tokenizer, pyramid = golden.expected, golden.tokenizer, golden.tokenizer.pyramid
    close(tokenizer.latent(expected["image"]), expected["latent"])
    tokens_BL = tokenizer.encode(expected["image"])
    assert torch.equal(tokens_BL, expected["tokens"])
    close(tokenizer.decode(tokens_BL), expected["reconstruction"])
    close(tokenizer.quantizer.teacher_forcing(tokens_BL, pyramid), expected["teacher_forcing_input"])
    close(tokenizer.decode(expected["greedy_tokens"]) / 2 + 0.5, expected["greedy_image"])


@torch.no_grad()
def test_the_reference_equals_the_published_code(golden):
    """What the variants below are compared with must be right itself."""
    expected, grids = golden.expected, Pyramid.square(*golden.patch_nums).grids
    close(reference.latent(golden.vqvae, expected["image"]), expected["latent"])
    tokens, inputs, f_hat = reference.walked(golden.vqvae, expected["latent"], grids)
    assert torch.equal(tokens, expected["tokens"])
    close(inputs, expected["teacher_forcing_input"])
    close(reference.decoded(golden.vqvae, f_hat), expected["reconstruction"])
    close(reference.logits(golden.var, expected["labels"], inputs, grids), expected["logits"])
    greedy = reference.greedy(golden.vqvae, golden.var, expected["labels"], grids, golden.cfg)
    assert torch.equal(greedy, expected["greedy_tokens"])


@torch.no_grad()
def test_every_kind_of_checkpoint_gives_the_reference_s_numbers(variant):
    """Golden numbers exist for two settings only; the format has many."""
    tokenizer, transformer = convert(variant.vqvae, variant.var, patch_nums=variant.patch_nums)
    height, width = (variant.side * side for side in variant.grids[-1])
    images = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 1
    labels = torch.tensor([0, len(variant.var["class_emb.weight"]) - 2])
    f = reference.latent(variant.vqvae, images)
    tokens, inputs, f_hat = reference.walked(variant.vqvae, f, variant.grids)
    close(tokenizer.latent(images), f)
    assert torch.equal(tokenizer.encode(images), tokens)
    close(tokenizer.quantizer.teacher_forcing(tokens, tokenizer.pyramid), inputs)
    close(tokenizer.decode(tokens), reference.decoded(variant.vqvae, f_hat))
    close(transformer(labels, inputs), reference.logits(variant.var, labels, inputs, variant.grids))
    numbers = [torch.Generator(), torch.Generator()]
    drawn = transformer.generate(tokenizer, labels, generators=numbers, guidance_scale=1.5, top_k=1)
    greedy = reference.greedy(variant.vqvae, variant.var, labels, variant.grids, 1.5)
    assert torch.equal(drawn.tokens_BL, greedy)


# the published files


def listed(name: str) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Keys, shapes and types of a released file."""
    rows = [line.split("\t") for line in (GOLDEN / name).read_text().splitlines()]
    types = {"torch.float32": torch.float32, "torch.int64": torch.int64}
    shapes = [tuple(int(side) for side in row[1].strip("()").split(",") if side.strip()) for row in rows]
    return {
        row[0]: (shape, types[(*row, "torch.float32")[2]]) for row, shape in zip(rows, shapes, strict=True)
    }


def test_the_released_files_convert_and_come_back_key_for_key():
    """Full size, on the meta device: the parameter counts are those measured with the public code."""
    files = listed("vae_keys.txt"), listed("var_d16_keys.txt")
    states = [
        {key: torch.empty(shape, dtype=t, device="meta") for key, (shape, t) in f.items()} for f in files
    ]
    ladder = published_patch_nums(states[1])
    tokenizer, transformer = convert(*states, patch_nums=ladder)
    assert tokenizer.num_parameters() == 108_948_355
    assert transformer.num_parameters() == 310_283_520
    assert tokenizer.config["channel_multipliers"] == [1, 1, 2, 2, 4]
    assert (transformer.config["depth"], transformer.config["num_heads"]) == (16, 16)
    for file, back in zip(files, to_var(tokenizer, transformer), strict=True):
        assert {key: (tuple(value.shape), value.dtype) for key, value in back.items()} == file


def test_the_tests_shapes_are_those_of_the_released_files():
    """The variants' states are made of these."""
    common = dict(levels=10, codes=4096, latent=32)
    vqvae = reference.vqvae_shapes(**common, widths=(160, 160, 320, 320, 640), blocks=2, phis=FOUR_PHIS)
    var = reference.var_shapes(**common, tokens=680, dim=1024, depth=16, heads=16, classes=1000)
    assert vqvae == {key: shape for key, (shape, _) in listed("vae_keys.txt").items()}
    assert var == {key: shape for key, (shape, _) in listed("var_d16_keys.txt").items()}


@pytest.mark.parametrize(("tokens", "ladder"), zip((680, 2240, 9451), LADDERS, strict=True))
def test_the_published_ladders_are_known_by_their_tokens(tokens, ladder):
    """The counts are those of the public settings for 256, 512 and 1024 pixels."""
    assert sum(side**2 for side in ladder) == tokens
    state = {"pos_1LC": torch.empty(1, tokens, 8), "lvl_embed.weight": torch.empty(len(ladder), 8)}
    assert published_patch_nums({f"module.{key}": value for key, value in state.items()}) == ladder
    state["lvl_embed.weight"] = torch.empty(9, 8)
    with pytest.raises(ValueError, match=f"has {tokens} tokens on 9 levels, unlike all published grids"):
        published_patch_nums(state)


# the way back


def test_the_round_trip_keeps_every_bit(variant):
    """Keys, types and values, also those that nothing here reads."""
    variant.vqvae[HITS] += torch.rand(variant.vqvae[HITS].shape)
    models = convert(variant.vqvae, variant.var, patch_nums=variant.patch_nums)
    vqvae, var = to_var(*models)
    same_bits(vqvae, variant.vqvae)
    same_bits(var, variant.var)
    for model, again in zip(models, convert(vqvae, var, patch_nums=variant.patch_nums), strict=True):
        same_bits(again.state_dict(), model.state_dict())
        assert again.config == model.config


def test_the_round_trip_passes_through_saved_folders(make_case, tmp_path):
    """How the phis are named is no weight, and must not be lost on disk."""
    made = make_case(phis=("0", "1", "2"))
    tokenizer, transformer = convert(made.vqvae, made.var, patch_nums=made.patch_nums)
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    transformer.save_pretrained(tmp_path / "transformer")
    loaded = (
        VQTokenizer.from_pretrained(tmp_path / "tokenizer"),
        VARTransformer.from_pretrained(tmp_path / "transformer"),
    )
    for back, state in zip(to_var(*loaded), (made.vqvae, made.var), strict=True):
        same_bits(back, state)


def test_the_round_trip_passes_through_pipelines(make_case, tmp_path):
    """Loaded and saved again in Python, as people do on the way to the hub: VAR's statistics included."""
    made = make_case()
    made.vqvae[HITS] += torch.rand(made.vqvae[HITS].shape)
    pipeline = VARPipeline(*convert(made.vqvae, made.var, patch_nums=made.patch_nums))
    for folder in (tmp_path / "one", tmp_path / "two", tmp_path / "two"):
        pipeline.save_pretrained(folder)
        pipeline = VARPipeline.from_pretrained(folder)
    for back, state in zip(
        to_var(pipeline.tokenizer, pipeline.transformer), (made.vqvae, made.var), strict=True
    ):
        same_bits(back, state)


def test_statistics_of_another_tokenizer_do_not_stay_in_a_folder(make_case, pipeline, tmp_path):
    """A model of our own has none, whatever was saved there before."""
    made = make_case()
    VARPipeline(*convert(made.vqvae, made.var, patch_nums=made.patch_nums)).save_pretrained(tmp_path)
    pipeline.save_pretrained(tmp_path)
    assert sorted(path.name for path in (tmp_path / "tokenizer").iterdir()) == [
        "config.json",
        "diffusion_pytorch_model.safetensors",
    ]


def test_weights_that_are_no_numbers_do_not_go_to_var(case):
    models = convert(case.vqvae, case.var, patch_nums=case.patch_nums)
    models[1].head.bias.data[3] = torch.inf
    with pytest.raises(ValueError, match=r"the transformer: head.bias holds NaN or infinite numbers"):
        to_var(*models)


def test_models_of_our_own_go_to_var_and_come_back(make_generator, make_tokenizer, make_loud):
    """A generator trained here can be sampled by the public code."""
    tokenizer = make_loud(make_tokenizer(channels=32, norm_groups=32, phi_ratio=0.5, attention=True))
    transformer = make_loud(make_generator(shared_adaln=True))
    back = convert(*to_var(tokenizer, transformer), patch_nums=(1, 2, 3, 4))
    for model, again in zip((tokenizer, transformer), back, strict=True):
        same_bits(again.state_dict(), model.state_dict())


def test_converted_weights_are_copies(case):
    """Training a converted model must not change the state it came from, nor the other way round."""
    before = {key: value.clone() for key, value in (case.vqvae | case.var).items()}
    models = convert(case.vqvae, case.var, patch_nums=case.patch_nums)
    states = to_var(*models)
    with torch.no_grad():
        for parameter in (*models[0].parameters(), *models[1].parameters()):
            assert parameter.requires_grad
            parameter.add_(1)
    same_bits(case.vqvae | case.var, before)
    same_bits(states[0] | states[1], before)


def test_half_models_go_back_in_float32(case):
    """The public code's files are float32."""
    models = convert(case.vqvae, case.var, patch_nums=case.patch_nums)
    vqvae, var = to_var(*(model.to(torch.bfloat16) for model in models))
    assert {value.dtype for value in vqvae.values()} == {torch.float32}
    assert torch.equal(var["head.weight"], case.var["head.weight"].bfloat16().float())


@pytest.mark.parametrize(
    ("generator", "tokenizer", "rule"),
    [
        ({"encoding": "sinusoidal"}, {}, "its encoding is learned, got sinusoidal"),
        ({"encoding": "learned(scale=2)"}, {}, r"its encoding is learned, got learned\(scale=2\)"),
        ({"encoding": "learned_grid"}, {}, "its encoding is learned, got learned_grid"),
        ({"level_embedding": "none"}, {}, "its level_embedding is learned, got none"),
        ({"levels": (1, 2, 4)}, {}, "both have one pyramid, got 1-2-3-4 and 1-2-4"),
        ({"levels": (2, 4)}, {"levels": (2, 4)}, "its first level is 1x1, got the pyramid 2-4"),
        ({"codebook_size": 8}, {}, "both have one codebook, got 16 codes of width 4 and 8 of width 4"),
        ({"qk_norm": False}, {}, "without qk_norm its heads have 64 channels, got dim 32 and num_heads 4"),
        ({}, {"phi_ratio": 0.25}, "its phi_ratio is 0.5, got 0.25"),
        *(
            ({}, {"quantizer": line}, f"its quantizer is vq, a table .* got {re.escape(line)}")
            for line in QUANTIZERS[1:]
        ),
        ({}, {"norm_groups": 4}, "its norm_groups is 32, got 4"),
        ({}, {"patch": 2}, "its patch is 1, got 2"),
        ({}, {"shortcut": True}, "its tokenizer has no shortcut"),
        ({}, {"channel_multipliers": (2, 3)}, r"are multiples of the first, got \[2, 3\]"),
    ],
)
def test_what_var_s_code_has_not_is_refused(generator, tokenizer, rule, make_generator, make_tokenizer):
    """A file that loads there and draws something else would be worse than none."""
    given = dict(channels=32, norm_groups=32) | tokenizer
    with pytest.raises(ValueError, match=f"not a model that VAR's code has: .*{rule}"):
        to_var(make_tokenizer(**given), make_generator(**generator))


# other wrappings


def wrapped(prefix: str):
    return lambda state: {prefix + key: value for key, value in state.items()}


@pytest.mark.parametrize(
    "wrap",
    [
        wrapped("module."),
        wrapped("_orig_mod."),
        wrapped("module._orig_mod."),
        wrapped("module.module."),
        wrapped("module._orig_mod.module."),
        lambda state: {
            key.replace("blocks.0.", "blocks.0._orig_mod."): value for key, value in state.items()
        },
        lambda state: {"state_dict": wrapped("model.module.")(state), "epoch": 3},
        lambda state: {"model": state, "optimizer": {"param_groups": []}},
    ],
)
def test_prefixes_of_ddp_and_compile_are_dropped(wrap, case):
    models = convert(wrap(case.vqvae), wrap(case.var), patch_nums=case.patch_nums)
    for back, state in zip(to_var(*models), (case.vqvae, case.var), strict=True):
        same_bits(back, state)


def test_a_training_checkpoint_serves_as_either(case):
    """The frozen tokenizer is saved in it as well."""
    trainer = {"config": {"prog_it": 0}, "var_wo_ddp": case.var, "vae_local": case.vqvae, "var_opt": {}}
    training = {"epoch": 3, "iter": 0, "trainer": trainer, "args": {}}
    for vqvae in (training, case.vqvae):
        back = to_var(*convert(vqvae, training, patch_nums=case.patch_nums))
        same_bits(back[0], case.vqvae)
        same_bits(back[1], case.var)


def test_one_tokenizer_serves_ladders_of_other_lengths(case):
    """The released one has statistics of ten levels, the ladder for 1024 pixels has fourteen."""
    case.vqvae[HITS] = torch.rand(7, 32)
    models = convert(case.vqvae, case.var, patch_nums=case.patch_nums)
    same_bits(to_var(*models)[0], case.vqvae)


# what is refused


def put(**entries):
    """Sets entries of a state; dots are written as two underscores."""
    return lambda state: state.update({key.replace("__", "."): value for key, value in entries.items()})


def change(key: str, how):
    return lambda state: state.update({key: how(state[key])})


def drop(*keys: str):
    return lambda state: [state.pop(key) for key in keys]


def everything_but(number: int):
    return lambda state: [state.pop(key) for key in list(state)[number:]]


def one_nan(weight: Tensor) -> Tensor:
    weight = weight.clone()
    weight.view(-1)[-1] = torch.nan
    return weight


TOKENIZER, TRANSFORMER = "the VQVAE checkpoint", "the VAR checkpoint"
DAMAGE = [
    ("vqvae", drop("quantize.embedding.weight"), f"{TOKENIZER} lacks quantize.embedding.weight"),
    ("vqvae", drop("decoder.conv_out.bias"), f"{TOKENIZER} lacks decoder.conv_out.bias"),
    ("vqvae", drop(HITS), f"{TOKENIZER} lacks {HITS}"),
    ("vqvae", drop("encoder.mid.attn_1.norm.weight"), "has unknown names: .*attn.* more"),
    ("vqvae", put(loss__weight=torch.ones(1)), f"{TOKENIZER} has unknown names: loss.weight"),
    ("vqvae", put(epoch=3), f"{TOKENIZER} must map names to tensors, got epoch: int"),
    ("vqvae", change("quant_conv.weight", Tensor.half), "quant_conv.weight must be .*32 .* got .*16"),
    ("vqvae", change("quant_conv.bias", lambda t: t[:3]), r"quant_conv.bias must be .* got .* \(3,\)"),
    ("vqvae", change("encoder.conv_in.weight", torch.flatten), "encoder.conv_in.weight must have 4 axes"),
    ("vqvae", change("encoder.conv_in.weight", lambda t: t[:24]), r"multiples of conv_in's, 24, .* \[32, 6"),
    ("vqvae", change(HITS, lambda t: t - 1), f"{HITS} counts how often codes are used"),
    ("vqvae", change(HITS, lambda t: t + torch.nan), f"{HITS} holds NaN or infinite numbers"),
    ("vqvae", change("decoder.conv_out.bias", lambda t: t / 0), "conv_out.bias holds NaN or infinite"),
    ("vqvae", change("quant_conv.bias", Tensor.to_sparse), "conv.bias must be a dense tensor, got .*coo"),
    ("vqvae", change(HITS, lambda t: t[:, :5]), rf"{HITS} must be .* \(3, 32\), got .* \(3, 5\)"),
    ("vqvae", put(pos_1LC=torch.ones(1)), "are the two exchanged"),
    ("vqvae", change("quantize.embedding.weight", lambda t: t[:8]), "has 8 codes .* needs 32 .* not belong"),
    ("var", everything_but(0), "names to tensors, .* trainer.var_wo_ddp, got dict without"),
    ("var", drop("head.weight"), f"{TRANSFORMER} lacks head.weight"),
    ("var", drop("blocks.1.attn.q_bias", "head.bias"), "lacks blocks.1.attn.q_bias, head.bias"),
    ("var", drop("blocks.1.attn.scale_mul_1H11"), f"{TRANSFORMER} lacks blocks.1.attn.scale_mul_1H11"),
    ("var", drop("lvl_1L", "attn_bias_for_masking", "head.bias", "pos_start"), "lacks .*, .*, .* and 1 more"),
    ("var", put(blocks__0__ada_gss=torch.ones(1, 1, 6, 64)), "has unknown names: blocks.0.ada_gss"),
    ("var", put(module__head__bias=torch.ones(32)), "has a name twice, with and without the prefix module."),
    ("var", change("lvl_1L", lambda t: t.flip(1)), "lvl_1L does not hold what follows from the grids"),
    ("var", change("lvl_1L", Tensor.int), "lvl_1L must be torch.int64 .* got torch.int32"),
    ("var", change("attn_bias_for_masking", torch.zeros_like), "attn_bias_for_masking does not hold"),
    ("var", change("blocks.1.attn.zero_k_bias", lambda t: t + 1), "blocks.1.attn.zero_k_bias does not hold"),
    ("var", change("blocks.1.ffn.fc1.weight", one_nan), "blocks.1.ffn.fc1.weight holds NaN or infinite"),
    ("var", change("head.weight", Tensor.to_sparse), "head.weight must be a dense tensor, got .*sparse_coo"),
    ("var", put(quantize__embedding__weight=torch.ones(1)), "is a tokenizer's: are the two exchanged, or is"),
    ("var", change("pos_start", lambda t: t.expand(1, 4, -1)), r"pos_start must be .* got .* \(1, 4, 64\)"),
    ("var", change("blocks.0.attn.scale_mul_1H11", lambda t: t.expand(1, 3, 1, 1)), "heads, got 64 and 3"),
    ("var", change("class_emb.weight", lambda t: t[:0]), "must have 2 axes of length 1 or more"),
]  # fmt: skip


@pytest.mark.parametrize(("which", "damage", "sentence"), DAMAGE)
def test_a_wrong_state_is_refused_with_its_reason(which, damage, sentence, case):
    damage(getattr(case, which))
    with pytest.raises(ValueError, match=sentence) as caught:
        convert(case.vqvae, case.var, patch_nums=case.patch_nums)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("patch_nums", "sentence"),
    [
        ((1, 2, 4), "the VAR checkpoint has 14 tokens, the grids 1-2-4 have 21"),
        (((1, 1), (3, 1), (2, 5)), "larger than the last"),
        (((1, 1), (1, 3), (2, 5)), "lvl_1L does not hold what follows from the grids"),
        (((1, 1), (1, 1), (1, 3), (3, 3)), "lvl_embed.weight must be .*(4, 64).*, got .*(3, 64)"),
        ((1, 2, 0), "a level of a pyramid is a positive side"),
        ((), "at least one level"),
        (None, r"patch_nums are sides from coarse to fine, such as \(1, 2, 3, 4\), got None"),
        (5, "patch_nums are sides from coarse to fine, .* got 5"),
        ("123", "patch_nums are sides from coarse to fine, .* got '123'"),
    ],
)
def test_other_patch_nums_are_refused(patch_nums, sentence, case):
    """The third has as many tokens on as many levels: only the buffers tell."""
    with pytest.raises(ValueError, match=sentence):
        convert(case.vqvae, case.var, patch_nums=patch_nums)


def test_phis_of_other_levels_are_refused(make_case):
    made = make_case(phis=("0", "1"))
    with pytest.raises(ValueError, match="has a phi for each of 2 levels, but grids of 3 are given"):
        convert(made.vqvae, made.var, patch_nums=made.patch_nums)


def test_widths_that_are_no_heads_are_refused(make_case):
    made = make_case(dim=96, heads=None)
    with pytest.raises(ValueError, match="without attention norm has heads of 64 channels, its width is 96"):
        convert(made.vqvae, made.var, patch_nums=made.patch_nums)
