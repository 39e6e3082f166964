"""What a study is going to do, and how long that will take, from a few real steps."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from time import monotonic

from accelerate import Accelerator

from var_pe.comparison.engine import Plan, result_of, state_of
from var_pe.comparison.study import Arm, Cell
from var_pe.comparison.sweep import chosen_for, sweeps
from var_pe.data.part import drawn
from var_pe.progress import duration, number_of
from var_pe.settings.loading import differences
from var_pe.stages.features import described, feature_extractor
from var_pe.stages.images import RealImages
from var_pe.stages.plan import training_images_and_classes
from var_pe.stages.timing import IMAGES, Cost, time_stages
from var_pe.training.checkpoints import steps_in


def plan_lines(plan: Plan) -> list[str]:
    """The arms with what they differ in, and where every cell stands."""
    first = asdict(plan.arms[0].config)
    lines = [
        f"{number_of(len(plan.arms), 'arm')}, {number_of(len(plan.cells), 'cell')}, in {plan.output}",
        f"primary quantity: {plan.study.primary}; margin: {plan.study.margin or 'none'}",
    ]
    for arm in plan.arms:
        changed = differences(first, asdict(arm.config))
        differs = "; ".join(changed) if changed else "the first, with which the others are compared"
        lines.append(f"  {arm.name}: seeds {', '.join(map(str, arm.seeds))}: {differs}")
    folders = dict.fromkeys(arm.config.tokenizer_run for arm in plan.arms)
    lines.append(f"tokenizers: {', '.join(folders)}")

    states = {cell.key: state_of(plan, plan.cell(cell.key)) for cell in plan.cells}
    lines += [f"  {key}: {state}" for key, state in states.items()]
    counts = Counter(state.partition(":")[0].partition(",")[0] for state in states.values())
    lines.append("cells: " + ", ".join(f"{number} {state}" for state, number in counts.items()))
    return lines


def timed_lines(plan: Plan, jobs: int, accelerator: Accelerator) -> list[str]:
    """The time that the rest of the study will take, by a few timed steps of one arm of each shape."""
    kinds: dict[str, list[Cell]] = {}
    for cell in plan.cells:
        if result_of(plan, plan.cell(cell.key)) is None:
            kinds.setdefault(_kind(cell.arm), []).append(cell)
    if not kinds:
        return ["timed: nothing is left to do"]

    lines, tokenizers, total = [], dict[str, float](), 0.0
    for cells in kinds.values():
        config = cells[0].config
        costs = time_stages(config, "generator", accelerator)
        scoring = _scoring(plan, cells[0], accelerator)
        shared_stages = ("tokenizer", "scores", "verdict", "token cache")
        once = sum(cost.seconds for cost in costs if cost.stage in shared_stages)
        tokenizers[config.tokenizer_run] = max(once, tokenizers.get(config.tokenizer_run, 0.0))

        training, drawing = _seconds(costs, "generator"), _seconds(costs, "drawing")
        # Images are drawn for scores, and their tokens again for histograms, with every sampling seed.
        measuring = (1 + len(plan.study.sampling_seeds)) * (2 * drawing + scoring)
        left = sum(1 - _done(cell) for cell in cells)
        choosing = _choosing(plan, cells, training, drawing + scoring)
        seconds = left * training + len(cells) * measuring + choosing
        total += seconds
        chosen = f", {duration(choosing)} of choosing learning rates and guidance scales" if choosing else ""
        lines.append(
            f"timed: {number_of(len(cells), 'cell')} like {cells[0].arm.name}: {duration(training)} of "
            f"training and {duration(measuring)} of drawing and scoring each{chosen}: {duration(seconds)}"
        )

    shared = sum(tokenizers.values())
    whole = shared + total / jobs
    lines.append(f"timed: tokenizers, tokens and their scores, once: {duration(shared)}")
    at_once = f", {jobs} cells at a time if the cores allow it" if jobs > 1 else ""
    lines.append(f"timed: about {duration(whole)} in all{at_once}, on {accelerator.device.type}")
    names = ("drawn_classifier", "count_pictures", "other_sizes", "check_extractors")
    beside = [name for name in names if getattr(plan.study, name)]
    if beside:
        lines.append(f"timed: not counted: {', '.join(beside)}")
    if plan.study.hours:
        parts = math.ceil(whole / (3600 * plan.study.hours))
        lines.append(f"timed: {number_of(parts, 'call')} of hours={plan.study.hours:g}")
    return lines


def _choosing(plan: Plan, cells: Sequence[Cell], training: float, drawing: float) -> float:
    """Seconds of the trainings and drawings by which the arms of these cells get what is not chosen yet."""
    study = plan.study
    arms = {cell.arm.name: cell.arm for cell in cells}.values()
    number = sum(chosen_for(study, arm) is None for arm in arms) if sweeps(study) else 0
    if not number:
        return 0.0
    config = cells[0].config
    steps = config.generator_training.steps_for(training_images_and_classes(config)[0])
    trainings = max(1, len(study.learning_rates)) * (study.sweep_steps or steps) / steps
    return number * (trainings * training + len(study.guidances) * drawing)


def _kind(arm: Arm) -> str:
    """A key that is the same for arms that differ only in their encoding, which hardly changes step times."""
    generator = replace(arm.config.generator, encoding="", level_embedding="none")
    return repr(replace(arm.config, generator=generator))


def _seconds(costs: list[Cost], stage: str) -> float:
    return sum(cost.seconds for cost in costs if cost.stage.startswith(stage))


def _done(cell: Cell) -> float:
    """The share of a cell's training that is done."""
    if (cell.run / "generator").exists():
        return 1.0
    done = max([0, *steps_in(cell.run / "checkpoints")])
    images = training_images_and_classes(cell.config)[0]
    return done / cell.config.generator_training.steps_for(images)


def _scoring(plan: Plan, cell: Cell, accelerator: Accelerator) -> float:
    """Seconds that the features of a cell's drawn images take."""
    config = cell.config
    real = RealImages(config, train=False)
    part = real.part(drawn(len(real), IMAGES, config.data.subset_seed))
    began = monotonic()
    for name in config.evaluation.features:
        described(feature_extractor(name, config.evaluation.inception_weights), part, accelerator)
    classes = max(1, training_images_and_classes(config)[1])
    return (monotonic() - began) / len(part) * config.sampling.images_per_class * classes
