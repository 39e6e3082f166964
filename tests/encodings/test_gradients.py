"""Every derivative of every encoding, by its parameters and its tokens, against finite differences."""

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck
from torch.func import functional_call

from var_pe import pyramid as geometry
from var_pe.encodings import PositionEncoding, build_encoding
from var_pe.encodings.base import HOOKS
from var_pe.encodings.machinery import coordinates
from var_pe.models import patches
from var_pe.models.initialisation import initialise
from var_pe.pyramid import Pyramid
from var_pe.resampling.conventions import CONVENTIONS

LADDER = Pyramid(((1, 1), (2, 2), (2, 3)))
OTHER = Pyramid(((1, 1), (3, 2), (3, 4)))
WIDTH, HEADS = 8, 2
OPTIONS = [
    "relative_bias(spatial_scale=true)",
    "rope_mixed(coordinates=learned, unit=image)",
    "peg(after=(0, 1))",
    "rope_mixed(polar=true)",
    "liere(commuting=true)",
    "pape(isotropic=true)",
    "irpe(on=both, values=true)",
]
FOLLOWING = [
    *(f"learned(resample={convention})" for convention in CONVENTIONS),
    "learned_grid(grid=(3, 5), resample=timm)",
    "relative_bias(resample=swin, spatial_scale=true)",
    "factorized",
    "log_cpb",
]


@pytest.fixture(autouse=True)
def _in_float64(monkeypatch):
    """What asks for float32 gets float64: in float32, finite differences tell three digits at best."""
    kept = (geometry.positions_on, coordinates.level_maps, patches.inverse_resize_on)
    for remembered in kept:
        remembered.cache_clear()
    monkeypatch.setattr(torch, "float32", torch.float64)
    monkeypatch.setattr(Tensor, "float", Tensor.double)
    torch.set_default_dtype(torch.float64)
    yield
    monkeypatch.undo()
    torch.set_default_dtype(torch.float32)
    for remembered in kept:
        remembered.cache_clear()


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Hook(nn.Module):
    """One hook of an encoding as a function of parameters and tokens, after the last block it acts on."""

    def __init__(self, encoding: PositionEncoding, name: str, pyramid: Pyramid) -> None:
        super().__init__()
        self.encoding, self.name, self.positions = encoding, name, pyramid.positions()
        self.layer = max(getattr(encoding, "after", (1,)))

    def tokens(self) -> Tensor:
        length = self.positions.num_tokens
        of_heads = self.name in ("remap", "rotate", "products", "values")
        return noise(1, HEADS, length, WIDTH // HEADS) if of_heads else noise(1, length, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        context = self.encoding.prepare(self.positions)
        if self.name == "embed":
            return self.encoding.embed(x, context)
        if self.name == "bias":
            bias_HQK = self.encoding.bias(context, context, self.layer)
            return bias_HQK.masked_fill(bias_HQK.isneginf(), 0.0) + x.sum()
        if self.name == "remap":
            return torch.cat(self.encoding.remap(x, 0.5 * x, context, self.layer), dim=-1)
        if self.name == "products":
            return self.encoding.products(x, x.flip(2), context, context, self.layer)
        if self.name == "values":
            return self.encoding.values((x @ x.mT).softmax(-1), context, context, self.layer)
        return getattr(self.encoding, self.name)(x, context, self.layer)


def check(line: str, pyramid: Pyramid) -> None:
    encoding = build_encoding(line, dim=WIDTH, num_heads=HEADS, depth=2, pyramid=LADDER).double()
    initialise(encoding, 0)
    with torch.no_grad():  # off the starts, where a bilinear look-up has a kink and a gate's twin no slope
        for seed, parameter in enumerate(encoding.parameters()):
            parameter.add_(0.3 * noise(*parameter.shape, seed=seed))
    for name in HOOKS:
        hook = Hook(encoding, name, pyramid)
        parameters = dict(hook.named_parameters())

        def call(x: Tensor, *values: Tensor, hook: Hook = hook, names: tuple = tuple(parameters)) -> Tensor:
            return functional_call(hook, dict(zip(names, values, strict=True)), (x,))

        inputs = [hook.tokens(), *(parameter.detach() for parameter in parameters.values())]
        if encoding.uses(name):
            assert gradcheck(call, [tensor.requires_grad_() for tensor in inputs], fast_mode=True), name


def test_every_hook_has_the_gradient_of_what_it_computes(line):
    check(line, LADDER)


@pytest.mark.parametrize("line", OPTIONS)
def test_under_other_options_too(line):
    check(line, LADDER)


@pytest.mark.parametrize("line", FOLLOWING)
def test_what_follows_another_pyramid_has_the_gradient_of_what_it_becomes(line):
    check(line, OTHER)


@pytest.mark.parametrize("new", [(4, 4), (2, 2), (1, 5)], ids=str)
def test_a_patch_kernel_in_another_size_has_the_gradient_of_the_stored_one(new):
    kernel_OIhw = noise(2, 1, 3, 3).requires_grad_()
    assert gradcheck(lambda kernel: patches.resample_patch_kernel(kernel, new), [kernel_OIhw])
