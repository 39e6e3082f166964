"""Plants known mistakes, one at a time, in a copy of the package and says which test notices.

    python tests/mutation_check.py
    python tests/mutation_check.py "axes swapped" "level ignored"

The copy lies in a temporary folder; the working tree is not touched. Every mistake is a piece of text to
replace, which must stand in its file exactly once, so that the list cannot fall behind the code. The nearest
tests run first without any mistake. Status 1 if a mistake survives them, 2 if the check itself cannot run.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from var_pe.stages.session import exit_with_sentence

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("var_pe", "tests", "scripts", "configs", "pyproject.toml", "README.md")


@dataclass(frozen=True)
class Mistake:
    """A `name` that people use, and `how` it is made here: in `file`, `old` becomes `new`."""

    name: str
    how: str
    file: str
    old: str
    new: str
    # the nearest ones, which have to notice
    tests: tuple[str, ...]


MISTAKES = (
    Mistake(
        "axes swapped",
        "rotary codes turn the first half of a head by x",
        "var_pe/encodings/rope.py",
        "angle_LP = (yx_L2[:, :, None] * self.frequencies",
        "angle_LP = (yx_L2.flip(1)[:, :, None] * self.frequencies",
        ("tests/encodings/test_rope.py",),
    ),
    Mistake(
        "axes swapped",
        "a table of displacements is read with rows for columns",
        "var_pe/encodings/machinery/scores.py",
        "grid_GQK2.flip(-1)",
        "grid_GQK2",
        ("tests/encodings/test_relative_bias.py",),
    ),
    Mistake(
        "axes swapped",
        "a token's cell is column, row",
        "var_pe/pyramid.py",
        "torch.stack([row_l, column_l], dim=-1)",
        "torch.stack([column_l, row_l], dim=-1)",
        ("tests/test_pyramid.py",),
    ),
    Mistake(
        "axes swapped",
        "a resampled table is read column by column",
        "var_pe/resampling/conventions.py",
        "moved_1Chw.permute(0, 2, 3, 1)",
        "moved_1Chw.permute(0, 3, 2, 1)",
        ("tests/resampling/test_frozen_numbers.py",),
    ),
    Mistake(
        "keys not rotated",
        "queries are turned alone",
        "var_pe/models/layers.py",
        "k_BHLD = position_context.rotate(k_BHLD, layer).type_as(v_BHLD)",
        "k_BHLD = k_BHLD.type_as(v_BHLD)",
        ("tests/models/test_layers.py",),
    ),
    Mistake(
        "keys not rotated",
        "keys of a whole pass are in cells of their own levels, whoever asks",
        "var_pe/models/attention.py",
        "seen = seen.as_keys_of(first)",
        "seen = seen",
        ("tests/encodings/test_alignment.py",),
    ),
    Mistake(
        "keys not rotated",
        "keys of a drawn level are in cells of their own levels, whoever asks",
        "var_pe/models/generator.py",
        "prepare(seen.as_keys_of(level))",
        "prepare(seen)",
        ("tests/models/test_generator.py",),
    ),
    Mistake(
        "layouts mixed",
        "halves are turned and put back as neighbours",
        "var_pe/encodings/machinery/turn.py",
        "ya, yb = _pairs(y_BHLD, layout)",
        'ya, yb = _pairs(y_BHLD, "interleaved")',
        ("tests/encodings/test_rope.py",),
    ),
    Mistake(
        "prefix rotated",
        "positions are counted from the class token on, so that the last patches have none",
        "var_pe/models/attention.py",
        """        before = x_BHLD[:, :, : self.prefix]
        after = x_BHLD[:, :, self.prefix :]
        return torch.cat([before, self.encoding.rotate(after, self.query, layer)], dim=2)""",
        """        stop = x_BHLD.shape[2] - self.prefix
        before = x_BHLD[:, :, :stop]
        after = x_BHLD[:, :, stop:]
        return torch.cat([self.encoding.rotate(before, self.query, layer), after], dim=2)""",
        ("tests/models/test_layers.py", "tests/encodings/test_hygiene.py"),
    ),
    Mistake(
        "prefix rotated",
        "a bias is padded behind the patches, so that the class token gets the first one's",
        "var_pe/models/attention.py",
        "F.pad(added, (self.prefix, 0, self.prefix, 0))",
        "F.pad(added, (0, self.prefix, 0, self.prefix))",
        ("tests/models/test_layers.py", "tests/encodings/test_hygiene.py"),
    ),
    Mistake(
        "cache key without offset",
        "a level drawn alone reads the table's first rows",
        "var_pe/encodings/learned.py",
        "slice(spans[positions.levels.start].start, spans[positions.levels.stop - 1].stop)",
        "slice(0, positions.num_tokens)",
        ("tests/encodings/test_meaning.py", "tests/models/test_generator.py"),
    ),
    Mistake(
        "cache key without offset",
        "resampled tables are remembered by their number of tokens",
        "var_pe/encodings/learned.py",
        """            self.table_LC,
            pyramid,
            lambda""",
        """            self.table_LC,
            pyramid.num_tokens,
            lambda""",
        ("tests/resampling/test_conventions.py",),
    ),
    Mistake(
        "cache key without offset",
        "every level's keys are stored at the cache's start",
        "var_pe/models/layers.py",
        "kv_2BHLD[0, :, :, self.start : self.stop] = k_BHlD",
        "kv_2BHLD[0, :, :, : self.stop - self.start] = k_BHlD",
        ("tests/models/test_layers.py",),
    ),
    Mistake(
        "antialias dropped",
        "torch is not asked for it",
        "var_pe/resampling/conventions.py",
        "antialias=how.antialias,",
        "antialias=False,",
        ("tests/resampling/test_conventions.py",),
    ),
    Mistake(
        "antialias dropped",
        "timm's convention does not ask for it",
        "var_pe/resampling/conventions.py",
        '"timm": Convention("bicubic", antialias=True)',
        '"timm": Convention("bicubic")',
        ("tests/resampling/test_frozen_numbers.py",),
    ),
    Mistake(
        "half-pixel shift",
        "a cell's centre is its corner",
        "var_pe/pyramid.py",
        "(row_l.double() + 0.5) / h",
        "row_l.double() / h",
        ("tests/test_pyramid.py",),
    ),
    Mistake(
        "half-pixel shift",
        "tables are resampled with their corners aligned",
        "var_pe/resampling/conventions.py",
        'None if how.mode == "area" else how.align_corners',
        'None if how.mode == "area" else True',
        ("tests/resampling/test_conventions.py",),
    ),
    Mistake(
        "half-pixel shift",
        "rotary codes of coarse tokens stand at their corners",
        "var_pe/encodings/machinery/coordinates.py",
        "return ratio, ratio / 2",
        "return ratio, 0.0",
        ("tests/encodings/test_rope.py",),
    ),
    Mistake(
        "level ignored",
        "all levels get the first one's code",
        "var_pe/encodings/machinery/level.py",
        "return self.table_KC[positions.level_L].float()",
        "return self.table_KC[0 * positions.level_L].float()",
        ("tests/encodings/test_meaning.py",),
    ),
    Mistake(
        "level ignored",
        "cells of every level count as if they were equally large",
        "var_pe/encodings/machinery/coordinates.py",
        "    ratio = finest / side\n",
        "    ratio = 1.0\n",
        ("tests/encodings/test_rope.py",),
    ),
    Mistake(
        "level ignored",
        "the generator does not add the levels' codes",
        "var_pe/models/generator.py",
        "x_BLC if level_LC is None else x_BLC + level_LC",
        "x_BLC",
        ("tests/models/test_generator.py",),
    ),
    Mistake(
        "mask off by one level",
        "a token sees the next finer level",
        "var_pe/models/attention.py",
        "return coarser_LL >= 0 if before",
        "return coarser_LL >= -1 if before",
        ("tests/models/test_generator.py",),
    ),
    Mistake(
        "mask off by one level",
        "a token sees coarser levels alone, and the first one itself",
        "var_pe/models/attention.py",
        "return coarser_LL >= 0 if before",
        "return coarser_LL >= (positions.level_L > 0).long() if before",
        ("tests/models/test_generator.py",),
    ),
    Mistake(
        "phi of wrong level",
        "a level is smoothed by the phi of the next finer one",
        "var_pe/models/quantizers/residual.py",
        "phi_index(level, pyramid.num_levels, len(self.phi))",
        "phi_index(min(level + 1, pyramid.num_levels - 1), pyramid.num_levels, len(self.phi))",
        ("tests/models/test_residual_quantizer.py",),
    ),
    Mistake(
        "phi of wrong level",
        "levels are spread over the phi as if there were one more",
        "var_pe/models/quantizers/residual.py",
        "level / (num_levels - 1) if num_levels > 1",
        "level / num_levels if num_levels > 1",
        ("tests/models/test_residual_quantizer.py",),
    ),
    Mistake(
        "formula missed",
        "both halves of a spiral turn along the same rays",
        "var_pe/encodings/rope.py",
        "torch.cat([angle_F, angle_F - pi / 2])",
        "torch.cat([angle_F, angle_F])",
        ("tests/encodings/test_rope.py",),
    ),
    Mistake(
        "formula missed",
        "golden directions take another ratio",
        "var_pe/encodings/rope.py",
        "(2 * pi / (1 + 5**0.5))",
        "(2 * pi / (1 + 3**0.5))",
        ("tests/encodings/test_rope.py",),
    ),
    Mistake(
        "formula missed",
        "a level turns the pairs that tell places",
        "var_pe/encodings/rope.py",
        "torch.arange(1 - count, 1, ",
        "torch.arange(0, -count, -1, ",
        ("tests/encodings/test_rope.py",),
    ),
    Mistake(
        "formula missed",
        "keys are mapped as queries are",
        "var_pe/encodings/harope.py",
        "left_NHDD @ (right_NHDD / scale_NHD1)",
        "left_NHDD @ (right_NHDD * scale_NHD1)",
        ("tests/encodings/test_rope.py",),
    ),
    Mistake(
        "formula missed",
        "blocks are turned backwards",
        "var_pe/encodings/machinery/orthogonal.py",
        "HLGij,BHLGj->BHLGi",
        "HLGji,BHLGj->BHLGi",
        ("tests/encodings/test_blocks_and_angles.py",),
    ),
    Mistake(
        "formula missed",
        "generators need not commute",
        "var_pe/encodings/liere.py",
        "return Turns(plane_NHGbb.mT[:, :, None].unbind(), angles)",
        "return Turns((plane_NHGbb.mT[:, :, None] * y_L.cos()[:, None, None, None]).unbind(), angles)",
        ("tests/encodings/test_blocks_and_angles.py",),
    ),
    Mistake(
        "formula missed",
        "keys lack what a head adds to their angles",
        "var_pe/encodings/pope.py",
        "polar(k_BHLD, angle_LD + delta_H1D)",
        "polar(k_BHLD, angle_LD)",
        ("tests/encodings/test_blocks_and_angles.py",),
    ),
    Mistake(
        "formula missed",
        "signs of content turn a channel, as in a rotary code",
        "var_pe/encodings/pope.py",
        "F.softplus(x_BHLD.to(",
        "(x_BHLD.to(",
        ("tests/encodings/test_blocks_and_angles.py",),
    ),
    Mistake(
        "formula missed",
        "a function is not stretched to larger pictures",
        "var_pe/encodings/fire.py",
        "reach.clamp(min=side - 1)",
        "reach",
        ("tests/encodings/test_fields_of_view.py",),
    ),
    Mistake(
        "formula missed",
        "a head looks behind itself",
        "var_pe/encodings/lookhere.py",
        "towards_QK2 = -displacement(query, key)",
        "towards_QK2 = displacement(query, key)",
        ("tests/encodings/test_fields_of_view.py",),
    ),
    Mistake(
        "formula missed",
        "a head sees its side of other levels alone",
        "var_pe/encodings/lookhere.py",
        "geometry.same_QK & (ahead_QK < least_QK)",
        "ahead_QK < least_QK",
        ("tests/encodings/test_fields_of_view.py",),
    ),
    Mistake(
        "formula missed",
        "parabolas lean to the other side",
        "var_pe/encodings/pape.py",
        "(-displacement(query, key)).unbind(-1)",
        "displacement(query, key).unbind(-1)",
        ("tests/encodings/test_products.py",),
    ),
    Mistake(
        "formula missed",
        "all directions but one cost nothing",
        "var_pe/encodings/pape.py",
        "geometry.power_QK5[..., 2::2].sum(-1)",
        "geometry.power_QK5[..., 2]",
        ("tests/encodings/test_products.py",),
    ),
    Mistake(
        "formula missed",
        "keys meet the vectors of the opposite displacement",
        "var_pe/encodings/irpe.py",
        "pick(k_BHKD, vectors_HBD, bucket_QK.T).mT",
        "pick(k_BHKD, vectors_HBD, bucket_QK).mT",
        ("tests/encodings/test_products.py",),
    ),
    Mistake(
        "formula missed",
        "blocks are counted as if all levels had as many columns of them",
        "var_pe/encodings/blocks.py",
        "row_L // size * columns_K[level_L]",
        "row_L // size * columns_K[-1]",
        ("tests/encodings/test_blocks.py",),
    ),
    Mistake(
        "formula missed",
        "a cell's place in its block is read column by column",
        "var_pe/encodings/blocks.py",
        "row_L % size * size + column_L % size",
        "column_L % size * size + row_L % size",
        ("tests/encodings/test_blocks.py",),
    ),
    Mistake(
        "formula missed",
        "blocks of blocks are cut from cells",
        "var_pe/encodings/__init__.py",
        "build(part, _after(grids_of, of))",
        "build(part, of or grids_of)",
        ("tests/encodings/test_blocks.py",),
    ),
    Mistake(
        "formula missed",
        "an encoding that fades in turns by all of its angles at once",
        "var_pe/encodings/machinery/blend.py",
        "self.new.turned_by(self.new.prepare(positions), of_new)",
        "self.new.prepare(positions)",
        ("tests/encodings/test_blend.py",),
    ),
    Mistake(
        "formula missed",
        "tables of programs are resampled by the cubic of torch's other kernel",
        "var_pe/resampling/as_products.py",
        "CUBIC, CUBIC_ANTIALIASED = -0.75, -0.5",
        "CUBIC, CUBIC_ANTIALIASED = -0.75, -0.75",
        ("tests/resampling/test_as_products.py",),
    ),
    Mistake(
        "formula missed",
        "segmenters of the study of heads start from random weights",
        "var_pe/comparison/head_study.py",
        "model=replace(trial.config.model, init_from=str(trial.run)),",
        "model=trial.config.model,",
        ("tests/comparison/test_head_study.py",),
    ),
    Mistake(
        "formula missed",
        "heads keep the keys of the lowest scores",
        "var_pe/models/keys.py",
        "score_BHK.topk(self.most, dim=2, sorted=False)",
        "score_BHK.topk(self.most, dim=2, sorted=False, largest=False)",
        ("tests/models/test_keys.py",),
    ),
    Mistake(
        "formula missed",
        "every model samples the same keys, whatever its seed",
        "var_pe/models/keys.py",
        'generator_for(seed, "keys", number)',
        'generator_for(0, "keys", number)',
        ("tests/models/test_keys.py",),
    ),
    Mistake(
        "formula missed",
        "levels that share a call share a choice of keys in training",
        "var_pe/models/generator.py",
        "few_keys=self.few_keys,",
        "few_keys=False,",
        ("tests/models/test_keys.py",),
    ),
    Mistake(
        "formula missed",
        "a polar direction's axes are exchanged",
        "var_pe/encodings/rope_mixed.py",
        "return length_NHP * angle_NHP.sin(), length_NHP * angle_NHP.cos()",
        "return length_NHP * angle_NHP.cos(), length_NHP * angle_NHP.sin()",
        ("tests/encodings/test_rope.py",),
    ),
    Mistake(
        "formula missed",
        "all levels are in from the first step on",
        "var_pe/tasks/progressive.py",
        "return min(num_levels, self.first + later * step // all_from)",
        "return num_levels",
        ("tests/tasks/test_progressive.py",),
    ),
    Mistake(
        "formula missed",
        "an attack goes down the loss",
        "var_pe/tasks/attack.py",
        "changed_BCHW.detach() + step_size * gradient_BCHW.sign()",
        "changed_BCHW.detach() - step_size * gradient_BCHW.sign()",
        ("tests/tasks/test_attack.py",),
    ),
    Mistake(
        "formula missed",
        "places of a crop are looked up where they lie in the crop",
        "var_pe/tasks/losses/contrastive.py",
        "yx_BL2 = centre_B2[:, None] + side_B[:, None, None] * yx_L2",
        "yx_BL2 = 0 * centre_B2[:, None] + yx_L2",
        ("tests/tasks/test_contrastive.py",),
    ),
    Mistake(
        "formula missed",
        "levels are pushed towards what the coarser one says",
        "var_pe/models/scale_guidance.py",
        "torch.lerp(prior_BlV, logits_BlV, 1 + strength)",
        "torch.lerp(logits_BlV, prior_BlV, strength)",
        ("tests/models/test_scale_guidance.py",),
    ),
    Mistake(
        "formula missed",
        "a level sees one level more than it is to see",
        "var_pe/models/attention.py",
        "else max(0, level - before)",
        "else max(0, level - before - 1)",
        ("tests/models/test_generator.py",),
    ),
    Mistake(
        "formula missed",
        "scores of wider queries are scaled by their width",
        "var_pe/models/layers.py",
        "scale = head_dim**-0.5 if wider else None",
        "scale = None",
        ("tests/encodings/test_blocks_and_angles.py",),
    ),
    Mistake(
        "breaking",
        "a picture is shifted the other way",
        "var_pe/data/moves.py",
        "rows = (rows - down)",
        "rows = (rows + down)",
        ("tests/data/test_moves.py",),
    ),
    Mistake(
        "breaking",
        "a picture that is no square is turned as one",
        "var_pe/data/moves.py",
        "torch.stack([cos_B, sin_B * height / width, zero_B], dim=1)",
        "torch.stack([cos_B, sin_B, zero_B], dim=1)",
        ("tests/data/test_moves.py",),
    ),
    Mistake(
        "breaking",
        "an attack goes down the loss",
        "var_pe/tasks/attack.py",
        "+ step_size * gradient_BCHW.sign()",
        "- step_size * gradient_BCHW.sign()",
        ("tests/tasks/test_attack.py",),
    ),
    Mistake(
        "breaking",
        "an attack leaves its bounds below",
        "var_pe/tasks/attack.py",
        "torch.maximum(changed_BCHW, images_BCHW - epsilon)",
        "torch.maximum(changed_BCHW, images_BCHW - 2 * epsilon)",
        ("tests/tasks/test_attack.py",),
    ),
    Mistake(
        "breaking",
        "what is outside counts as inside",
        "var_pe/evaluation/outliers.py",
        "[torch.zeros(len(inside_N)), -torch.ones(len(outside_N))]",
        "[-torch.ones(len(inside_N)), torch.zeros(len(outside_N))]",
        ("tests/evaluation/test_robustness.py",),
    ),
    Mistake(
        "breaking",
        "bits of other data are those under the first class",
        "var_pe/comparison/robustness_study.py",
        "torch.full((len(images_BCHW), 1), transformer.num_classes, device=device)",
        "torch.full((len(images_BCHW), 1), 0, device=device)",
        ("tests/comparison/test_robustness_study.py",),
    ),
    Mistake(
        "smaller",
        "the channels of the largest weights are left out",
        "var_pe/interop/compression.py",
        "importance_F.argsort()",
        "importance_F.argsort(descending=True)",
        ("tests/interop/test_compression.py",),
    ),
    Mistake(
        "smaller",
        "the largest weights become zero",
        "var_pe/interop/compression.py",
        "pruning_method=prune.L1Unstructured",
        "pruning_method=prune.RandomUnstructured",
        ("tests/interop/test_compression.py",),
    ),
    Mistake(
        "smaller",
        "a batch takes one request too many",
        "var_pe/interop/batching.py",
        "if held(shape) + shape.numel() > batch_values:",
        "if held(shape) > batch_values:",
        ("tests/interop/test_batching.py",),
    ),
    Mistake(
        "smaller",
        "requests wait without a bound",
        "var_pe/interop/batching.py",
        "while sum(map(held, waiting)) > waiting_values:",
        "while False:",
        ("tests/interop/test_batching.py",),
    ),
    Mistake(
        "wrong device",
        "a torch that was built for GPUs is taken for a machine that has one",
        "var_pe/stages/accelerate_options.py",
        "torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None",
        "torch.accelerator.current_accelerator()",
        ("tests/stages/test_accelerate_options.py",),
    ),
    Mistake(
        "others' tokens",
        "the tokens beside a drawn image are those of another one",
        "var_pe/sampling/folder.py",
        "write_tokens(tokens_path(folder, number), tokens_L)",
        "write_tokens(tokens_path(folder, number), tokens_BL[0])",
        ("tests/sampling/test_folder.py",),
    ),
    Mistake(
        "formula missed",
        "of several networks the first one alone counts in the perceptual distance",
        "var_pe/models/feature_stages.py",
        "for network in self.networks for map_BChw in network(images_BCHW)",
        "for network in self.networks[:1] for map_BChw in network(images_BCHW)",
        ("tests/stages/test_losses.py",),
    ),
    Mistake(
        "level ignored",
        "in a program of any size coarser levels count as the finest, also where there are several",
        "var_pe/encodings/machinery/coordinates.py",
        "return ONE_LEVEL if len(grids) == 1 else grids",
        "return ONE_LEVEL * len(grids)",
        ("tests/encodings/test_rope.py",),
    ),
    Mistake(
        "level ignored",
        "waves are remapped for every level as for the finest",
        "var_pe/encodings/machinery/bands.py",
        'stride_L2 if self.remap == "levels" else torch.ones_like(stride_L2[:1])',
        "torch.ones_like(stride_L2[:1])",
        ("tests/encodings/test_bands.py",),
    ),
    Mistake(
        "level ignored",
        "a level uses waves that turn by a whole turn from cell to cell",
        "var_pe/encodings/machinery/bands.py",
        "(turns_L2P <= pi)",
        "(turns_L2P <= 2 * pi)",
        ("tests/encodings/test_bands.py",),
    ),
    Mistake(
        "level ignored",
        "the contrast of levels compares each level with itself",
        "var_pe/tasks/losses/contrastive.py",
        "place_contrast(x_BLC[:, here], x_BLC[:, before], match_1l",
        "place_contrast(x_BLC[:, here], x_BLC[:, here], match_1l",
        ("tests/tasks/test_contrastive.py",),
    ),
    Mistake(
        "prefix rotated",
        "prefix tokens gather vectors of displacements, too",
        "var_pe/models/attention.py",
        "F.pad(added_BHQD, (0, 0, self.prefix, 0))",
        "F.pad(added_BHQD, (0, 0, 0, self.prefix))",
        ("tests/encodings/test_products.py",),
    ),
    Mistake(
        "formula missed",
        "short waves are stretched with the grid, and long ones keep their speed",
        "var_pe/encodings/machinery/bands.py",
        "return 1 - ramp_LP * ",
        "return 1 - (1 - ramp_LP) * ",
        ("tests/encodings/test_bands.py",),
    ),
    Mistake(
        "level ignored",
        "keys keep the waves of their own level, where queries have those of theirs",
        "var_pe/encodings/machinery/coordinates.py",
        "positions.level_L if positions.asking is None else positions.asking",
        "positions.level_L",
        ("tests/encodings/test_bands.py",),
    ),
)


def apply(mistake: Mistake, source: str) -> str:
    """A file's text with the mistake in it.

    Raises:
        ValueError: the text to replace is not there exactly once.
    """
    found = source.count(mistake.old)
    if found != 1:
        raise ValueError(
            f"the mistake {mistake.name!r} ({mistake.how}) must replace one place of {mistake.file}, "
            f"found {found} of {mistake.old!r}"
        )
    return source.replace(mistake.old, mistake.new)


def failed_test(folder: Path, tests: Sequence[str]) -> str | None:
    """The first test that fails in a copy of the project, or None.

    Raises:
        ValueError: the tests do not run at all.
    """
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-rfE", "-p", "no:cacheprovider", "-m", "not slow"]
    # without a path that would import the working tree instead of the copy
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run([*command, *tests], cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode == 0:
        return None

    named = re.search(r"^(?:FAILED|ERROR) (\S+::.*?)(?: - .*)?$", done.stdout, re.MULTILINE)
    if done.returncode != 1 or named is None:
        raise ValueError(f"{' '.join(tests)} did not run: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return named[1]


def copy_project(folder: Path) -> None:
    for name in COPIED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)


def check(mistakes: Sequence[Mistake]) -> list[Mistake]:
    """Plants each mistake, prints which test notices, and gives back those that none does."""
    survivors = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copy_project(folder)

        # A test that fails anyway would notice everything.
        tests = sorted({test for mistake in mistakes for test in mistake.tests})
        failed = failed_test(folder, tests)
        if failed:
            raise ValueError(f"{failed} fails without any mistake")

        for mistake in mistakes:
            file = folder / mistake.file
            right = file.read_text()
            file.write_text(apply(mistake, right))
            noticed = failed_test(folder, mistake.tests)
            file.write_text(right)

            if noticed:
                verdict = f"noticed by {noticed}"
            else:
                verdict = f"SURVIVES {' '.join(mistake.tests)}"
                survivors.append(mistake)
            print(f"{mistake.name} ({mistake.how}): {verdict}", flush=True)

    return survivors


@exit_with_sentence()
def main() -> None:
    names = sorted({mistake.name for mistake in MISTAKES})
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("names", nargs="*", metavar="MISTAKE", help=f"default: all; {', '.join(names)}")
    wanted = parser.parse_args().names or names
    unknown = [name for name in wanted if name not in names]
    if unknown:
        raise ValueError(f"there is no mistake {unknown[0]!r}; there are {', '.join(names)}")

    survivors = check([mistake for mistake in MISTAKES if mistake.name in wanted])
    if survivors:
        print(f"{len(survivors)} survive")
        sys.exit(1)


if __name__ == "__main__":
    main()
