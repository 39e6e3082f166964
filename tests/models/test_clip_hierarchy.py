"""Hierarchies of clips: Video Swin's windows, who sees whom in them, and what tells the order of frames."""

import itertools
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.video.swin_transformer import SwinTransformer3d

from var_pe.encodings import REGISTRY, build_encoding
from var_pe.models.attention import PositionContext
from var_pe.models.hierarchy.attention import DividedAttention, MapContext, calls_of, divisions_of
from var_pe.models.hierarchy.classifier import HierarchicalClassifier
from var_pe.models.hierarchy.clips import HierarchicalClipClassifier
from var_pe.models.hierarchy.lines import Windowed
from var_pe.models.layers import Attention
from var_pe.pyramid import Pyramid

HAVE_TIME = sorted(name for name, encoding in REGISTRY.items() if encoding.has_time)
LINES = ["windowed(blocks=2, window=3, moments=2)", "windowed(blocks=2, window=3, moments=2)"]
SIZE = dict(image_size=(16, 24), num_classes=3, patch_size=2, dim=16, num_heads=2, qk_norm=False)


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def make(make_loud):
    """On a stem's map of 4 moments of 8 x 12 cells, 16 wide in two heads."""

    def call(*lines: str, **options) -> HierarchicalClipClassifier:
        given = SIZE | dict(frames=4, tubelet=1, encoding="rope")
        return make_loud(HierarchicalClipClassifier(hierarchy=lines or LINES, **(given | options))).eval()

    return call


@torch.no_grad()
@pytest.mark.parametrize("moments", [2, 4])
def test_windows_of_three_sides_equal_torchvision_s_video_swin(moments, make_loud):
    """With copied weights; its table of (dt, dy, dx) is given ours, a term of dt and a table of (dy, dx)."""
    lines = [f"windowed(blocks=2, window=3, moments={moments})"] * 2
    options = SIZE | dict(frames=8, tubelet=2, image_size=(12, 24), encoding="relative_bias", gelu="exact")
    ours = make_loud(HierarchicalClipClassifier(hierarchy=lines, **options)).eval()
    norm = partial(nn.LayerNorm, eps=1e-5)
    window = [moments, 3, 3]
    theirs = SwinTransformer3d([2, 2, 2], 16, [2, 2], [2, 4], window, num_classes=3, norm_layer=norm).eval()

    weights = ours.state_dict()
    # The stem and what is outside of stages
    state = {f"head.{part}": weights[f"head.{part}"] for part in ("weight", "bias")}
    state["patch_embed.proj.weight"] = weights["patch_embed.weight"].unflatten(1, (2, 3)).transpose(1, 2)
    state["patch_embed.proj.bias"] = weights["patch_embed.bias"]
    for part in ("weight", "bias"):
        state[f"norm.{part}"] = weights[f"norm.{part}"]
        state[f"patch_embed.norm.{part}"] = weights[f"stem_norm.{part}"]

    # Theirs has stages and mergings in one row: stage 0, the merging before stage 1, stage 1
    state["features.1.norm.weight"] = weights["stages.1.merging.norm.weight"]
    state["features.1.norm.bias"] = weights["stages.1.merging.norm.bias"]
    state["features.1.reduction.weight"] = weights["stages.1.merging.reduction.weight"]
    pairs = {"mlp.fc1": "mlp.0", "mlp.fc2": "mlp.3"}
    pairs |= {name: name for name in ("norm1", "norm2", "attn.proj")}
    for stage, block in itertools.product(range(2), range(2)):
        own, other = f"stages.{stage}.blocks.{block}", f"features.{2 * stage}.{block}"
        for ours_name, their_name in pairs.items():
            for part in ("weight", "bias"):
                state[f"{other}.{their_name}.{part}"] = weights[f"{own}.{ours_name}.{part}"]
        state[f"{other}.attn.qkv.weight"] = weights[f"{own}.attn.qkv.weight"]
        q_bias, v_bias = weights[f"{own}.attn.q_bias"], weights[f"{own}.attn.v_bias"]
        state[f"{other}.attn.qkv.bias"] = torch.cat([q_bias, torch.zeros_like(q_bias), v_bias])
        table_Hyx = weights[f"stages.{stage}.position_encoding.table_NHyx"][block]
        term_Ht = weights[f"stages.{stage}.position_encoding.time_term.term_NHt"][block]
        table_Htyx = term_Ht[:, :, None, None] + table_Hyx[:, None]
        state[f"{other}.attn.relative_position_bias_table"] = table_Htyx.flatten(1).T
    kept = {name: value for name, value in theirs.state_dict().items() if name.endswith("position_index")}
    theirs.load_state_dict(state | kept)

    clips = random(2, 8, 3, 12, 24)
    torch.testing.assert_close(ours(clips), theirs(clips.transpose(1, 2)), atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("line", [*HAVE_TIME, "sinusoidal + rope"])
def test_a_clip_of_one_frame_is_a_picture(line, make, make_loud):
    """Under every encoding that clips can have: maps and logits of the hierarchy of pictures."""
    lines = ["windowed(blocks=2, window=3)", "full(blocks=1)"]
    line = "mixed(learned=0.7, sinusoidal=0.3)" if line == "mixed" else line
    clips = make(*lines, encoding=line, frames=1)
    picture = make_loud(HierarchicalClassifier(hierarchy=lines, encoding=line, **SIZE)).eval()
    picture.load_state_dict(clips.state_dict())
    images = random(2, 3, 16, 24)
    maps = clips.forward_features(images[:, None])
    for of_clip, of_picture in zip(maps, picture.forward_features(images), strict=True):
        assert torch.equal(of_clip[:, :, 0], of_picture)
    assert torch.equal(clips(images[:, None]), picture(images))


@torch.no_grad()
@pytest.mark.parametrize("layer", [0, 1])
def test_no_token_sees_beyond_its_window(layer, make_loud):
    """Of 3 moments of 5 x 7 cells, as they lie and shifted: a token moves those of its own window alone."""
    grid, window = (3, 5, 7), (2, 3, 3)
    shape = Windowed(blocks=2, dim=16, stride=1, heads=2, encoding="none", window=3, moments=2)
    nothing = build_encoding("none", dim=16, num_heads=2, depth=2, pyramid=Pyramid.of([window[1:]]), times=2)
    attention = make_loud(DividedAttention(16, 2, qk_norm=False, dropout=0.0)).eval()
    calls = calls_of(shape, nothing, grid, 1, torch.device("cpu"))
    context = MapContext(grid, PositionContext(nothing, None, None), calls).at(layer)

    # Which window a cell is in, each side by itself: windows that a shift has cut off at a border stay so
    shifts = tuple(length // 2 for length in window) if layer else (0, 0, 0)
    assert divisions_of(shape, grid)[layer].shift == shifts
    cells_L3 = torch.cartesian_prod(*(torch.arange(side) for side in grid))
    shift_3, window_3 = torch.tensor(shifts), torch.tensor(window)
    window_L3 = (cells_L3 + (window_3 - shift_3) % window_3).div(window_3, rounding_mode="floor")
    same_LL = (window_L3[:, None] == window_L3).all(-1)

    x_BLC = random(1, len(cells_L3), 16)
    before_BLC = attention(x_BLC, context, layer)
    for token in range(len(cells_L3)):
        changed_BLC = x_BLC.clone()
        changed_BLC[:, token] += random(16)
        moved_L = (attention(changed_BLC, context, layer) - before_BLC)[0].norm(dim=1) > 0
        assert torch.equal(moved_L, same_LL[token])

    # And a window that is whole attends as if it were alone
    alone = Attention(16, 2, qk_norm=False, dropout=0.0).eval()
    alone.load_state_dict(attention.state_dict())
    here_L = same_LL[((cells_L3 == shift_3).all(1)).nonzero()[0, 0]]
    expected = alone(x_BLC[:, here_L], PositionContext(nothing, None, None), layer)
    torch.testing.assert_close(before_BLC[:, here_L], expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("line", HAVE_TIME)
def test_the_order_of_frames_matters_where_positions_have_a_time(line, make):
    line = "mixed(learned=0.7, sinusoidal=0.3)" if line == "mixed" else line
    clips = random(2, 4, 3, 16, 24)
    dealt = clips[:, [2, 0, 3, 1]]

    def gap(model: HierarchicalClipClassifier, other: Tensor) -> float:
        return float((model(other) - model(clips)).abs().max())

    # Windows over all moments: without a time in positions a clip is a bag of frames.
    whole = ["windowed(blocks=2, window=3)", "full(blocks=1)"]
    assert gap(make(*whole, encoding=line, time_positions=False), dealt) < 2e-5
    seeing = make(*whole, encoding=line)
    assert gap(seeing, dealt) < 2e-5 if line == "none" else gap(seeing, dealt) > 1e-4
    backwards = gap(seeing, clips.flip(1))
    assert backwards < 2e-5 if line in ("none", "alibi") else backwards > 1e-4

    # Windows in time tell neighbours by themselves; played backwards they lie the same, and tell no more.
    blind = make(encoding=line, time_positions=False)
    assert gap(blind, dealt) > 1e-4
    assert gap(blind, clips.flip(1)) < 2e-5
    if line == "alibi":
        assert gap(make(encoding=line), clips.flip(1)) < 2e-5


@torch.no_grad()
def test_windows_that_do_not_fill_a_clip_tell_its_direction(make):
    """Three moments in windows of two: the cut at the end is not the cut at the beginning."""
    clips = random(2, 3, 3, 16, 24)
    model = make("windowed(blocks=1, window=3, moments=2)", encoding="none", frames=3)
    assert (model(clips.flip(1)) - model(clips)).abs().max() > 1e-4


def test_all_stages_keep_the_moments_and_every_parameter_learns(make):
    lines = [*LINES, "linear(blocks=1, stride=1, encoding=rope)", "full(blocks=1, stride=1)"]
    model = make(
        *lines, encoding="learned + rope + relative_bias", frames=6, tubelet=2, layer_scale=0.1
    ).train()
    clips = random(2, 6, 3, 16, 24)
    maps = model.forward_features(clips)
    assert [tuple(one.shape) for one in maps] == [(2, 16, 3, 8, 12)] + 3 * [(2, 32, 3, 4, 6)]
    model(clips).square().sum().backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]


@torch.no_grad()
def test_saved_loaded_moved_and_of_other_lengths(make, tmp_path):
    model = make(encoding="relative_bias", dynamic=True)
    model.save_pretrained(tmp_path)
    again = HierarchicalClipClassifier.from_pretrained(tmp_path).eval()
    clips = random(1, 4, 3, 16, 24)
    assert torch.equal(again(clips), model(clips))
    # A window's table serves longer clips and larger frames, as Swin's does larger pictures.
    assert again(random(1, 7, 3, 24, 24)).isfinite().all()

    again.set_input_size((32, 24), resample="swin", window=4)
    again.save_pretrained(tmp_path / "moved")
    moved = HierarchicalClipClassifier.from_pretrained(tmp_path / "moved").eval()
    assert moved.config.hierarchy[0].endswith("window=4, shift=true, moments=2)")
    assert torch.equal(moved(random(1, 4, 3, 32, 24)), again(random(1, 4, 3, 32, 24)))


@pytest.mark.parametrize(
    ("lines", "options", "sentence"),
    [
        (["local(blocks=1)"], {}, "stage 1.*local is for pictures; stages of clips are full, "),
        (LINES, {"encoding": "rope_mixed"}, "rope_mixed has no time axis, which clips need; alibi"),
        (LINES, {"encoding": "peg", "time_positions": False}, "part between blocks serves single pictures"),
        (["windowed(blocks=1, moments=0)"], {}, "moments must be at least 1, got 0"),
        (["windowed(blocks=1, moments=1.5)"], {}, "moments of windowed must be"),
        (LINES, {"tubelet": 3}, "tubelet must divide the frames of a clip, got 3 for 4"),
    ],
)  # fmt: skip
def test_what_a_hierarchy_of_clips_cannot_be_is_a_sentence(lines, options, sentence, make):
    with pytest.raises(ValueError, match=sentence):
        make(*lines, **options)


@torch.no_grad()
def test_a_window_of_one_moment_needs_no_time_axis(make):
    model = make("windowed(blocks=2, window=3, moments=1)", encoding="rope_mixed")
    clips = random(1, 4, 3, 16, 24)
    changed = clips.clone()
    changed[:, 2] = 0
    (before_BCThw,), (after_BCThw,) = model.forward_features(clips), model.forward_features(changed)
    moved_T = (after_BCThw - before_BCThw).abs().amax((0, 1, 3, 4)) > 0
    assert moved_T.tolist() == [False, False, True, False]


def test_clips_and_pictures_are_not_mistaken(make):
    with pytest.raises(ValueError, match="set to clips of 4 frames, got 6"):
        make()(random(1, 6, 3, 16, 24))
    with pytest.raises(ValueError, match=r"stage 1.*moments=2 is for clips, which a tubelet"):
        HierarchicalClassifier(hierarchy=LINES, **SIZE)
