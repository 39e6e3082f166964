"""Patch kernels in another size answer a resampled patch as they did the patch, and are never worn out."""

import pytest
import torch
from timm.layers import resample_patch_embed

from var_pe.models.patches import build_stem, resample_patch_kernel
from var_pe.models.vit import ViTClassifier
from var_pe.resampling.conventions import interpolate_table

SIZES = [(6, 6), (8, 8), (12, 5), (3, 3), (2, 9)]


def kernel(side: int = 6) -> torch.Tensor:
    return torch.randn(8, 3, side, side, generator=torch.Generator().manual_seed(0))


def images(height: int, width: int) -> torch.Tensor:
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("new", SIZES, ids=str)
def test_timm_s_kernel(new, dtype):
    ours = resample_patch_kernel(kernel().to(dtype), new)
    assert ours.dtype == dtype
    theirs = resample_patch_embed(kernel().to(dtype), list(new))
    tolerance = dict(atol=1e-5, rtol=1e-5) if dtype == torch.float32 else {}
    torch.testing.assert_close(ours, theirs, **tolerance)


@pytest.mark.parametrize("convention", ["timm", "flexivit"])
@pytest.mark.parametrize("new", [(8, 8), (12, 7), (16, 24)], ids=str)
def test_a_larger_kernel_answers_a_larger_patch_as_the_old_one_did(new, convention):
    """Nothing is lost where patches grow: FlexiViT, equation 4."""
    patch_IP = torch.randn(3, 36, generator=torch.Generator().manual_seed(1))
    larger_IN = interpolate_table(patch_IP.T, (6, 6), new, convention).T
    answer_O = (kernel().flatten(2) * patch_IP).sum((1, 2))
    moved_OIN = resample_patch_kernel(kernel(), new, convention).flatten(2)
    torch.testing.assert_close((moved_OIN * larger_IN).sum((1, 2)), answer_O, atol=1e-4, rtol=0)


def test_a_smaller_kernel_answers_on_average_as_well_as_any():
    """Where patches shrink it is the least squares over random patches: no small change does better."""
    generator = torch.Generator().manual_seed(2)
    resize_NP = interpolate_table(torch.eye(36), (6, 6), (3, 3))
    moved_N = resample_patch_kernel(kernel(), (3, 3))[0, 0].flatten()

    def error(kernel_N: torch.Tensor) -> float:
        """Of kernel . B x against old kernel . x, root mean square over white noise x."""
        return (resize_NP.T @ kernel_N - kernel()[0, 0].flatten()).norm().item()

    for _ in range(20):
        assert error(moved_N) < error(moved_N + 0.05 * torch.randn(9, generator=generator))


def test_an_equal_size_gives_back_the_kernel_itself():
    weight = kernel()
    assert resample_patch_kernel(weight, (6, 6)) is weight


def test_a_kernel_of_patches_that_grew_and_shrank_is_lost_hence_the_stored_one_stays(make_vit, make_loud):
    """Chained, 6 to 2 to 6 loses most; a classifier always starts from what is stored."""
    chained = resample_patch_kernel(resample_patch_kernel(kernel(), (2, 2)), (6, 6))
    assert (chained - kernel()).norm() > 0.3 * kernel().norm()
    vit = make_loud(make_vit("sinusoidal", patch_size=6, image_size=(24, 36)))
    with torch.no_grad():
        before = vit(images(24, 36))
        for patch_size in [2, 9, 1, 12]:
            vit.set_patch_size(patch_size)
            vit(images(4 * patch_size, 6 * patch_size))
        vit.set_patch_size(6)
        assert torch.equal(vit(images(24, 36)), before)


@torch.no_grad()
def test_a_vit_with_other_patches_sees_nearly_the_same_in_a_larger_picture(make_vit, make_loud, tmp_path):
    """Each patch enlarged by itself, so that the kernel's exactness shows; and saved with its new size."""
    vit = make_loud(make_vit("learned", patch_size=4, image_size=(8, 12)))
    small = images(8, 12)
    patches_RC = small.unfold(2, 4, 4).unfold(3, 4, 4).reshape(-1, 16).T  # a column a patch
    larger_RC = interpolate_table(patches_RC, (4, 4), (8, 8))
    large = larger_RC.T.reshape(2, 3, 2, 3, 8, 8).transpose(3, 4).reshape(2, 3, 16, 24)
    expected = vit(small)
    vit.set_patch_size(8)
    torch.testing.assert_close(vit(large), expected, atol=1e-4, rtol=0)
    assert vit.patch_embed.weight.shape[-1] == 4
    vit.save_pretrained(tmp_path)
    loaded = ViTClassifier.from_pretrained(tmp_path)
    assert torch.equal(loaded(large), vit(large))
    loaded.set_patch_size(4)
    assert torch.equal(loaded(small), expected)


def test_images_keep_their_size_when_the_input_size_is_set_after_the_patches(make_vit):
    vit = make_vit("learned", patch_size=4, image_size=(8, 12))
    vit.set_patch_size(2)
    assert (vit.image_size, vit.pyramid.finest) == ((4, 6), (2, 3))
    vit.set_input_size((8, 12), resample="timm")
    assert vit(images(8, 12)).shape == (2, 3)
    assert vit.pyramid.finest == (4, 6)


def test_training_with_any_patch_size_trains_the_stored_kernel(make_vit):
    """FlexiViT's training: another size each step, the table follows too; nothing is kept meanwhile."""
    vit = make_vit("learned(resample=timm)", patch_size=4, image_size=(8, 12), dynamic=True).train()
    optimizer = torch.optim.SGD(vit.parameters(), lr=0.1)
    for patch_size in [2, 4, 1, 8]:
        vit.set_patch_size(patch_size)
        before = vit.patch_embed.weight.clone()
        optimizer.zero_grad()
        vit(images(8, 24)).square().sum().backward()
        optimizer.step()
        assert vit.patch_embed.weight.grad.any()
        assert not torch.equal(vit.patch_embed.weight, before)
        assert len(vit.patch_embed.resampled) == len(vit.position_encoding.resampled) == 0
    with torch.no_grad():
        vit(images(8, 24))
        assert len(vit.patch_embed.resampled) == len(vit.position_encoding.resampled) == 1
        moved = vit.patch_embed.weight.mul_(2).clone()
        expected = resample_patch_kernel(moved, (8, 8))
        shown = torch.nn.functional.conv2d(images(8, 24), expected, vit.patch_embed.bias, stride=8)
        torch.testing.assert_close(vit.patch_embed(images(8, 24)), shown)


@pytest.mark.slow
def test_other_patches_compile_as_one_graph(make_vit, make_loud):
    """The pseudo-inverse is a constant of the graph, not computed in each pass."""
    torch._dynamo.reset()
    vit = make_loud(make_vit("none", patch_size=4, image_size=(8, 12), depth=1))
    vit.set_patch_size(2)
    compiled, grads = torch.compile(vit, fullgraph=True, backend="aot_eager"), []
    for model in (vit, compiled):
        vit.zero_grad()
        model(images(4, 6)).square().sum().backward()
        grads.append(vit.patch_embed.weight.grad.clone())
    torch.testing.assert_close(*grads)


def test_a_convolutional_stem_keeps_its_patch_size(make_vit):
    vit = make_vit("none", stem="convolutions", patch_size=2)
    with pytest.raises(ValueError, match="stem convolutions cannot change its patch size; stem patch can"):
        vit.set_patch_size(4)
    with pytest.raises(ValueError, match="cannot change its patch size from 4 to 2"):
        build_stem("convolutions", 3, 32, 2, kernel=4)
    with pytest.raises(ValueError, match="patch_size must be at least 1, got 0"):
        make_vit("none").set_patch_size(0)
