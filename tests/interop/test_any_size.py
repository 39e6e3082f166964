"""One program of a plain ViT for images of every size gives what the model gives at each, or a sentence."""

import copy
import importlib
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.conftest import MEMBERS
from var_pe.encodings.machinery.coordinates import MAPS, coarseness, in_proportion, level_maps
from var_pe.interop.export.any_size import any_size_parts, bound_to_size
from var_pe.interop.export.survey import ANY_SIZE, outcome_of
from var_pe.interop.export.writing import TOLERANCE, export_part, run_onnx, session_of
from var_pe.models.hierarchy.classifier import HierarchicalClassifier
from var_pe.resampling.conventions import DEFAULT_CONVENTION

# Members that have one size in a program, and how their sentences name them
ONE_SIZE = {
    "blocks(learned, size=2)": "blocks serves one size in a program: which block a cell lies in",
    "liere": "liere serves one size in a program: the longest side says how often",
}
SIZES = [(8, 12), (6, 22), (20, 4), (28, 26)]  # the last one has more tokens than one kernel's share


def images_of(size: tuple[int, int], batch: int = 2) -> Tensor:
    return torch.rand(batch, 3, *size, generator=torch.Generator().manual_seed(sum(size))) * 2 - 1


@torch.no_grad()
@pytest.mark.parametrize(
    ("line", "resample"),
    [("rope + alibi", "timm"), ("learned + relative_bias", "timm"), ("learned(resample=area)", "dinov2")],
)
def test_one_program_gives_what_a_moved_model_gives(line, resample, make_vit, make_loud, tmp_path):
    """Files alone, against `set_input_size`: turns, scores and tables, and tokens without a place."""
    pytest.importorskip("onnxruntime")
    vit = make_loud(make_vit(line, depth=1, registers=1, prompts=2))
    (part,) = any_size_parts(vit, resample)
    exported = export_part(part, tmp_path)
    assert exported.difference <= TOLERANCE

    program, session = torch.export.load(exported.program).module(), session_of(exported.onnx)
    for size in SIZES:
        moved = copy.deepcopy(vit)  # a table that moves twice is not one that moves once
        moved.set_input_size(size, None if "resample" in line else resample)
        wanted = moved(images_of(size))
        torch.testing.assert_close(program(images_of(size)), wanted, atol=TOLERANCE, rtol=0)
        (logits,) = run_onnx(session, {"images": images_of(size)})
        torch.testing.assert_close(logits, wanted, atol=TOLERANCE, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("member", sorted(set(MEMBERS) - set(ONE_SIZE)))
def test_what_is_exported_is_the_model_at_each_size(member, make_vit, make_loud):
    """`dynamic`, which is traced, and `set_input_size`, which other commands use, are one convention."""
    vit = make_loud(make_vit(member))
    (part,) = any_size_parts(vit)
    for size in SIZES:
        (logits,) = part.run({"images": images_of(size)})
        moved = copy.deepcopy(vit)
        moved.set_input_size(size, DEFAULT_CONVENTION)
        assert torch.equal(logits, moved(images_of(size)))


def test_a_program_is_compared_at_sizes_that_were_not_traced(make_vit):
    """Three at least, some of them not square, none with the sides of the trace: constants would show."""
    for size in ((8, 12), (8, 8), (2, 12), (2, 2)):
        (part,) = any_size_parts(make_vit("rope", image_size=size))
        assert part.sizes is not None
        assert part.sizes.traced not in part.sizes.others
        assert len({rows / columns for rows, columns in part.sizes.others} - {1}) >= 2
        assert len(set(part.sizes.others)) == 3
        for grid in (part.sizes.traced, *part.sizes.others):
            assert part.run(part.sizes.examples(1, grid))[0].shape == (1, 3)
            assert min(grid) >= 2


class Wrong(torch.nn.Module):
    """Right at the size of the trace alone: it compares images with a constant of that size."""

    def __init__(self, mean: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        mean_B = images_BCHW.mean((1, 2, 3))
        return mean_B if torch.compiler.is_exporting() else mean_B + 0.01 * (images_BCHW.shape[2] - 8)


def test_a_program_with_a_constant_for_the_size_is_not_reported_as_written(make_vit, tmp_path):
    pytest.importorskip("onnxruntime")
    (part,) = any_size_parts(make_vit("none"))
    wrong = replace(part, module=Wrong(torch.zeros(1)))
    with pytest.raises(ValueError, match=r"than the model for 2 images of 5x9 patches: by .*, where 0\.0001"):
        export_part(wrong, tmp_path)


@pytest.mark.parametrize("member", ONE_SIZE)
def test_an_encoding_of_one_size_is_refused_in_a_sentence(member, make_vit):
    with pytest.raises(ValueError, match="export one size with --size") as caught:
        any_size_parts(make_vit(f"sinusoidal + {member}"))
    assert ONE_SIZE[member] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_option_says_its_own_reason(make_vit):
    reasons = bound_to_size(make_vit("liere(commuting=true) + rope").position_encoding)
    assert reasons == {"liere": "traced for every size, its products with planes refuse a batch of one image"}


def test_models_of_one_size_are_refused(make_vit):
    with pytest.raises(ValueError, match="padding=end looks at the size of every image"):
        any_size_parts(make_vit("rope", padding="end"))
    staged = HierarchicalClassifier(
        (12, 20),
        num_classes=3,
        hierarchy=["full(blocks=1)"],
        encoding="rope",
        patch_size=2,
        dim=16,
        num_heads=2,
    )
    with pytest.raises(ValueError, match=r"for plain ViTs of images.*got HierarchicalClassifier"):
        any_size_parts(staged)


@pytest.mark.parametrize("grid", [(1, 1), (1, 7), (3, 5), (14, 14)])
def test_a_single_level_has_no_proportions(grid):
    """Maps of a lone level are those of every size, bit for bit, wherever a cell lies."""
    device = torch.device("cpu")
    assert in_proportion(((1, 2), grid)) == ((1, 2), grid)
    assert torch.equal(coarseness(in_proportion((grid,)), device), coarseness((grid,), device))
    cells_n = torch.arange(max(grid))[:, None]
    for kind in MAPS[:-1]:
        scale, offset = level_maps(kind, (grid,), device)
        alike_scale, alike_offset = level_maps(kind, in_proportion((grid,)), device)
        for axis, side in enumerate(grid):
            own = cells_n[:side] * scale[:, axis] + offset[:, axis]
            assert torch.equal(cells_n[:side] * alike_scale[:, axis] + alike_offset[:, axis], own)


def test_the_option_exports_for_any_size(make_vit, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "scripts"))
    make_vit("rope").save_pretrained(tmp_path / "classifier")
    options = dict(pipeline=None, classifier=None, size=None, resample=None, any_size=True)
    given = Namespace(run=tmp_path, **options)
    script = importlib.import_module("export")
    (part,) = script.parts_of(given)
    assert part.run({"images": images_of((6, 4))})[0].shape == (2, 3)
    said = script.free(part.sizes)
    assert said.startswith("sides of images are multiples of 2 pixels, at least 4; traced at 8x12, compared")
    with pytest.raises(ValueError, match="--any-size is for classifiers that are plain ViTs"):
        script.check_no_size(given)


@pytest.mark.slow
@pytest.mark.parametrize("member", MEMBERS)
def test_every_encoding_leaves_for_any_size_or_says_why(member):
    pytest.importorskip("onnxruntime")
    outcome = outcome_of(ANY_SIZE, member)
    if member in ONE_SIZE:
        assert ONE_SIZE[member] in outcome.refused
    else:
        assert outcome.difference is not None, outcome.refused
        assert outcome.difference <= TOLERANCE
