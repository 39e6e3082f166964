"""Starts from a trained model at another size: of images for a classifier, of the pyramid for a generator.

A tokenizer may have another pyramid and another number of codes.
"""

import copy
from collections.abc import Sequence
from typing import Annotated

import torch
from annotated_types import Gt, Lt

from var_pe.encodings import PositionEncoding
from var_pe.encodings.machinery.blend import Blended, parts_of
from var_pe.models.folder import SavedModel
from var_pe.models.resizable import Resizable
from var_pe.models.tokenizer import VQTokenizer
from var_pe.resampling.conventions import CONVENTIONS, DEFAULT_CONVENTION
from var_pe.settings.fields import Doc, FilePath, OneOf, section
from var_pe.settings.line import parse
from var_pe.settings.loading import differences

MAY_DIFFER = (
    "image_size",
    "levels",
    "kept_grids",
    "num_classes",
    "drop_path",
    "dropout",
    "seed",
    "dynamic",
    "prompts",
)
TOKENIZER_MAY_DIFFER = ("levels", "codebook_size", "commitment", "seed")


@section
class Retrofit:
    """Another encoding for a trained model: the old one fades out while the new one comes in (`Blended`).

    The new one's share rises linearly from 0 at the first step to 1 after the share `until` of the steps
    first asked for; the rest of the training is with the new one alone. Members that both lines have, such as
    the table of `learned` and of `learned + rope`, keep their weights.
    """

    until: Annotated[float, Gt(0), Lt(1), Doc("share of the steps after which the new encoding is alone")] = (
        0.5
    )

    def share_at(self, step: int, steps: int) -> float:
        """The new encoding's share in a step of `steps`."""
        return min(1.0, step / (self.until * steps))


@section
class ModelStart:
    init_from: Annotated[
        FilePath | None,
        Doc(
            "folder of a trained run whose generator or classifier the training starts from; its images "
            "may have another size"
        ),
    ] = None
    resample: Annotated[
        str,
        OneOf(CONVENTIONS),
        Doc("resampling convention by which its position tables move to this config's size"),
    ] = DEFAULT_CONVENTION
    retrofit: Annotated[
        Retrofit | None,
        Doc("if given, this config's encoding gradually replaces that of init_from; null: both are the same"),
    ] = None

    def __post_init__(self) -> None:
        if self.retrofit is not None and self.init_from is None:
            raise ValueError("retrofit needs a trained model to start from: set model.init_from")


@torch.no_grad()
def start_from(
    model: Resizable, source: Resizable, resample: str, same_classes: bool = True, retrofit: bool = False
) -> list[str]:
    """Copies a trained model into `model`, its tables moved to the model's size; `source` itself is moved.

    Where the classes differ, in number or by name (`same_classes`), their own weights are not copied. With
    `retrofit` the model keeps its own encoding, blended with the source's. Returns in words what was copied.

    Raises:
        ValueError: the two differ in more than size, classes and regularisation, or a table cannot move.
    """
    _check_alike(source, model, (*MAY_DIFFER, "encoding") if retrofit else MAY_DIFFER, "model.init_from")

    # The source moves to the new size, then its whole encodings are copied.
    old_size, old_pyramid = source.config[source.size_argument], source.pyramid
    new_size = model.config[model.size_argument]
    source.move_to(new_size, resample)
    if retrofit:
        old = copy.deepcopy(source.position_encoding).train(model.training)
        taken_over = blend_in(model, old, source.config["encoding"])
    else:
        for name, encoding in source.position_encodings().items():
            place, _, last = name.rpartition(".")
            setattr(model.get_submodule(place), last, copy.deepcopy(encoding).train(model.training))
        model.register_to_config(kept_grids=source.config["kept_grids"])

    # Weights that belong to classes mean nothing under other classes.
    other_classes = not same_classes or source.config["num_classes"] != model.config["num_classes"]
    trained = source.state_dict()
    state = model.state_dict()
    wanted = list(state)
    if other_classes:
        wanted = [name for name in wanted if not name.startswith(model.class_parameters)]
    if retrofit:  # both encodings have theirs
        wanted = [name for name in wanted if not name.startswith("position_encoding.")]

    # Prompts that only one of the two has: they are not there, or begin anew.
    if source.config.get("prompts") != model.config.get("prompts"):
        wanted = [name for name in wanted if not name.endswith(".prompt_tokens_PC")]

    stuck = [name for name in wanted if trained[name].shape != state[name].shape]
    if stuck:
        raise ValueError(
            f"model.init_from: {', '.join(stuck)} cannot move from {model.size_argument} "
            f"{old_size} to {new_size}; choose an encoding that follows the size"
        )

    model.load_state_dict(state | {name: trained[name] for name in wanted})

    moved = ["all weights"]
    if other_classes:
        moved = ["all weights but those of its classes, which are others here"]
        if not source.config["num_classes"]:
            moved = ["all weights of an encoder, which knows no classes"]
    if retrofit:
        kept = f", and {', '.join(taken_over)} stays as trained" if taken_over else ""
        moved.append(f"encoding {source.config['encoding']} becomes {model.config['encoding']}{kept}")
    if old_pyramid != model.pyramid:
        moved.append(
            f"positions from grids {old_pyramid} to {model.pyramid}, tables moved as {resample} does"
        )
    return moved


def blend_in(model: Resizable, old: PositionEncoding, old_line: str) -> list[str]:
    """Gives `model` a blend of `old` and its own encoding; returns the members that both lines have.

    Those begin with the old one's weights.

    Raises:
        ValueError: the two lines are one, a member can only be there or not, or one of both lines keeps the
            grids of another size.
    """
    new, new_line = model.position_encoding, model.config["encoding"]
    old_members, new_members = parse(old_line), parse(new_line)
    if old_members == new_members:
        raise ValueError(f"model.retrofit: the model has the encoding {new_line} already")

    try:
        blended = Blended(old, new)
    except ValueError as error:
        raise ValueError(f"model.retrofit: {error}") from error
    taken_over = []
    old_parts = parts_of(old)
    for member, part in zip(new_members, parts_of(new), strict=True):
        if member in old_members:
            trained = old_parts[old_members.index(member)].state_dict()
            try:
                part.load_state_dict(trained)
            except RuntimeError as error:
                raise ValueError(
                    f"model.retrofit: {member.text} cannot stay as trained: its weights belong to other "
                    f"grids than {model.pyramid}; retrofit at the size that the model was first trained at, "
                    f"or leave {member.name} out of the new line"
                ) from error
            taken_over.append(member.name)
    model.position_encoding = blended
    return taken_over


def blend_of(model: Resizable) -> Blended | None:
    """The two encodings of a model that is being retrofitted; None of any other model."""
    encoding = model.position_encodings().get("position_encoding")
    return encoding if isinstance(encoding, Blended) else None


def keep_new(model: Resizable) -> None:
    """Leaves a retrofitted model with its new encoding alone, as any other model that was built with it."""
    blended = blend_of(model)
    if blended is not None:
        model.position_encoding = blended.new


@torch.no_grad()
def start_tokenizer_from(model: VQTokenizer, source: VQTokenizer) -> tuple[list[str], int]:
    """Copies a trained tokenizer into `model`, which may have other levels and another number of codes.

    A larger codebook begins with the trained codes, whose use then counts as the same multiple of the mean; a
    smaller one has those most used. Returns in words what was copied, and the number of codes.

    Raises:
        ValueError: the two differ in more than that.
    """
    _check_alike(source, model, TOKENIZER_MAY_DIFFER, "tokenizer_init_from")
    trained, ours = source.quantizer, model.quantizer
    there, here = trained.num_codes, ours.num_codes
    kept = min(there, here)

    # All but what has a row for each code
    rows = [f"quantizer.{name}" for name in ("usage_V", *ours.rows_of_codes)]
    weights, own = source.state_dict(), model.state_dict()
    model.load_state_dict({name: weights[name] for name in weights if name not in rows}, strict=False)

    # The most used codes, in the order that they had
    chosen_V = trained.usage_V.argsort(descending=True, stable=True)[:kept].sort().values
    for name in rows:
        own[name][:kept] = weights[name][chosen_V]
    ours.usage_V[:kept] *= there / here

    moved = ["all weights"]
    if here > kept:
        moved = [f"all weights; its {kept} codes are the first of {here}, the others start from data"]
    elif there > kept:
        moved = [f"all weights, of its {there} codes the {kept} most used"]
    if model.pyramid != source.pyramid:
        moved.append(f"levels {source.pyramid} -> {model.pyramid}, for which nothing has to move")
    return moved, kept


def _check_alike(source: SavedModel, model: SavedModel, may_differ: Sequence[str], setting: str) -> None:
    """Checks that a model and the one that it starts from are the same but for some settings.

    Raises:
        ValueError: they are not; the sentence names the differences.
    """
    trees = []
    for one in (source, model):
        config = one.config.items()
        trees.append(
            {name: value for name, value in config if name not in may_differ and not name.startswith("_")}
        )

    lines = differences(trees[0], trees[1])
    if lines:
        raise ValueError(f"{setting} holds another model: {'; '.join(lines)}")
