"""Opens what is diagnosed: a run, a saved model or pipeline, another library's checkpoint.

What is wrong with a file is one sentence that names it; diffusers' own speaks to programmers.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from var_pe import settings
from var_pe.assembly import load_model
from var_pe.config import Config
from var_pe.diagnosis.files import in_words, read_config, stored, weight_files
from var_pe.diagnosis.subject import Subject
from var_pe.interop.var_files import read_state
from var_pe.interop.vit_checkpoint import convert
from var_pe.interop.vit_names import ViTWeights
from var_pe.models.generator import VARTransformer
from var_pe.models.tokenizer import VQTokenizer
from var_pe.models.vit import ViTClassifier

M = TypeVar("M", VARTransformer, VQTokenizer, ViTClassifier)
SIZES = {VARTransformer: "levels", VQTokenizer: "levels", ViTClassifier: "image_size"}  # settings that say it


@dataclass(frozen=True)
class Checkpoint:
    """What a state dict of another library does not say of itself."""

    source: str  # timm | torchvision | dinov2
    image_size: tuple[int, int]  # that the position table was made for
    num_heads: int


def open_subject(path: Path, checkpoint: Checkpoint | None = None) -> Subject:
    """A run's folder, a saved model's or pipeline's, or with `checkpoint` the file of another library.

    Raises:
        ValueError: it is none of these, is damaged, or its weights do not fit.
    """
    if path.is_file():
        if checkpoint is None:
            raise ValueError(
                f"{path} is a file of weights: say --source, --image-size and --num-heads as well"
            )
        return of_checkpoint(path, checkpoint)
    if (path / "config.yaml").exists():
        return of_run(path)
    if (path / "model_index.json").exists():
        tokenizer = load(VQTokenizer, path / "tokenizer")
        return Subject(path.name, load(VARTransformer, path / "transformer"), tokenizer=tokenizer)
    if not (path / "config.json").exists():
        raise ValueError(f"{path} is neither a run, nor a saved model or pipeline, nor a file of weights")
    if read_config(path).get("_class_name") == ViTClassifier.__name__:
        return Subject(path.name, load(ViTClassifier, path))
    return Subject(path.name, load(VARTransformer, path))


def of_run(folder: Path) -> Subject:
    config = settings.load(Config, folder / "config.yaml")
    if (folder / "classifier").is_dir():
        return Subject(folder.name, load(ViTClassifier, folder / "classifier"), config)
    model = load(VARTransformer, folder / "generator")
    tokenizer = Path(config.tokenizer_run) / "tokenizer"
    loaded = load(VQTokenizer, tokenizer) if (tokenizer / "config.json").exists() else None
    return Subject(folder.name, model, config, loaded)


def load(cls: type[M], folder: Path) -> M:
    """A model from its diffusers folder, whose files are looked at first.

    Raises:
        ValueError: a file is missing, damaged, or does not fit the others.
    """
    there = (folder / "config.json").exists()  # else, or where it is another's, the loader says so
    if there and read_config(folder).get("_class_name") == cls.__name__:
        check_weights(cls, folder)
    try:
        return load_model(cls, folder)
    except ValueError as error:
        named = str(folder) in str(error)
        raise ValueError(str(error) if named else f"{folder}: {error}") from error


def check_weights(cls: type[M], folder: Path) -> None:
    """Raises:
    ValueError: config.json describes no such model, or one with other weights than are stored."""
    config = read_config(folder)
    try:
        with torch.device("meta"):
            model: Any = cls.from_config(config)
    except ValueError as error:
        raise ValueError(f"{folder / 'config.json'} describes no {cls.__name__}: {error}") from error
    except Exception as error:  # settings of any type fail in every way there is
        raise ValueError(
            f"{folder / 'config.json'} describes no {cls.__name__}: a setting is of the wrong type ({error})"
        ) from error
    shapes = {name: shape for file in weight_files(folder) for name, shape in stored(file)[0].items()}
    wrong = [
        f"{name} is {in_words(shapes[name]) if name in shapes else 'missing'}, not {in_words(shape)}"
        for name, shape in ((name, tuple(value.shape)) for name, value in model.state_dict().items())
        if shapes.get(name) != shape
    ]
    if wrong:
        more = f" ({len(wrong) - 1} more differ)" if len(wrong) > 1 else ""
        raise ValueError(
            f"the weights in {folder} are not those that its config.json describes: {wrong[0]}{more}; "
            f"a setting such as {SIZES[cls]} was changed, or one of the two files is another model's"
        )


def of_checkpoint(path: Path, checkpoint: Checkpoint) -> Subject:
    """Raises:
    ValueError: the file holds no state dict of the library that was named."""
    state = read_state(path)
    try:
        weights = ViTWeights(state, checkpoint.source)
        model = convert(
            state,
            source=checkpoint.source,
            image_size=checkpoint.image_size,
            patch_size=patch_side(weights),
            num_heads=checkpoint.num_heads,
        )
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    table_1LC = weights.state.get(weights.theirs("pos_embed"))
    return Subject(path.name, model, absolute_LC=None if table_1LC is None else table_1LC[0].float())


def patch_side(weights: ViTWeights) -> int:
    """In pixels.

    Raises:
        ValueError: the patch kernel is none.
    """
    name = weights.theirs("patch_embed.proj.weight")
    kernel = weights.state[name]
    if kernel.dim() != 4 or not kernel.numel():
        raise ValueError(f"{name} must be width x channels x side x side, it is {in_words(kernel.shape)}")
    return int(kernel.shape[-1])
