"""What weights do not show is read from the library's model, never guessed; outputs can be verified."""

import json
import re
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from tests.interop.vit.reference import beit, dinov2_state, loud, relative_vit, timm_vit, torchvision_vit
from var_pe.interop.vit.architecture import normalisation_of
from var_pe.interop.vit.conversion import convert

VITS = Path(__file__).parents[3] / "docs" / "vits.md"


def converted(theirs: nn.Module, **options):
    return convert(theirs.state_dict(), source="timm", like=theirs, **options)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"act_layer": "quick_gelu"}, "like= has the activation QuickGELU"),
        ({"act_layer": "relu"}, "like= has the activation ReLU"),
        ({"global_pool": "max"}, "like= has global_pool 'max'"),
        ({"global_pool": "avgmax"}, "like= has global_pool 'avgmax'"),
        ({"global_pool": "map"}, "like= has global_pool 'map'"),
        ({"global_pool": ""}, "like= has global_pool ''"),
        ({"global_pool": "avg", "pool_include_prefix": True}, "like= has pool_include_prefix"),
        ({"pre_norm": True}, "like= has a norm before its blocks"),
        ({"final_norm": False}, "like= has no norm after its blocks"),
        ({"block_fn": timm.models.vision_transformer.ResPostBlock}, "blocks of the kind ResPostBlock"),
        ({"norm_layer": "rmsnorm"}, "like= has RmsNorm at blocks.0.norm1"),
        ({"attn_layer": "diff"}, "attention of the kind DiffAttention"),
        ({"mlp_layer": timm.layers.SwiGLU}, "feed-forward layers of the kind SwiGLU"),
        ({"patch_size": (8, 4)}, "like= has patches of 8x4 pixels"),
        ({"qk_norm": True}, "no counterpart for: blocks.0.attn.k_norm.bias"),
    ],
    ids=str,
)
def test_what_ours_computes_in_another_way_is_refused(options, sentence):
    """Most of these have the names and shapes of a plain ViT's weights, and other logits."""
    given = dict(img_size=(32, 48), patch_size=8, embed_dim=32, depth=2, num_heads=4, num_classes=5)
    theirs = timm.models.VisionTransformer(**(given | options))
    with pytest.raises(ValueError, match=sentence):
        converted(theirs)


def test_another_epsilon_is_refused():
    for theirs, source, where in (
        (timm_vit(), "timm", "blocks.1.norm2"),
        (torchvision_vit(), "torchvision", "encoder.layers.encoder_layer_1.ln_2"),
    ):
        theirs.get_submodule(where).eps = 1e-5
        with pytest.raises(ValueError, match=f"like= has epsilon 1e-05 at {where}, our norms have 1e-06"):
            convert(theirs.state_dict(), source=source, like=theirs)


def test_blocks_of_two_activations_are_refused():
    theirs = timm_vit()
    theirs.blocks[1].mlp.act = nn.GELU("tanh")
    with pytest.raises(ValueError, match="blocks of several activations"):
        converted(theirs)


def test_a_subclass_may_compute_anything():
    class Mine(timm.models.VisionTransformer):
        pass

    with pytest.raises(ValueError, match=r"VisionTransformer, .*, whose parts are known, got .*Mine"):
        converted(Mine(img_size=32, patch_size=8, embed_dim=32, depth=1, num_heads=2))


def test_a_compiled_model_says_the_same():
    theirs = timm_vit()
    compiled = torch.compile(theirs)
    ours = convert(compiled.state_dict(), source="timm", like=compiled, verify=theirs)
    assert ours.config.num_heads == 4


# the whole of timm


def small(name: str) -> nn.Module:
    """timm's model of this name, narrow and of two blocks, at four patches or at its own size."""
    options = dict(depth=2, embed_dim=64, num_heads=4)
    try:
        theirs = timm.create_model(name, **options)
    except AssertionError:  # gated layers of a width that is no multiple
        options["mlp_ratio"] = 4
        theirs = timm.create_model(name, **options)
    patch, (side, _) = theirs.patch_embed.patch_size[0], theirs.patch_embed.img_size
    return theirs if side % patch else loud(timm.create_model(name, img_size=2 * patch, **options))


@pytest.mark.parametrize("module", ["vision_transformer", "deit", "vision_transformer_relpos", "beit"])
def test_every_vit_of_timm_has_its_outputs_or_is_refused(module):
    """docs/vits.md says which is which; there is no third kind, weights that load and give other logits."""
    listed = {name: line for line in VITS.read_text().splitlines() for name in re.findall(r"`(\w+)`", line)}
    for name in timm.list_models(module=module):
        sentence = refusal_of(small(name))
        assert not sentence.startswith("verify"), name
        if name in listed:
            assert ("refused:" in listed[name]) == bool(sentence), name
        else:
            assert module != "vision_transformer" or timm.__version__ != "1.0.31", name


def refusal_of(theirs: nn.Module) -> str:
    """Why it does not convert; nothing if it does, with equal outputs."""
    try:
        converted(theirs, verify=theirs)
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("words", [str, Path])
def test_a_folder_of_timm_says_it(tmp_path, words):
    """As timm saves and the hub has them: config.json with an architecture and its arguments."""
    arguments = dict(embed_dim=32, depth=2, num_heads=4, patch_size=8, act_layer="gelu_tanh")
    theirs = loud(timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=5, **arguments))
    config = {
        "architecture": "vit_tiny_patch16_224",
        "num_classes": 5,
        "model_args": arguments | {"img_size": 32},
    }
    normed = {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.6, 0.7], "input_size": [3, 32, 32]}
    (tmp_path / "config.json").write_text(json.dumps(config | {"pretrained_cfg": normed}))
    ours = convert(theirs.state_dict(), source="timm", like=words(tmp_path), verify=theirs)
    assert (ours.config.gelu, ours.config.num_heads, ours.image_size) == ("tanh", 4, (32, 32))
    assert normalisation_of(tmp_path) == (normed["mean"], normed["std"])
    (tmp_path / "config.json").write_text(json.dumps(config | {"architecture": "vit_of_nobody"}))
    with pytest.raises(ValueError, match=r"timm cannot build .*vit_of_nobody"):
        convert(theirs.state_dict(), source="timm", like=words(tmp_path))


def test_a_name_says_it_and_its_tag_says_how_images_were_normalised():
    theirs = loud(timm.create_model("test_vit", num_classes=5, img_size=(64, 32)))
    ours = convert(theirs.state_dict(), source="timm", like="test_vit", image_size=(64, 32), verify=theirs)
    assert ours.config.num_classes == 5
    with pytest.raises(ValueError, match="pos_embed has 9 rows"):
        convert(theirs.state_dict(), source="timm", like="test_vit")
    assert normalisation_of("test_vit") is None
    assert normalisation_of("vit_base_patch16_224.mae")[0] == (0.485, 0.456, 0.406)
    with pytest.raises(ValueError, match="knows no weights of_mine of test_vit"):
        normalisation_of("test_vit.of_mine")


# verification


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (lambda model: setattr(model.blocks[0].mlp, "act", nn.GELU("tanh")), "outputs differ by up to"),
        (lambda model: setattr(model.norm, "eps", 1e-4), "outputs differ by up to"),
        (lambda model: setattr(model, "global_pool", "avg"), "outputs differ by up to"),
        (lambda model: model.pos_embed.data[0, 3, 3].add_(0.1), "outputs differ by up to"),
        (
            lambda model: model.reset_classifier(7),
            r"our outputs have the shape \(2, 5\), the library's \(2, 7\)",
        ),
        (lambda model: model.norm.weight.data.fill_(torch.nan), "outputs differ by up to nan"),
        (lambda model: model.set_input_size((64, 64)), "cannot be run on our pictures"),
    ],
)
def test_other_outputs_are_refused(change, difference):
    """Also where the differences are small: everything is computed in float64."""
    theirs = timm_vit()
    state = {name: value.clone() for name, value in theirs.state_dict().items()}
    plain = timm_vit()
    convert(state, source="timm", like=plain, verify=theirs)
    change(theirs)
    with pytest.raises(ValueError, match=f"verify: .*{difference}"):
        convert(state, source="timm", like=plain, verify=theirs)


def test_verifying_leaves_the_library_s_model_as_it_is():
    theirs = timm_vit().train()
    before = {name: value.clone() for name, value in theirs.state_dict().items()}
    ours = converted(theirs, verify=theirs)
    assert theirs.training
    assert next(ours.parameters()).dtype == torch.float32
    assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in before.items())


# wrappers


def with_prefix(prefix: str):
    return lambda state: {prefix + key: value for key, value in state.items()}


WRAPPERS = {
    "DDP": with_prefix("module."),
    "compile": with_prefix("_orig_mod."),
    "compile and DDP": with_prefix("_orig_mod.module."),
    "compiled blocks": lambda state: {
        key.replace("blocks.0.", "blocks.0._orig_mod."): value for key, value in state.items()
    },
    "FSDP": lambda state: {key.replace("attn.", "_fsdp_wrapped_module.attn."): v for key, v in state.items()},
    "timm's train.py": lambda state: {"epoch": 1, "arch": "vit", "state_dict": state, "optimizer": {"a": {}}},
    "DeiT, MAE": lambda state: {"model": state, "scaler": {}},
    "Lightning": lambda state: {"state_dict": with_prefix("model.")(state), "hyper_parameters": {}},
    "Lightning, compiled": lambda state: {"state_dict": with_prefix("model._orig_mod.")(state)},
    "DINO": lambda state: {"teacher": with_prefix("module.backbone.")(state)},
    "DeepSpeed": lambda state: {"module": {"model": state}},
    "an average": lambda state: {"n_averaged": torch.tensor(3), **with_prefix("module.")(state)},
    "parameters": lambda state: {key: nn.Parameter(value) for key, value in state.items()},
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_wrappers_are_taken_off(wrap):
    theirs = timm_vit()
    convert(wrap(theirs.state_dict()), source="timm", like=theirs, verify=theirs)


def test_one_of_two_sets_of_weights_is_chosen_by_the_user():
    theirs = timm_vit()
    other = {name: torch.zeros_like(value) for name, value in theirs.state_dict().items()}
    both = {"state_dict": other, "state_dict_ema": theirs.state_dict()}
    with pytest.raises(ValueError, match="several sets of weights, state_dict and state_dict_ema: say which"):
        convert(both, source="timm", like=theirs)
    convert(both, source="timm", like=theirs, verify=theirs, entry=["state_dict_ema"])


def test_half_the_names_in_a_wrapper_are_no_wrapper():
    """What is left over must be named, not dropped."""
    state = with_prefix("model.")(timm_vit().state_dict()) | {"loss.weight": torch.ones(2)}
    with pytest.raises(
        ValueError,
        match=r"lacks patch_embed.proj.weight; it has model.patch_embed.proj.weight: take model. off",
    ):
        convert(state, source="timm", like=timm_vit())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_weights_are_read_as_what_they_are(dtype, tmp_path):
    theirs = timm_vit().to(dtype)
    state = theirs.state_dict()
    save_file(state, tmp_path / "a.safetensors")
    ours = convert(state, source="timm", like=theirs, verify=theirs)
    assert torch.equal(ours.norm.weight, theirs.norm.weight.float())


def test_the_other_libraries_models_verify_themselves():
    theirs = torchvision_vit()
    convert(theirs.state_dict(), source="torchvision", image_size=32, num_heads=4, verify=theirs)
    convert(theirs.state_dict(), source="torchvision", like=theirs, verify=theirs)
    theirs, state = dinov2_state(4)
    convert(state, source="dinov2", image_size=32, num_heads=4, verify=theirs)
    for theirs in (beit(), relative_vit(), relative_vit(shared_rel_pos=True)):
        converted(theirs, verify=theirs)
