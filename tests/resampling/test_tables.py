"""What every encoding with a table owes: it knows its grid, refuses what is broken, forgets in time."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.conftest import MEMBERS
from var_pe.encodings import PositionEncoding, build_encoding
from var_pe.models.generator import VARTransformer
from var_pe.models.initialisation import initialise
from var_pe.models.vit import ViTClassifier
from var_pe.pyramid import Pyramid

HERE, THERE = Pyramid(((14, 14),)), Pyramid(((7, 28),))
FOLLOWING = ["learned(resample=timm)", "learned_grid(resample=timm)", "relative_bias(resample=swin)"]
MOVING = ["learned", "relative_bias", "learned + relative_bias"]


def built(line: str, pyramid: Pyramid = HERE, seed: int = 0) -> PositionEncoding:
    encoding = build_encoding(line, dim=8, num_heads=2, depth=1, pyramid=pyramid)
    initialise(encoding, seed)
    return encoding


def answer(encoding: PositionEncoding, pyramid: Pyramid = THERE) -> Tensor:
    """The code of all tokens, or what is added to all their scores."""
    context = encoding.prepare(pyramid.positions())
    return encoding.bias(context, context, 0) if encoding.uses("bias") else context


def table(encoding: PositionEncoding) -> torch.nn.Parameter:
    (parameter,) = encoding.parameters()
    return parameter


# another grid


@pytest.mark.parametrize("line", FOLLOWING)
def test_as_many_tokens_in_another_grid_get_another_table(line):
    """196 of 14x14 and 196 of 7x28: read as they lie, nearly every cell would be another one's."""
    encoding = built(line)
    there = answer(encoding)
    assert there.shape == answer(encoding, HERE).shape
    assert (there - answer(encoding, HERE)).abs().mean() > 0.1 * there.abs().mean()
    if line.startswith("learned("):
        moved = built("learned")
        moved.set_pyramid(THERE, "timm")
        assert torch.equal(there, answer(moved))


@pytest.mark.parametrize("line", FOLLOWING)
def test_a_state_without_its_grid_is_refused(line):
    """Nothing guesses 14x14 of 196 rows, and no other rectangle either."""
    state = built(line).state_dict()
    del state["grids_K2"]
    with pytest.raises(RuntimeError, match=r"Missing key.*grids_K2"):
        built(line).load_state_dict(state)


@pytest.mark.parametrize(
    "line",
    [
        "learned",
        "relative_bias",
        "alibi",
    ],
)
def test_a_state_of_other_levels_is_refused(line):
    """1-4 and 2-4: of a relative table all shapes are the same, and its level terms mean other levels."""
    encoding, other = built(line, Pyramid.square(2, 4)), built(line, Pyramid.square(1, 4))
    with pytest.raises(RuntimeError, match="stored for the grids 1-4, this model's are 2-4"):
        encoding.load_state_dict(other.state_dict())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("line", MOVING)
@torch.no_grad()
def test_a_broken_source_is_named_and_nothing_moves(line, value):
    """NaNs after a resample come from the table; one sentence says which, before they spread."""
    encoding = built(line)
    broken = list(encoding.parameters())[-1]
    broken.flatten()[5] = value
    before = {name: tensor.clone() for name, tensor in encoding.state_dict().items()}
    name = "relative_bias" if "relative_bias" in line else "learned"
    with pytest.raises(ValueError, match=f"the {name} table holds NaN or infinite values"):
        encoding.set_pyramid(THERE, "timm")
    if "+" not in line:
        assert all(
            torch.equal(before[n].nan_to_num(), t.nan_to_num()) for n, t in encoding.state_dict().items()
        )


# what is remembered


@pytest.mark.parametrize("line", FOLLOWING)
@torch.no_grad()
def test_few_grids_are_remembered_and_the_last_ones(line):
    encoding = built(line, Pyramid.square(4))
    for side in range(5, 25):
        answer(encoding, Pyramid.square(side))
    assert len(encoding.resampled) == 8
    assert list(encoding.resampled.results) == [Pyramid.square(side) for side in range(17, 25)]


def load(encoding: PositionEncoding) -> None:
    encoding.load_state_dict(
        built("relative_bias" if encoding.uses("bias") else "learned", seed=1).state_dict()
    )


def step(encoding: PositionEncoding) -> None:
    optimizer = torch.optim.AdamW(encoding.parameters(), lr=0.1)
    table(encoding).grad = torch.ones_like(table(encoding))
    optimizer.step()


def change_the_type(encoding: PositionEncoding) -> None:
    encoding.to(torch.bfloat16)


def write(encoding: PositionEncoding) -> None:
    table(encoding).mul_(3)


@pytest.mark.parametrize("change", [load, step, change_the_type, write])
@pytest.mark.parametrize("line", FOLLOWING)
@torch.no_grad()
def test_what_is_remembered_goes_with_the_weights(line, change: Callable[[PositionEncoding], None]):
    encoding = built(line)
    before = answer(encoding).clone()
    assert len(encoding.resampled) == 1
    change(encoding)
    after, fresh = answer(encoding), built(line).to(table(encoding).dtype)
    fresh.load_state_dict(encoding.state_dict())
    assert torch.equal(after, answer(fresh))
    assert not torch.equal(after.float(), before.float())
    assert len(encoding.resampled) == 1


@pytest.mark.parametrize("line", FOLLOWING)
def test_nothing_is_remembered_of_a_table_that_is_trained(line):
    """Not even what evaluation left behind: its graph would be missing, or of the step before."""
    encoding = built(line)
    with torch.no_grad():
        answer(encoding)
    for _ in range(2):
        encoding.zero_grad()
        answer(encoding).square().sum().backward()
        assert table(encoding).grad.any()
        assert len(encoding.resampled) == 0
    encoding.requires_grad_(False)
    assert answer(encoding) is not None
    assert len(encoding.resampled) == 1  # a frozen one is remembered, whatever is trained around it


@pytest.mark.parametrize(
    "line", ["learned + relative_bias", "mixed(learned=0.5, learned_grid=0.5) + relative_bias"]
)
def test_all_parts_move_or_none(line):
    """A broken table in the second part leaves the first where it was, its parameter the optimizer's."""
    encoding = built(line, Pyramid(((4, 4),)))
    before = dict(encoding.named_parameters())
    with torch.no_grad():
        encoding.parts[1].table_NHyx[0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="relative_bias table"):
        encoding.set_pyramid(Pyramid(((4, 6),)), "timm")
    after = dict(encoding.named_parameters())
    assert after.keys() == before.keys()
    assert all(after[name] is before[name] for name in after)


KEPT = ["learned_grid", "factorized", "fourier", "mixed(factorized=0.5, learned=0.5)", "fourier + rope"]
LEVELS = [((1, 2), (2, 4), (4, 8)), ((1, 1), (2, 2), (4, 4), (6, 6)), ((1, 1), (2, 2), (9, 9))]


@torch.no_grad()
@pytest.mark.parametrize("line", [*MEMBERS, *KEPT])
def test_a_moved_classifier_is_saved_and_loaded_under_every_encoding(line, make_vit, make_loud, tmp_path):
    """Twice moved: parameters that stay are as large as the first grid made them, the rest as the last."""
    vit, images = make_loud(make_vit(line, image_size=(8, 12))), torch.randn(2, 3, 24, 20)
    vit.set_input_size((16, 12), "timm")
    vit.set_input_size((24, 20), "timm")
    moved = vit(images)
    vit.save_pretrained(tmp_path)
    torch.testing.assert_close(ViTClassifier.from_pretrained(tmp_path)(images), moved)


@torch.no_grad()
@pytest.mark.parametrize("line", [*MEMBERS, *KEPT])
def test_a_moved_classifier_is_built_again_from_its_config(line, make_loud):
    """Also where the size, and the patch, had been left at their defaults."""
    vit = make_loud(ViTClassifier(encoding=line, dim=32, depth=1, num_heads=2)).eval()
    vit.set_input_size((24, 16), "timm")
    vit.set_patch_size(8)
    again, images = ViTClassifier.from_config(vit.config).eval(), torch.randn(1, 3, 48, 32)
    assert again.image_size == vit.image_size == (48, 32)
    again.load_state_dict(vit.state_dict())
    torch.testing.assert_close(again(images), vit(images))


@torch.no_grad()
@pytest.mark.parametrize("levels", LEVELS, ids=str)
@pytest.mark.parametrize("line", [*MEMBERS, *KEPT])
def test_a_moved_generator_is_saved_and_loaded_under_every_encoding(
    line, levels, make_generator, make_loud, tmp_path
):
    model, new = make_loud(make_generator(line, level_embedding="sinusoidal")), Pyramid(levels)
    model.set_pyramid(new, "timm")
    inputs_BLZ = torch.randn(2, new.num_tokens - new.spans[0].stop, 4)
    moved_BLV = model(torch.tensor([0, 1]), inputs_BLZ)
    model.save_pretrained(tmp_path)
    loaded_BLV = VARTransformer.from_pretrained(tmp_path)(torch.tensor([0, 1]), inputs_BLZ)
    torch.testing.assert_close(loaded_BLV, moved_BLV)


@pytest.mark.parametrize("name", ["rope", "rope_mixed"])
def test_learned_coordinates_refuse_other_levels_before_anything_moves(name, make_generator):
    model = make_generator(f"learned + {name}(coordinates=learned)", level_embedding="sinusoidal")
    table_LC = model.position_encoding.parts[0].table_LC
    with pytest.raises(ValueError, match="has 4 levels, asked for 3"):
        model.set_pyramid(Pyramid.square(1, 2, 4), "timm")
    assert model.position_encoding.parts[0].table_LC is table_LC
    assert model.pyramid == Pyramid.square(1, 2, 3, 4)


@torch.no_grad()
def test_a_learned_table_that_leaves_its_type_s_range_does_not_move():
    encoding = build_encoding("learned", dim=8, num_heads=2, depth=1, pyramid=Pyramid.square(4))
    initialise(encoding, 0)
    encoding.half().table_LC.sign_().mul_(65504)
    before = encoding.table_LC
    with pytest.raises(ValueError, match=r"the learned table goes beyond torch.float16 when"):
        encoding.set_pyramid(Pyramid.square(7), "swin")
    assert encoding.table_LC is before
