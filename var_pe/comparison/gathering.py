"""A study's results, gathered from the files of its cells."""

import datetime
from dataclasses import asdict

import torch

from var_pe.comparison.engine import Plan, failure_of, had_own_process, result_of
from var_pe.comparison.results import (
    FORMAT,
    ArmEntry,
    CellEntry,
    CellResult,
    Record,
    Results,
    Shared,
    Times,
)
from var_pe.comparison.study import Arm
from var_pe.comparison.sweep import chosen_for
from var_pe.evaluation.metrics import FEW_IMAGES
from var_pe.evaluation.records import versions
from var_pe.evaluation.shapes_scores import NOTHING_READ, SHAPE_SCORES
from var_pe.pyramid import Pyramid
from var_pe.settings.loading import differences
from var_pe.stages.features import judges, trained_against
from var_pe.stages.pyramids import generator_pyramids


def gather(plan: Plan, shared: Shared, command: str, *, own_processes: bool, device: str) -> Results:
    """The results of all finished cells; `own_processes` is of those that nobody noted it of."""
    cells: list[CellEntry] = []
    times: dict[str, Times] = {}
    floor: dict[str, float] = {}
    records: dict[str, Record] = {}
    alone: list[bool] = []

    for cell in plan.cells:
        own = plan.cell(cell.key)
        result = result_of(plan, own)
        if result is not None:
            times[cell.key] = result["times"]
            floor, records = floor or result["floor"], records or result["records"]
            alone.append(had_own_process(plan, cell, otherwise=own_processes))

        cells.append(
            _entry(
                cell.arm.name,
                cell.seed,
                str(cell.run),
                cell.key,
                None if result is not None else failure_of(plan, cell.key),
                result,
                shown=cell.seed == plan.study.seeds[0],
            )
        )

    steps = shared["times"]["steps"]
    return {
        "format": FORMAT,
        "command": command,
        "study": asdict(plan.study),
        "arms": [_arm(plan, arm) for arm in plan.arms],
        "cells": sorted(cells, key=lambda cell: _order(plan, cell)),
        "primary": plan.study.primary,
        "margin": plan.study.margin,
        "handicap_margins": plan.study.handicap_margins,
        "remarks": [*plan.study.remarks, *flattered(plan)],
        "floor": floor,
        "records": records,
        "labels": [
            (key, label, "lower" if key == NOTHING_READ else "higher") for key, label in SHAPE_SCORES.items()
        ],
        "few_images": FEW_IMAGES,
        "shared": {**shared, "times": {}},
        "config": asdict(plan.arms[0].config),
        "versions": versions(),
        "times": {
            "written": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
            "cells": times,
            "steps": steps,
            "own_processes": all(alone) if alone else own_processes,
            "device": device,
            "threads": plan.study.threads or torch.get_num_threads(),
        },
    }


def flattered(plan: Plan) -> list[str]:
    """A sentence for each judge whose network the tokenizer of some arms was trained against."""
    study = plan.study
    names = {name for arm in plan.arms for name in judges(arm.config)}
    said = []
    for name in sorted(names | ({study.judge} if study.judge else set())):
        arms = [arm.name for arm in plan.arms if trained_against(arm.tokenizer_config, name)]
        if arms:
            whom = "all arms" if len(arms) == len(plan.arms) else ", ".join(arms)
            said.append(
                f"{name} flatters the images of {whom}, whose tokenizer was trained against its network "
                f"(tokenizer_training.perceptual.network)."
            )
    return said


def _order(plan: Plan, cell: CellEntry) -> tuple[int, int]:
    names = [arm.name for arm in plan.arms]
    return names.index(cell["arm"]), plan.study.seeds.index(cell["seed"])


def _entry(
    arm: str, seed: int, run: str, key: str, failed: str | None, result: CellResult | None, *, shown: bool
) -> CellEntry:
    return {
        "arm": arm,
        "seed": seed,
        "key": key,
        "run": run,
        "failed": failed,
        "values": result["values"] if result else {},
        "drawings": result["drawings"] if result else {},
        "curves": result["curves"] if result else {},
        "nats_by_place": result["nats_by_place"] if result else [],
        "picture": result["picture"] if result and shown else "",
        "classes": result["classes"] if result and shown else [],
        "sizes": result.get("sizes", []) if result else [],
    }


def _arm(plan: Plan, arm: Arm) -> ArmEntry:
    changed = differences(asdict(plan.arms[0].config), asdict(arm.config))
    return {
        "name": arm.name,
        "place": list(arm.place),
        "encoding": arm.config.generator.encoding,
        "level_embedding": arm.config.generator.level_embedding,
        "seeds": list(arm.seeds),
        "differs_in": changed,
        "handicapped": arm.name == plan.study.handicapped,
        "compared_with": _reference(plan, arm),
        "chosen": chosen_for(plan.study, arm),
        "tokenizer": arm.config.tokenizer_run,
        "grids": [list(grid) for grid in Pyramid.of(arm.config.tokenizer.levels).grids],
        "trained_at": [[list(grid) for grid in pyramid.grids] for pyramid in generator_pyramids(arm.config)],
    }


def _reference(plan: Plan, arm: Arm) -> str:
    """The first arm; on several axes, that of the first encoding whose other values are the same.

    An arm with other levels than the first one's has other tokens, whose nats cannot be compared with its: in
    place of the first arm stands the first one with the same levels.
    """
    several = len(plan.study.encodings) > 1
    levels = arm.config.tokenizer.levels
    for other in plan.arms:
        if other.config.tokenizer.levels == levels and (not several or other.place[1:] == arm.place[1:]):
            return other.name
    return arm.name
