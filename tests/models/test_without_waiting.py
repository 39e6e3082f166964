"""No forward pass waits for its device: nothing is read back, and nothing but inputs is copied to it.

The device here is torch's `meta`, which every machine has: it knows shapes alone, so whatever reads a number
back fails, and a tensor that comes from the CPU is seen on its way.
"""

import traceback
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from var_pe.models.choice import Choice
from var_pe.models.generator import ToDraw
from var_pe.pyramid import Pyramid

FOLLOWING = [
    "learned(resample=timm) + peg",
    "learned_grid",
    "factorized + alibi",
    "sinusoidal + rope(coordinates=learned)",
    "fourier + rope_mixed(rescale=2)",
    "mixed(learned_grid=0.5, coordinate=0.5, gate=true) + local",
    "relative_bias(resample=swin, spatial_scale=true)",
    "log_cpb",
]
SIZES = [(8, 12), (4, 8)]


class QuickToEnlarge(TorchDispatchMode):
    """Gives the shape of an enlarged map at once: torch finds it by hundreds of operations on this device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.upsample_bicubic2d.default:
            map_BZHW, size = args[:2]
            return map_BZHW.new_empty(*map_BZHW.shape[:2], *size)
        return func(*args, **(kwargs or {}))


class NothingCrosses(QuickToEnlarge):
    """Fails at the first operation whose tensors lie on two devices; plain numbers may come from the host."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = super().__torch_dispatch__(func, types, args, kwargs)
        leaves = [leaf for leaf in tree_leaves((args, kwargs, made)) if isinstance(leaf, Tensor)]
        if len({leaf.device for leaf in leaves if leaf.dim()}) > 1:
            ours = [frame for frame in traceback.extract_stack() if "var_pe/" in frame.filename]
            raise AssertionError(f"{func} copies between devices in {ours[-1].name}: {ours[-1].line}")
        return made


@pytest.fixture(autouse=True)
def _without_autocast(monkeypatch):
    """It does not know this device, and has no part in what waits."""
    monkeypatch.setattr(torch, "autocast", lambda *args, **options: nullcontext())
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *args: False)


def check(model: nn.Module, inputs: list[tuple[Any, ...]]) -> None:
    """In training and in evaluation; sizes met for the first time may bring their positions along."""
    model = model.to("meta")
    given = [tuple(x.to("meta") if isinstance(x, Tensor) else x for x in one) for one in inputs]
    for training in (True, False):
        model.train(training)
        with torch.set_grad_enabled(training):
            for one in given:
                model(*one)
            with NothingCrosses():
                for one in given:
                    result = model(*one)
                    if training:
                        result.sum().backward()


def test_a_generator_does_not_wait(line, make_generator):
    check(make_generator(line, depth=1), [(torch.tensor([0, 1]), torch.zeros(2, 29, 4))])


def test_a_classifier_does_not_wait(line, make_vit):
    check(make_vit(line, depth=1, pool="class_token", registers=1), [(torch.zeros(2, 3, 8, 12),)])


def check_drawing(model: nn.Module, tokenizer: nn.Module, top_k: int, top_p: float) -> None:
    """Twice, since the first drawing may bring positions along; tokens are drawn at every level."""
    key_BL = torch.zeros(2, 30, dtype=torch.int64, device="meta")
    choice = Choice((0.0, 1.0, 2.0, 3.0), (1.0, 1.0, 0.5, 0.5), top_k, top_p, smooth=False)
    wanted = ToDraw(key_BL[:, 0], key_BL, Pyramid.square(1, 2, 3, 4), choice)
    for watched in (QuickToEnlarge(), NothingCrosses()):
        with watched, torch.no_grad():
            walked = model.to("meta").walk(tokenizer.to("meta"), wanted)
    assert [tuple(part.shape) for part in walked] == [(2, 30), (2, 4, 4, 4), ()]


def test_nor_does_a_drawing(line, make_generator, make_tokenizer):
    """So that it can be captured as a CUDA graph."""
    check_drawing(make_generator(line, depth=1), make_tokenizer(), top_k=3, top_p=0.5)


@pytest.mark.parametrize("top_k", [0, 1])
def test_nor_does_a_drawing_of_all_tokens_or_of_the_likeliest(top_k, make_generator, make_tokenizer):
    check_drawing(make_generator(depth=1), make_tokenizer(), top_k, top_p=0.0)


@pytest.mark.parametrize("line", FOLLOWING)
def test_nor_does_a_generator_of_several_pyramids(line, make_generator):
    sizes = [Pyramid.square(1, 2, 3, 4), Pyramid(((1, 1), (2, 3), (3, 4), (4, 6)))]
    labels_B = torch.tensor([0, 1])
    check(make_generator(line, depth=1), [(labels_B, torch.zeros(2, p.num_tokens - 1, 4), p) for p in sizes])


@pytest.mark.parametrize("line", FOLLOWING)
def test_nor_does_a_classifier_of_images_of_any_size(line, make_vit):
    check(make_vit(line, depth=1, dynamic=True), [(torch.zeros(2, 3, *size),) for size in SIZES])


def test_nor_do_patches_of_another_size(make_vit):
    vit = make_vit("none", depth=1, patch_size=4, image_size=(8, 12))
    vit.set_patch_size(2)
    check(vit, [(torch.zeros(2, 3, 4, 6),)])
