"""Convolutions between blocks: they move with the picture, know its border, and keep levels apart."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from var_pe.encodings import PositionEncoding, build_encoding
from var_pe.models.initialisation import initialise
from var_pe.pyramid import Grid, Pyramid

LADDER = Pyramid(((1, 1), (2, 3), (6, 7)))
LINES = ["peg", "pyramid_peg", "pyramid_peg(kernels=(2, 6))"]
REACH = {"peg": 1, "pyramid_peg": 2, "pyramid_peg(kernels=(2, 6))": 3}  # tokens, of the widest kernel


def built(line: str, dim: int = 8, depth: int = 3) -> PositionEncoding:
    encoding = build_encoding(line, dim=dim, num_heads=2, depth=depth, pyramid=LADDER)
    initialise(encoding, 0)
    return encoding


def refined(encoding: PositionEncoding, x_BLC: Tensor, pyramid: Pyramid = LADDER, layer: int = 0) -> Tensor:
    return encoding.refine(x_BLC, encoding.prepare(pyramid.positions()), layer)


def on_map(encoding: PositionEncoding, map_BhwC: Tensor) -> Tensor:
    """`refined` for one level, as a map."""
    grid: Grid = (map_BhwC.shape[1], map_BhwC.shape[2])
    return refined(encoding, map_BhwC.flatten(1, 2), Pyramid((grid,))).unflatten(1, grid).detach()


def tokens(pyramid: Pyramid = LADDER, dim: int = 8) -> Tensor:
    return torch.randn(2, pyramid.num_tokens, dim, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("line", [*LINES, "pyramid_peg(kernels=(1, 3, 4))"])
def test_it_is_the_sum_of_torch_s_depthwise_convolutions_plus_identity(line):
    """One convolution does it, by a kernel that is the sum of all."""
    encoding, x_BLC = built(line), tokens()
    expected = []
    for span, grid in zip(LADDER.spans, LADDER.grids, strict=True):
        map_BChw = x_BLC[:, span].transpose(1, 2).unflatten(2, grid)
        total_BChw = map_BChw
        for kernel in encoding.kernels:
            weight_C1kk = getattr(encoding, f"kernel{kernel}_NC1kk")[0].detach()
            # Its "same" padding puts the odd zero of an even kernel last, as the docstring has it.
            total_BChw = total_BChw + F.conv2d(map_BChw, weight_C1kk, padding="same", groups=8)
        expected.append(total_BChw.flatten(2).transpose(1, 2))
    torch.testing.assert_close(refined(encoding, x_BLC), torch.cat(expected, 1))


@pytest.mark.parametrize("line", LINES)
def test_inside_it_moves_with_the_picture(line):
    """A window of a larger map is refined alike wherever it lies, away from the border."""
    encoding, reach = built(line), REACH[line]
    map_BhwC = tokens(Pyramid(((12, 13),))).unflatten(1, (12, 13))
    whole, part = on_map(encoding, map_BhwC), on_map(encoding, map_BhwC[:, 1:11, 2:12])
    inner = slice(reach, 10 - reach)
    torch.testing.assert_close(part[:, inner, inner], whole[:, 1:11, 2:12][:, inner, inner])
    assert not torch.allclose(part[:, 0], whole[:, 1, 2:12], atol=1e-2)


@pytest.mark.parametrize("line", LINES)
def test_zero_padding_tells_of_the_border(line):
    """A constant map stays constant inside and changes at the border; repeated edges would hide it."""
    encoding, constant_BhwC = built(line), torch.ones(1, 9, 9, 8)
    map_BhwC, middle_C = on_map(encoding, constant_BhwC), on_map(encoding, constant_BhwC)[0, 4, 4]
    torch.testing.assert_close(map_BhwC[0, 3:6, 3:6], middle_C.expand(3, 3, 8))
    assert (map_BhwC[0, 0] - middle_C).abs().max(-1).values.min() > 1e-2
    weight_C1kk = getattr(encoding, f"kernel{encoding.kernels[0]}_NC1kk")[0]
    k = weight_C1kk.shape[-1]
    edges = F.pad(constant_BhwC.movedim(-1, 1), [(k - 1) // 2, k // 2] * 2, mode="replicate")
    hidden = F.conv2d(edges, weight_C1kk, groups=8)
    torch.testing.assert_close(hidden, hidden[:, :, 4:5, 4:5].expand_as(hidden))


@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 8, 16])
@pytest.mark.parametrize("grid", [(14, 14), (1, 1), (3, 8)], ids=str)
def test_even_kernels_keep_the_grid_s_size(kernel, grid):
    """k // 2 zeros on both sides make 15 x 15 of 14 x 14."""
    pyramid = Pyramid((grid,))
    assert refined(built(f"pyramid_peg(kernels={kernel})"), tokens(pyramid), pyramid).shape == (
        2,
        pyramid.num_tokens,
        8,
    )


def test_an_even_kernel_lies_as_its_docstring_says():
    """One token farther right and down: (k - 1) // 2 zeros before, k // 2 behind."""
    encoding, map_BhwC = built("pyramid_peg(kernels=4)"), torch.zeros(1, 9, 9, 8)
    map_BhwC[0, 4, 4] = 1
    touched = (on_map(encoding, map_BhwC)[0] - map_BhwC[0]).abs().sum(-1).nonzero()
    assert touched.min(0).values.tolist() == [2, 2]  # the tokens that see (4, 4) ...
    assert touched.max(0).values.tolist() == [5, 5]  # ... lie two before it and one behind


@pytest.mark.parametrize("line", LINES)
def test_no_level_leaks_into_another(line):
    encoding, x_BLC = built(line), tokens().requires_grad_()
    for span in LADDER.spans:
        (grad_BLC,) = torch.autograd.grad(refined(encoding, x_BLC)[:, span].square().sum(), x_BLC)
        assert grad_BLC[:, span].abs().sum(-1).all()
        grad_BLC[:, span] = 0
        assert not grad_BLC.any()


@pytest.mark.parametrize("line", LINES)
def test_a_level_alone_is_refined_as_among_the_others(line):
    """What the generator's cache asks for."""
    encoding, x_BLC, here = built(line), tokens(), LADDER.positions()
    whole_BLC = refined(encoding, x_BLC)
    for level, span in enumerate(LADDER.spans):
        alone = encoding.refine(x_BLC[:, span], encoding.prepare(here.only(level, level + 1)), 0)
        torch.testing.assert_close(alone, whole_BLC[:, span])


@pytest.mark.parametrize("line", ["peg(init=zero)", "pyramid_peg(init=zero, after=(0, 1, 2))"])
def test_from_zero_it_starts_as_the_identity(line):
    encoding, x_BLC = built(line), tokens()
    assert all(torch.equal(refined(encoding, x_BLC, layer=layer), x_BLC) for layer in range(3))
    refined(encoding, x_BLC).square().sum().backward()
    assert all(p.grad.any() for p in encoding.parameters())


@pytest.mark.parametrize(("after", "acts"), [("0", {0}), ("2", {2}), ("(0, 2)", {0, 2})])
def test_it_acts_after_the_chosen_blocks_only(after, acts):
    encoding, x_BLC = built(f"peg(after={after})"), tokens()
    results = [refined(encoding, x_BLC, layer=layer).detach() for layer in range(3)]
    assert {layer for layer, result in enumerate(results) if not torch.equal(result, x_BLC)} == acts
    chosen = [results[layer] for layer in sorted(acts)]
    assert len(chosen) == 1 or not torch.allclose(chosen[0], chosen[1])  # kernels of their own


@pytest.mark.parametrize("line", LINES)
def test_prefix_tokens_are_left_alone(line, make_vit, monkeypatch):
    """They have no position on the map: one among the patches would shift every row."""
    vit, seen = make_vit(line, registers=3), []
    refine = vit.position_encoding.refine
    monkeypatch.setattr(
        vit.position_encoding, "refine", lambda x, context, layer: seen.append(x) or refine(x, context, layer)
    )
    leaving, entering = [], []
    vit.blocks[0].register_forward_hook(lambda module, inputs, output: leaving.append(output))
    vit.blocks[1].register_forward_pre_hook(lambda module, inputs: entering.append(inputs[0]))
    vit(torch.rand(2, 3, 8, 12))
    assert seen[0].shape == (2, 24, 32)
    assert torch.equal(entering[0][:, :3], leaving[0][:, :3])
    assert not torch.allclose(entering[0][:, 3:], leaving[0][:, 3:], atol=1e-3)


def test_it_has_the_paper_s_number_of_weights():
    """CPVT: 1728 for 192 channels, against 37 632 in the table that it replaces."""
    assert sum(p.numel() for p in built("peg", dim=192).parameters()) == 1728
    assert sum(p.numel() for p in built("pyramid_peg", dim=192).parameters()) == 192 * (9 + 16 + 25)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("peg(after=3)", r"after takes blocks in 0..2, each once, got 3"),
        ("peg(after=(0, 0))", r"each once, got \(0, 0\)"),
        ("peg(after=first)", r"after of peg must be int or list of int, got first"),
        ("peg(init=ones)", "init is one of random, zero, got 'ones'"),
        ("pyramid_peg(kernels=(3, 3))", r"sides from 1 to 255, each once, got \(3, 3\)"),
        ("pyramid_peg(kernels=0)", "sides from 1 to 255, each once, got 0"),
    ],
)
def test_wrong_options_are_named(line, sentence):
    with pytest.raises(ValueError, match=sentence):
        built(line)
