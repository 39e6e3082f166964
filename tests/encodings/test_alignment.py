"""`unit=query`: in one call of attention all positions are in cells of the level that asks."""

import pytest
import torch
from torch import Tensor

from tests.encodings.test_rope import LADDER, NESTED, built, vectors
from var_pe.encodings.base import PositionEncoding
from var_pe.encodings.machinery.turn import Angles
from var_pe.models.attention import all_levels, attend
from var_pe.pyramid import Pyramid

ALIGNED = ["rope(unit=query)", "rope_mixed(unit=query)", "harope(unit=query)", "liere(unit=query)"]
BY_LEVEL = ["rope + rope(unit=query)", "rope(bands=resolved)", "rope(remap=levels, trained=(4, 5), base=2)"]


def scores(
    encoding: PositionEncoding, pyramid: Pyramid, level: int, q_BHQD: Tensor, k_BHKD: Tensor
) -> Tensor:
    """What the queries of a level find in the keys of it and of all coarser ones, (B, H, Q, K)."""
    here, seen = pyramid.positions().only(level, level + 1), pyramid.positions().only(0, level + 1)
    q_BHQD = encoding.rotate(q_BHQD, encoding.prepare(here), 0)
    k_BHKD = encoding.rotate(k_BHKD, encoding.prepare(seen.as_keys_of(level)), 0)
    return (q_BHQD @ k_BHKD.mT).detach()


@pytest.mark.parametrize("pyramid", [LADDER, NESTED], ids=["ladder", "nested"])
def test_angles_are_of_centres_in_cells_of_the_level_that_asks(pyramid):
    """The article's definition, from centres in the image: q - k in units of the queries' stride."""
    encoding = built("rope(unit=query)", pyramid)
    centre_L2 = (pyramid.positions().yx_L2 + 1) / 2
    for level, grid in enumerate(pyramid.grids):
        here, seen = pyramid.positions().only(level, level + 1), pyramid.positions().only(0, level + 1)
        for number, angles in (
            (pyramid.spans[level], encoding.prepare(here)),
            (slice(seen.num_tokens), encoding.prepare(seen.as_keys_of(level))),
        ):
            in_cells_L2 = centre_L2[number] * torch.tensor(grid)
            expected_LP = (in_cells_L2[:, :, None] * encoding.frequencies("cpu")).flatten(1)
            torch.testing.assert_close(angles.angle, expected_LP)


@pytest.mark.parametrize("line", ALIGNED)
def test_a_step_of_one_cell_says_the_same_at_every_level(line):
    """The same query and key, one cell apart: under `cells` wide cells turn them further."""
    q_BH1D, k_BH1D = vectors(1, seed=1), vectors(1, seed=2)

    def found(line: str) -> Tensor:
        encoding = built(line, NESTED)
        steps = []
        for level, (rows, columns) in list(enumerate(NESTED.grids))[1:]:
            tokens = rows * columns
            keys = NESTED.positions().only(0, level + 1).num_tokens
            given = q_BH1D.expand(-1, -1, tokens, -1), k_BH1D.expand(-1, -1, keys, -1)
            of_level = scores(encoding, NESTED, level, *given)[..., -tokens:]
            steps.append(of_level[..., 0, [1, columns, columns + 1]])
        return torch.stack(steps)

    aligned, plain = found(line), found(line.replace("query", "cells"))
    torch.testing.assert_close(aligned, aligned[:1].expand_as(aligned), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(aligned[-1], plain[-1], atol=1e-5, rtol=1e-5)
    assert (plain - plain[:1]).abs().max() > 1


@pytest.mark.parametrize("line", [*ALIGNED, *BY_LEVEL])
def test_a_pass_is_its_levels_one_after_another(line):
    """The calls that a whole pass is cut into meet the keys that a level meets when it is drawn."""
    encoding = built(line)
    q_BHLD, k_BHLD, v_BHLD = (vectors(LADDER.num_tokens, seed=seed) for seed in range(3))
    context = all_levels(encoding, LADDER.positions(), "fused")
    assert context.turns_keys
    turned_BHLD = context.rotate(q_BHLD, 0)
    whole_BLHD = attend(turned_BHLD, k_BHLD, v_BHLD, context, 0, dropout=0.0, scale=1.0)
    for level, span in enumerate(LADDER.spans):
        seen = slice(span.stop)
        scores_BHQK = scores(encoding, LADDER, level, q_BHLD[:, :, span], k_BHLD[:, :, seen])
        expected = scores_BHQK.softmax(-1) @ v_BHLD[:, :, seen]
        torch.testing.assert_close(whole_BLHD[:, span].transpose(1, 2), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("line", ALIGNED)
def test_on_one_grid_nothing_changes(line, make_vit):
    images = torch.rand(2, 3, 8, 12, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(make_vit(line)(images), make_vit(line.replace("query", "cells"))(images))


def test_keys_of_a_level_are_another_code_for_each_level_that_asks():
    """So they cannot be kept turned."""
    encoding = built("rope(unit=query)")
    coarse = LADDER.positions().only(1, 2)
    first, second = (encoding.prepare(coarse.as_keys_of(level)) for level in (1, 3))
    assert isinstance(first, Angles)
    assert not torch.allclose(first.angle, second.angle)


def test_what_does_not_go_with_it_is_named():
    for options, sentence in (
        ("coordinates=index", "counts cells of each level, so it does not go with unit=query"),
        ("shift=0.1", "shift, jitter and rescale are drawn once for all tokens"),
        ("jitter=1.5", "shift, jitter and rescale are drawn once for all tokens"),
        ("rescale=2", "shift, jitter and rescale are drawn once for all tokens"),
    ):
        with pytest.raises(ValueError, match=sentence):
            built(f"rope(unit=query, {options})")
    with pytest.raises(ValueError, match="pope: unit is cells or image, got 'query'"):
        built("pope(unit=query)")
