"""Other libraries' numbers as they were recorded: equality holds where these are missing or have changed.

What was recorded, and how to do it again, is in golden/conventions.py; the live comparisons are in the tests
of each encoding.
"""

import runpy
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from var_pe.encodings import PositionEncoding, build_encoding
from var_pe.encodings.log_cpb import log_coordinates
from var_pe.models.patches import resample_patch_kernel
from var_pe.pyramid import Grid, Pyramid
from var_pe.resampling.conventions import CONVENTIONS, Convention, resample_table

FILE = Path(__file__).parents[1] / "golden" / "conventions.safetensors"
NUMBERS = load_file(FILE)
NEAR = dict(atol=1e-5, rtol=0)
OURS: dict[str, str | Convention] = {name: name for name in CONVENTIONS}
OURS["torchvision_bilinear"] = Convention("bilinear", align_corners=True)
SAME = [{"timm", "dinov2_reg"}, {"big_vision", "torchvision_bilinear"}]  # one formula, two names


def keys(*kinds: str) -> list[str]:
    return [key for key in sorted(NUMBERS) if key.split("/")[0] in kinds]


def grid(text: str) -> Grid:
    h, w = text.split("x")
    return int(h), int(w)


def moved(key: str, convention: str | Convention) -> Tensor:
    _, old, new, prefix = key.split("/")
    table_LC = NUMBERS[f"table/{old}"][5 - int(prefix) :]
    return resample_table(table_LC, grid(old), grid(new), convention, int(prefix))


def built(line: str, shape: Grid, dim: int = 16) -> PositionEncoding:
    return build_encoding(line, dim=dim, num_heads=2, depth=2, pyramid=Pyramid((shape,)))


@pytest.mark.parametrize("key", keys(*OURS))
def test_a_table_is_moved_as_it_was_when_this_was_recorded(key):
    """And no other convention gives these numbers: a case that cannot tell them apart proves nothing."""
    name = key.split("/")[0]
    torch.testing.assert_close(moved(key, OURS[name]), NUMBERS[key], **NEAR)
    for other, convention in OURS.items():
        if other != name and {name, other} not in SAME:
            assert (moved(key, convention) - NUMBERS[key]).abs().max() > 1e-3, other


def test_every_convention_that_an_installed_library_computes_is_recorded():
    kinds = {key.split("/")[0] for key in NUMBERS}
    assert {"timm", "torchvision", "torchvision_bilinear", "big_vision", "flexivit", "swin"} <= kinds


@pytest.mark.parametrize("key", keys("patches"))
def test_a_patch_kernel_is_resized_as_it_was(key):
    ours = resample_patch_kernel(NUMBERS["kernel/6x6"], grid(key.split("/")[2]))
    torch.testing.assert_close(ours, NUMBERS[key], **NEAR)


@pytest.mark.parametrize("key", keys("sinusoidal"))
def test_a_code_in_another_library_s_order_is_what_it_was(key):
    _, order, shape = key.split("/")
    encoding, here = (
        built(f"sinusoidal(coordinates=index, order={order}, scale=1)", grid(shape), dim=8),
        grid(shape),
    )
    torch.testing.assert_close(encoding.prepare(Pyramid((here,)).positions()), NUMBERS[key], **NEAR)


@pytest.mark.parametrize(
    ("key", "line"),
    [
        ("rope/axial/2x3", "rope(coordinates=index, layout=interleaved, base=100)"),
        ("rope/dinov3/2x3", "rope(unit=image)"),
        ("rope/mixed/2x3/0", "rope_mixed(coordinates=index, layout=interleaved)"),
        ("rope/mixed/2x3/1", "rope_mixed(coordinates=index, layout=interleaved)"),
    ],
)
@torch.no_grad()
def test_vectors_are_turned_as_they_were(key, line):
    encoding, layer = built(line, (2, 3)), int(key[-1]) if "mixed" in key else 0
    if "mixed" in key:
        encoding.frequency_2NHP.copy_(NUMBERS["frequencies"])
    context = encoding.prepare(Pyramid(((2, 3),)).positions())
    torch.testing.assert_close(encoding.rotate(NUMBERS["vectors"], context, layer), NUMBERS[key], **NEAR)


@pytest.mark.parametrize("key", keys("index"))
@torch.no_grad()
def test_two_tokens_read_the_entry_that_they_read(key):
    shape = grid(key.split("/")[1])
    encoding, here = built("relative_bias", shape), Pyramid((shape,)).positions()
    table_NHyx = encoding.table_NHyx
    table_NHyx.copy_(torch.arange(table_NHyx[0, 0].numel()).view_as(table_NHyx[0, 0]).float())
    context = encoding.prepare(here)
    torch.testing.assert_close(encoding.bias(context, context, 0)[0], NUMBERS[key].float(), **NEAR)


@pytest.mark.parametrize("key", keys("log_coordinates"))
def test_a_displacement_has_swin_v2_s_coordinates(key):
    _, shape, trained = key.split("/")
    ours = log_coordinates(grid(shape), torch.tensor(grid(trained)))
    torch.testing.assert_close(ours, NUMBERS[key], **NEAR)


def test_the_file_says_what_made_it_and_its_script_makes_it_again():
    """Not written by hand. Another version that answers otherwise is to be looked at, then recorded anew."""
    with safe_open(FILE, "pt") as file:
        made_with = file.metadata()
    assert all(made_with[library][0].isdigit() for library in ("timm", "torchvision", "scipy", "torch"))
    for library in ("timm", "scipy"):  # the others are dependencies
        pytest.importorskip(library)
    again = runpy.run_path(str(FILE.with_suffix(".py")))["record"]()
    assert again.keys() == NUMBERS.keys()
    for key, recorded in NUMBERS.items():
        torch.testing.assert_close(again[key], recorded, **NEAR, msg=f"{key}, made with {made_with}")
