"""Classifiers of clips: what order they see, how attention is divided, what a clip of one frame is."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from var_pe.models.clips import ClipClassifier
from var_pe.models.vit import ViTClassifier

LINES = ["none", "learned", "factorized", "sinusoidal", "fourier", "coordinate", "rope", "relative_bias",
         "alibi", "fire", "log_cpb", "mixed(learned=0.7, sinusoidal=0.3)"]  # fmt: skip
SPREADS = ["joint", "divided"]
SIZE = dict(image_size=(8, 12), num_classes=3, patch_size=4, dim=32, depth=2, num_heads=4)


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def make(make_loud):
    def call(
        line: str, attention: str = "joint", frames: int = 4, tubelet: int = 1, **options
    ) -> ClipClassifier:
        given = SIZE | dict(frames=frames, tubelet=tubelet, encoding=line, attention=attention)
        return make_loud(ClipClassifier(**given, **options)).eval()

    return call


@torch.no_grad()
@pytest.mark.parametrize("line", LINES)
def test_a_clip_of_one_frame_is_a_picture(line, make, make_loud):
    """With the same weights the logits are those of the ViT for pictures."""
    clips, picture = make(line, frames=1), make_loud(ViTClassifier(encoding=line, **SIZE)).eval()
    state = clips.state_dict()
    for name in picture.state_dict():
        if name.startswith("position_encoding."):
            state[name] = state.get(f"map_{name}", state.get(name))
    picture.load_state_dict({name: state[name] for name in picture.state_dict()})
    images = random(2, 3, 8, 12)
    torch.testing.assert_close(clips(images[:, None]), picture(images))


@torch.no_grad()
@pytest.mark.parametrize("attention", SPREADS)
@pytest.mark.parametrize("line", [*LINES, "fourier + rope_mixed + irpe"])
def test_without_time_in_its_positions_no_model_knows_the_order_of_frames(line, attention, make):
    """Under any encoding of places: frames of one moment each may be dealt anew, and no logit changes."""
    clips, order = random(2, 4, 3, 8, 12), [2, 0, 3, 1]
    blind = make(line, attention, time_positions=False)
    torch.testing.assert_close(blind(clips[:, order]), blind(clips), rtol=1e-4, atol=1e-5)
    if line not in LINES:
        return

    seeing = make(line, attention)
    change = (seeing(clips[:, order]) - seeing(clips)).abs().max()
    assert change < 2e-5 if line == "none" else change > 1e-4

    # A distance is the same both ways: alibi cannot tell a motion from the same played backwards.
    change = (seeing(clips.flip(1)) - seeing(clips)).abs().max()
    assert change < 2e-5 if line in ("none", "alibi") else change > 1e-4


@torch.no_grad()
@pytest.mark.parametrize("attention", SPREADS)
@pytest.mark.parametrize("line", ["sinusoidal", "fourier", "coordinate", "rope", "alibi", "fire", "log_cpb"])
def test_clips_of_another_length_still_have_an_order(line, attention, make):
    """Under encodings that compute what they know of time, or ask a function for it."""
    clips = random(2, 6, 3, 8, 12)
    model = make(line, attention, dynamic=True)
    assert (model(clips[:, [2, 0, 5, 3, 1, 4]]) - model(clips)).abs().max() > 1e-4


@torch.no_grad()
def test_divided_attention_sees_one_place_over_time_and_then_one_moment(make):
    model = make("rope", "divided")
    block, context = model.blocks[0], model._in_attention(model.pyramid.positions(times=4))
    x_BLC = random(1, 24, 32)
    changed_BLC = x_BLC.clone()
    changed_BLC[:, 6 + 2] = random(32).flip(0)  # place 2 at moment 1

    def touched(*silent: str) -> set[tuple[int, int]]:
        for name in ("attn_time", "attn", "mlp"):
            last = getattr(block, name).fc2 if name == "mlp" else getattr(block, name).proj
            last.weight.copy_(random(*last.weight.shape) * (name not in silent))
        gap_L = (block(changed_BLC, context, 0) - block(x_BLC, context, 0)).abs().amax((0, 2))
        return {divmod(token, 6) for token in gap_L.gt(1e-6).nonzero()[:, 0].tolist()}

    assert touched("attn", "mlp") == {(moment, 2) for moment in range(4)}
    assert touched("attn_time", "mlp") == {(1, place) for place in range(6)}
    assert len(touched()) == 24


@pytest.mark.parametrize("attention", SPREADS)
@pytest.mark.parametrize(
    "line", ["learned + factorized + rope + relative_bias", "fourier + coordinate + fire + log_cpb"]
)
def test_every_parameter_learns(line, attention, make):
    model = make(line, attention, tubelet=2, layer_scale=0.1).train()
    model(random(2, 4, 3, 8, 12)).square().sum().backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not idle


@torch.no_grad()
def test_a_tubelet_is_a_kernel_over_frames_rows_and_columns(make):
    """ViViT's, a convolution in three dimensions whose stride is its size."""
    model, clips = make("none", tubelet=2), random(2, 4, 3, 8, 12)
    kernel_OIthw = model.patch_embed.weight.unflatten(1, (2, 3)).transpose(1, 2)
    expected_BCThw = F.conv3d(clips.transpose(1, 2), kernel_OIthw, model.patch_embed.bias, stride=(2, 4, 4))
    tokens: list[Tensor] = []
    model.blocks[0].register_forward_pre_hook(lambda _, given: tokens.append(given[0]))
    model(clips)
    torch.testing.assert_close(tokens[0], expected_BCThw.flatten(2).transpose(1, 2))


@torch.no_grad()
@pytest.mark.parametrize("attention", SPREADS)
def test_saved_loaded_and_moved_to_larger_frames(attention, make, tmp_path):
    model = make("learned + relative_bias", attention, tubelet=2)
    model.save_pretrained(tmp_path)
    again = ClipClassifier.from_pretrained(tmp_path).eval()
    clips = random(2, 4, 3, 8, 12)
    assert torch.equal(again(clips), model(clips))

    again.set_input_size((16, 12), resample="timm")
    assert again(random(1, 4, 3, 16, 12)).shape == (1, 3)
    again.save_pretrained(tmp_path / "moved")
    moved = ClipClassifier.from_pretrained(tmp_path / "moved").eval()
    assert torch.equal(moved(random(1, 4, 3, 16, 12)), again(random(1, 4, 3, 16, 12)))


def test_clips_of_other_shapes_are_refused(make):
    model = make("rope")
    with pytest.raises(ValueError, match="set to clips of 4 frames, got 6; dynamic=true takes every length"):
        model(random(1, 6, 3, 8, 12))
    with pytest.raises(
        ValueError, match=r"takes .clips, frames, channels, height, width., got a batch of shape"
    ):
        model(random(1, 3, 8, 12))
    assert make("rope", dynamic=True)(random(1, 6, 3, 16, 12)).shape == (1, 3)
    with pytest.raises(ValueError, match="a classifier of clips of 4 moments cannot follow one of 1"):
        make("rope", dynamic=True)(random(1, 1, 3, 8, 12))
    with pytest.raises(ValueError, match="tubelet must divide the frames of a clip, got 3 for 4"):
        make("rope", tubelet=3)
    with pytest.raises(ValueError, match="attention=divided has no part for tokens without a place"):
        make("rope", "divided", pool="class_token")
    with pytest.raises(ValueError, match="its part between blocks serves single pictures"):
        make("peg", time_positions=False)
