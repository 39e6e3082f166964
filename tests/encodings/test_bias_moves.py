"""What biases on scores carry over to other grids, and what their terms and networks say of levels."""

import pytest
import torch
from torch import Tensor, nn

from var_pe.encodings import PositionEncoding, build_encoding
from var_pe.encodings.machinery.level_term import LevelTerm
from var_pe.models.initialisation import initialise
from var_pe.pyramid import Pyramid

OLD = Pyramid(((1, 1), (2, 3), (4, 6)))
LINES = ["relative_bias", "alibi", "local(radius=2)"]  # those with level terms


def drawn(line: str, pyramid: Pyramid = OLD) -> PositionEncoding:
    encoding = build_encoding(line, dim=32, num_heads=4, depth=2, pyramid=pyramid)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in encoding.named_parameters():
            if "log_scale" not in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return encoding


def bias(encoding: PositionEncoding, pyramid: Pyramid, layer: int = 0) -> Tensor:
    context = encoding.prepare(pyramid.positions())
    return encoding.bias(context, context, layer).detach()


# moving


@pytest.mark.parametrize(
    ("grids", "sources"),
    [(((2, 2), (3, 9)), (1, 2)), (((1, 1), (2, 2), (3, 3), (4, 6)), (0, 1, 1, 2)), (((3, 3),), (1,))],
    ids=str,
)
@pytest.mark.parametrize("terms", [1, 2])
def test_a_term_keeps_its_query_level_and_its_key_level(grids, sources, terms):
    """From fine to coarse is another number than from coarse to fine, before and after a move."""
    term, new = LevelTerm(OLD, num_heads=4, terms=terms), Pyramid(grids)
    nn.init.normal_(term.term_NHKK, generator=torch.Generator().manual_seed(0))
    before_NHKK = term.term_NHKK.detach().clone()
    expected_NHKK = torch.empty(terms, 4, len(sources), len(sources))
    for query, old_query in enumerate(sources):
        for key, old_key in enumerate(sources):
            expected_NHKK[:, :, query, key] = before_NHKK[:, :, old_query, old_key]
    here = new.positions()
    assert torch.equal(term.pairs(here, here).term_NHKK, expected_NHKK)  # followed
    term.set_pyramid(new)
    if new.num_levels > 1:
        assert torch.equal(term.term_NHKK, expected_NHKK)
        assert torch.equal(term.pairs(here, here).term_NHKK, expected_NHKK)


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("line", LINES)
def test_what_is_frozen_stays_frozen_and_what_learns_goes_on(line, frozen):
    """Staged unfreezing at a new size: a move must not put a table back among what an optimizer takes."""
    encoding = drawn(line).requires_grad_(not frozen)
    encoding.set_pyramid(Pyramid.square(1, 2, 3, 5), "swin")
    assert [p.requires_grad for p in encoding.parameters()] == [not frozen] * len([*encoding.parameters()])


def test_table_and_terms_are_frozen_apart():
    encoding = drawn("relative_bias")
    encoding.table_NHyx.requires_grad_(False)
    encoding.set_pyramid(Pyramid.square(1, 5), "swin")
    assert (encoding.table_NHyx.requires_grad, encoding.level_term.term_NHKK.requires_grad) == (False, True)


@pytest.mark.parametrize("frozen", [True, False])
def test_new_terms_learn_if_their_table_does(frozen):
    """Terms that come into being with the levels take the table's type and whether it is trained."""
    encoding = drawn("relative_bias", Pyramid.square(4)).to(torch.bfloat16).requires_grad_(not frozen)
    assert encoding.level_term.term_NHKK is None
    encoding.set_pyramid(Pyramid.square(1, 4), "swin")
    term_NHKK = encoding.level_term.term_NHKK
    assert (term_NHKK.requires_grad, term_NHKK.dtype) == (not frozen, torch.bfloat16)


@pytest.mark.parametrize("layer", [0, 1])
@torch.no_grad()
def test_a_broken_table_of_any_layer_does_not_move(layer):
    encoding = drawn("relative_bias")
    encoding.table_NHyx[layer, 3, 2, 1] = torch.nan
    before = {name: value.clone() for name, value in encoding.state_dict().items()}
    with pytest.raises(ValueError, match="the relative_bias table holds NaN or infinite values"):
        encoding.set_pyramid(Pyramid.square(1, 5), "swin")
    after = encoding.state_dict()
    assert all(torch.equal(value.nan_to_num(), after[name].nan_to_num()) for name, value in before.items())


@torch.no_grad()
def test_a_table_that_leaves_its_type_s_range_does_not_move():
    encoding = drawn("relative_bias").half()
    table_NHyx = encoding.table_NHyx.sign_().mul_(65504)
    with pytest.raises(ValueError, match=r"the relative_bias table goes beyond torch.float16 when"):
        encoding.set_pyramid(Pyramid.square(1, 5), "swin")
    assert encoding.table_NHyx is table_NHyx
    assert encoding.pyramid == OLD


def test_a_table_starts_with_swin_s_deviation_and_without_terms():
    encoding = build_encoding(
        "relative_bias(spatial_scale=true)", dim=64, num_heads=8, depth=4, pyramid=Pyramid.square(1, 8)
    )
    initialise(encoding, 0)
    assert encoding.table_NHyx.std().item() == pytest.approx(0.02, rel=0.05)
    assert abs(encoding.table_NHyx.mean().item()) < 0.001
    assert not encoding.level_term.term_NHKK.any()
    assert not encoding.log_scale_NH.any()


@pytest.mark.parametrize(
    ("resample", "rule"),
    [("foo", "is one of timm, torchvision, .*"), ("5", "of relative_bias must be str or null,")],
)
def test_an_unknown_convention_is_named_with_its_setting(resample, rule):
    with pytest.raises(ValueError, match=f"': resample {rule} got "):
        drawn(f"relative_bias(resample={resample})")


# the networks of log_cpb


def coarseness(pyramid: Pyramid, level: int) -> float:
    """log2(n_finest / n_level) / 3, the mean of both axes."""
    logs = [(fine / n) for fine, n in zip(pyramid.finest, pyramid.grids[level], strict=True)]
    return sum(torch.tensor(ratio).log2().item() / 3 for ratio in logs) / 2


@pytest.mark.parametrize("asked", [OLD, Pyramid(((1, 2), (2, 2), (3, 3), (6, 5)))], ids=str)
@pytest.mark.parametrize("layer", [0, 1])
@torch.no_grad()
def test_a_pair_of_levels_gets_its_layer_s_network_of_query_and_key(layer, asked):
    """The query's coarseness comes first; each layer has its own network, and none sees positions."""
    encoding, here = drawn("log_cpb(hidden=8)"), asked.positions()
    encoding.cells.weight2.zero_()  # 16 sigmoid(0) - 8 = 0: levels alone are left
    weight1, bias1, weight2 = (
        w[layer] for w in (encoding.levels.weight1, encoding.levels.bias1, encoding.levels.weight2)
    )
    expected_HKK = torch.empty(4, asked.num_levels, asked.num_levels)
    for query in range(asked.num_levels):
        for key in range(asked.num_levels):
            pair_2 = torch.tensor([coarseness(asked, query), coarseness(asked, key)])
            expected_HKK[:, query, key] = weight2 @ (weight1 @ pair_2 + bias1).relu()
    expected_HLL = expected_HKK[:, here.level_L][:, :, here.level_L]
    torch.testing.assert_close(bias(encoding, asked, layer), expected_HLL, atol=1e-4, rtol=1e-5)
    steps_HKK = (expected_HKK - expected_HKK.transpose(1, 2)).abs()
    assert steps_HKK.amax(0)[~torch.eye(asked.num_levels, dtype=torch.bool)].min() > 0.05  # not symmetric


@torch.no_grad()
def test_displacements_have_their_layer_s_network_too():
    """One network for both would be right in layer 0 and unnoticed after."""
    encoding = drawn("log_cpb(hidden=8)")
    before = [bias(encoding, OLD, layer) for layer in (0, 1)]
    encoding.cells.weight2[1] *= 2
    after = [bias(encoding, OLD, layer) for layer in (0, 1)]
    assert [torch.equal(a, b) for a, b in zip(before, after, strict=True)] == [True, False]
