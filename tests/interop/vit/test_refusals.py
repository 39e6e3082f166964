"""Another library's weights that are not all there, not sound or not a ViT's are refused in one sentence."""

import re
from collections.abc import Callable

import pytest
import timm
import torch

from tests.interop.vit.reference import beit, dinov2_state, relative_vit, timm_vit, torchvision_vit
from var_pe.interop.vit.conversion import convert

State = dict[str, torch.Tensor]
TABLE = "relative_position_bias_table"


def asked(state: State, **options):
    given = dict(source="timm", image_size=(32, 48), patch_size=8, num_heads=4) | options
    if given["source"] == "timm":
        given = {"like": timm_vit()} | given
    return convert(state, **given)


def refusal(state: State, **options) -> str:
    with pytest.raises(ValueError, match=" ") as caught:
        asked(state, **options)
    return str(caught.value)


def without(state: State, *keys: str) -> State:
    return {name: value for name, value in state.items() if name not in keys}


# every weight of every kind of model

SQUARE = {"image_size": 32}
MODELS: dict[str, Callable[[], torch.nn.Module]] = {
    "timm": lambda: timm_vit(init_values=0.1, depth=3),
    "timm, pooled": lambda: timm_vit(global_pool="avg", reg_tokens=2),
    "relative": lambda: relative_vit(depth=3),
    "relative, of two blocks": lambda: relative_vit(),
    "relative, shared": lambda: relative_vit(shared_rel_pos=True),
    "beit": lambda: beit(depth=3),
    "beit, relative alone": lambda: beit(use_abs_pos_emb=False),
}
PUBLISHED: dict[str, Callable[[], State]] = {
    "torchvision": lambda: torchvision_vit().state_dict(),
    "dinov2": lambda: dinov2_state(2)[1],
}
KINDS = [*MODELS, *PUBLISHED]


def state_of(kind: str) -> tuple[State, dict]:
    """The weights, and what is said beside them."""
    if kind in PUBLISHED:
        return PUBLISHED[kind](), SQUARE | {"source": kind}
    model = MODELS[kind]()
    return model.state_dict(), {"like": model}


FOUND_OTHERWISE = {  # what is left says it in another way
    ("timm", "cls_token"): "pool class_token: the timm state dict lacks cls_token",
    ("timm, pooled", "cls_token"): "pos_embed has 27 rows, .* with 0 or 2 prefix rows needs 24 or 26",
    ("timm, pooled", "reg_token"): "pos_embed has 27 rows, .* with 0 or 1 prefix rows needs 24 or 25",
    (
        "relative, shared",
        f"shared_rel_pos.{TABLE}",
    ): "lacks pos_embed, and its blocks have no relative tables",
    ("beit", "cls_token"): "pos_embed has 25 rows, a grid of 4x6 with 0 prefix rows needs 24",
    ("beit, relative alone", "cls_token"): f"blocks.0.attn.{TABLE} must be 77 x 4, got \\(80, 4\\)",
}
NO_LOSS = {  # what is left is a whole model
    ("beit", "pos_embed"),
    ("dinov2", "register_tokens"),
    ("dinov2", "mask_token"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_no_weight_may_be_missing(kind):
    """A default in its place, or a neighbour's, would give other logits and no word."""
    state, options = state_of(kind)
    asked(state, **options)
    for key in state:
        if (kind, key) in NO_LOSS:
            asked(without(state, key), **options)
            continue
        sentence = FOUND_OTHERWISE.get((kind, key), f"state dict lacks {re.escape(key)}(;|,|$)")
        assert re.search(sentence, refusal(without(state, key), **options)), key


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_is_finite(kind, value):
    state, options = state_of(kind)
    for key in without(state, "mask_token"):
        broken = state[key].clone()
        broken.flatten()[-1] = value
        said = refusal(state | {key: broken}, **options)
        assert said.endswith(f" state dict: {key} holds NaN or infinite values"), key


@pytest.mark.parametrize("value", [None, 1.0, {"weight": torch.ones(2)}, "word"], ids=str)
def test_a_state_dict_maps_names_to_tensors(value):
    said = refusal(timm_vit().state_dict() | {"norm.bias": value})
    assert said == f"the timm state dict must map names to tensors, got norm.bias: {type(value).__name__}"
    assert refusal({3: torch.ones(2)}).endswith("got 3: Tensor")
    assert refusal(timm_vit()).endswith("map names to tensors, got VisionTransformer")
    assert refusal({}) == "the timm state dict lacks patch_embed.proj.weight; is it another library's?"


def test_weights_of_whole_numbers_or_of_no_length_are_none():
    """Quantised weights need their scales; an empty axis would make a model of no width."""
    state = timm_vit().state_dict()
    assert refusal(state | {"norm.bias": torch.ones(32, dtype=torch.int8)}).endswith(
        "norm.bias must be floating-point, got torch.int8"
    )
    assert refusal(state | {"head.weight": torch.ones(0, 32), "head.bias": torch.ones(0)}).endswith(
        "head.weight must be any x 32, got (0, 32)"
    )


# models that look like others


def test_no_position_has_to_be_said():
    """Weights alone do not tell timm's pos_embed="none" from a file that lost its table."""
    theirs, table = timm_vit(pos_embed="none"), timm_vit().state_dict()["pos_embed"]
    state = theirs.state_dict()
    assert "pos_embed" not in state
    assert refusal(state).endswith("lacks pos_embed, and its blocks have no relative tables")
    assert asked(state, like=theirs).config.encoding == "none"
    said = refusal(state | {"pos_embed": table}, like=theirs)
    assert said == "like= has no positions, but the timm state dict has learned ones"
    both = beit(use_abs_pos_emb=True).state_dict()
    said = refusal(both, like=beit(False, use_rel_pos_bias=False, use_abs_pos_emb=False))
    assert said == "like= has no positions, but the timm state dict has learned and relative_bias ones"


@pytest.mark.parametrize("lost", ["class_token", "encoder.pos_embedding"])
def test_torchvision_always_has_a_token_and_a_table(lost):
    state = without(torchvision_vit().state_dict(), lost)
    for options in ({}, {"pool": "mean"}):
        assert f"lacks {lost}; is" in refusal(state, source="torchvision", image_size=32, **options)


def test_torchvision_always_has_biases():
    state = torchvision_vit().state_dict()
    lost = [key for key in state if key.endswith("in_proj_bias")]
    said = refusal(without(state, *lost), source="torchvision", image_size=32)
    assert "lacks encoder.layers.encoder_layer_0.self_attention.in_proj_bias" in said


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("vit_small_patch16_dinov3", "lacks pos_embed, and its blocks have no relative tables"),
        (
            "vit_small_patch16_rope_ape_224",
            "has gamma_1 beside attn.qkv.bias, as Eva's models do, which turn",
        ),
    ],
)
def test_timm_s_rotary_models_are_not_taken_for_vits(name, sentence):
    """Their angles are no weights: all that a state dict holds looks like a ViT's."""
    model = timm.create_model(name, depth=1, embed_dim=32, num_heads=4, img_size=(32, 48), patch_size=8)
    assert sentence in refusal(model.state_dict(), like=timm_vit(global_pool="avg"))
    assert "whose parts are known, got timm.models.eva.Eva" in refusal(model.state_dict(), like=model)


def test_two_names_for_one_part_are_one_too_many():
    """None is taken for the other, and none is dropped."""
    state = timm_vit(init_values=0.1).state_dict()
    added = {f"blocks.{block}.gamma_{part}": torch.ones(32) for block in (0, 1) for part in (1, 2)}
    assert "no counterpart for: blocks.0.gamma_1, blocks.0.gamma_2, blocks.1.g" in refusal(state | added)
    state = beit().state_dict()
    for name in (f"rel_pos_bias.{TABLE}", f"shared_rel_pos.{TABLE}"):
        shared = {name: state[f"blocks.0.attn.{TABLE}"]}
        assert f"no counterpart for: blocks.0.attn.{TABLE}" in refusal(state | shared, like=beit())
    state = relative_vit(shared_rel_pos=True).state_dict()
    both = state | {f"rel_pos_bias.{TABLE}": state[f"shared_rel_pos.{TABLE}"]}
    assert refusal(both, like=relative_vit()).endswith(f"no counterpart for: shared_rel_pos.{TABLE}")
    added = {"blocks.1.attn.qkv.bias": torch.ones(96)}
    assert "has gamma_1 beside attn.qkv.bias, as Eva" in refusal(beit().state_dict() | added, like=beit())


# arguments

ARGUMENTS = [
    ({"num_heads": 0}, "num_heads must be a whole number of at least 1, got 0"),
    ({"num_heads": -3}, "num_heads must be a whole number of at least 1, got -3"),
    ({"num_heads": 4.0}, "num_heads must be a whole number of at least 1, got 4.0"),
    ({"num_heads": 5}, "num_heads 5 is not what like= has: 4"),
    ({"patch_size": 0}, "patch_size must be a whole number of at least 1, got 0"),
    ({"patch_size": (8, 8)}, r"patch_size must be a whole number of at least 1, got \(8, 8\)"),
    ({"patch_size": 16}, "patch_size 16 is not what like= has: 8"),
    ({"image_size": (32,)}, r"image_size must be a side or two \(height, width\) of at least 1, got \(32,\)"),
    ({"image_size": (32, 0)}, r"image_size must be .* got \(32, 0\)"),
    ({"image_size": -32}, "image_size must be .* got -32"),
    ({"image_size": (32.0, 48.0)}, r"image_size must be .* got \(32.0, 48.0\)"),
    ({"image_size": (30, 48)}, r"image_size \(30, 48\) is not what like= has: \(32, 48\)"),
    ({"mean": [0.5] * 3}, "mean and std go together, got mean alone"),
    ({"std": [0.5] * 3}, "mean and std go together, got std alone"),
    ({"mean": [0.5], "std": [0.5]}, r"mean must be 3 finite numbers, one a channel .* got \[0.5\]"),
    ({"mean": 0.5, "std": 0.5}, "mean must be 3 finite numbers, one a channel .* got 0.5"),
    ({"mean": ["a"] * 3, "std": [0.5] * 3}, "mean must be 3 finite numbers"),
    ({"mean": [0.5] * 3, "std": [0.5] * 2}, "std must be 3 finite numbers"),
    ({"mean": [0.5] * 3, "std": [0.5, torch.inf, 1.0]}, "std must be 3 finite numbers"),
    ({"mean": [0.5] * 3, "std": [0.5, 0.0, 1.0]}, r"std must be above 0, got \[0.5, 0.0, 1.0\]"),
    ({"mean": [0.5] * 3, "std": [0.5, 0.5, -1.0]}, "std must be above 0, got"),
    ({"pool": "mean"}, "pool mean is not what like= has: class_token"),
    ({"pool": "max"}, "pool is one of class_token, mean, got 'max'"),
    ({"pool": ""}, "pool is one of class_token, mean, got ''"),
    ({"source": "mae"}, "source is one of timm, torchvision, dinov2, got 'mae'"),
    ({"source": ["timm"]}, r"source is one of timm, torchvision, dinov2, got \['timm'\]"),
    (
        {"source": "torchvision"},
        "lacks conv_proj.weight; its patch_embed.proj.weight is a name of source timm or dinov2",
    ),
    ({"like": None}, "like: the weights of a timm model do not show its activation, what it pools, .* give"),
    ({"like": "resnet_18"}, "resnet_18 is neither a model of timm [0-9.]+ nor a folder with timm's config"),
    ({"like": "resnet18"}, "timm cannot build resnet18: |got timm.models.resnet.ResNet"),
    (
        {"like": torchvision_vit()},
        "like= must be one of timm's VisionTransformer, VisionTransformerRelPos, B",
    ),
    ({"entry": ["ema"]}, "the timm state dict has no entry ema: it has cls_token, pos_embed"),
]

PUBLISHED_ARGUMENTS = [
    ({"num_heads": 5}, "multiple of the number of heads, got 32 and 5"),
    ({"num_heads": None}, "image_size and num_heads must be given: dinov2 weights do not show them"),
    ({"image_size": None}, "image_size and num_heads must be given: dinov2 weights do not show them"),
    ({"patch_size": 16}, "must be any x any x 16 x 16, got"),
    ({"image_size": (30, 48)}, "multiples of patch_size 8, got 30x48"),
    (
        {"image_size": 40},
        "pos_embed has 17 rows, a grid of 5x5 with 1 prefix rows needs 26: image_size is the o",
    ),
    ({"like": timm_vit()}, "like= is a model of timm or torchvision: dinov2 publishes one form of its ViTs"),
]


@pytest.mark.parametrize(("options", "sentence"), ARGUMENTS, ids=[str(options) for options, _ in ARGUMENTS])
def test_an_argument_that_does_not_fit_is_named(options, sentence):
    assert re.search(sentence, refusal(timm_vit().state_dict(), **options))


@pytest.mark.parametrize(
    ("options", "sentence"), PUBLISHED_ARGUMENTS, ids=[str(o) for o, _ in PUBLISHED_ARGUMENTS]
)
def test_what_is_said_of_a_published_form_is_checked(options, sentence):
    given = {"source": "dinov2", "image_size": 32} | options
    assert re.search(sentence, refusal(dinov2_state(0)[1], **given))


@pytest.mark.parametrize(
    ("key", "sentence"),
    [
        (
            "vit.embeddings.patch_embeddings.projection.weight",
            "is a name of Hugging Face transformers, which",
        ),
        ("visual.conv1.weight", "is a name of OpenAI's CLIP or open_clip, which are not read"),
        ("conv_proj.weight", "is a name of source torchvision"),
        ("stem.weight", "is it another library's"),
    ],
)
def test_whose_weights_they_seem_to_be_is_said(key, sentence):
    assert sentence in refusal({key: torch.ones(2, 3, 4, 4), "b": torch.ones(2)})


# weights that do not fit

WRONG: list[tuple[Callable[[], State], dict, str]] = [
    (lambda: {"norm_pre.weight": torch.ones(32)}, {}, "no counterpart for: norm_pre.weight$"),
    (lambda: {"blocks.0.attn.q_norm.weight": torch.ones(8)}, {}, "no counterpart for: blocks.0.attn.q_"),
    (lambda: {name: torch.ones(1) for name in "abcde"}, {}, "no counterpart for: a, b, c and 2 more"),
    (lambda: {"head.bias": torch.ones(6)}, {}, r"head.bias must be 5, got \(6,\)"),
    (lambda: {"norm.bias": torch.ones(1, 32)}, {}, r"norm.bias must be 32, got \(1, 32\)"),
    (lambda: torchvision_vit().state_dict(), {}, "no counterpart for: class_token, conv_proj.bias"),
    (
        lambda: dinov2_state(4)[1],
        {"image_size": 32, "like": timm_vit((32, 32))},
        "no counterpart for: mask_token, register_tokens",
    ),
]


@pytest.mark.parametrize(("added", "options", "sentence"), WRONG, ids=[sentence for *_, sentence in WRONG])
def test_a_weight_that_does_not_fit_is_named(added, options, sentence):
    assert re.search(sentence, refusal(timm_vit().state_dict() | added(), **options))


def test_a_pooled_class_token_is_there():
    state = timm_vit(class_token=False, global_pool="avg").state_dict()
    assert refusal(state, pool="class_token") == "pool class_token: the timm state dict lacks cls_token"
