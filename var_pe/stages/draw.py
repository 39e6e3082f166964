"""Draws images of a trained run into a folder."""

import hashlib
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from accelerate import Accelerator
from pydantic import TypeAdapter

from var_pe.data.class_names import no_such_class
from var_pe.models.generator import VARTransformer
from var_pe.processes import Processes
from var_pe.progress import Counter
from var_pe.sampling.config import SamplingConfig
from var_pe.sampling.folder import drawn_with, fill_folder, write_npz
from var_pe.sampling.pipeline import VARPipeline
from var_pe.sampling.sheets import write_grid
from var_pe.stages.begun import check_codes
from var_pe.stages.config import Config
from var_pe.stages.models import load_classifier_of_images, load_model, load_tokenizer
from var_pe.training.notes import TrainingNotes


def load_pipeline(config: Config) -> VARPipeline:
    """The pipeline of the run's generator, its tokenizer and, for rejection sampling, its classifier.

    Raises:
        ValueError: one of them is missing or damaged, the tokenizer has been trained further since, or the
            generator has no waves for `sampling.remap`.
    """
    check_codes(config)
    generator = Path(config.run) / "generator"
    transformer = load_model(VARTransformer, generator)
    class_names = TrainingNotes.read(generator).class_names or ()
    return as_asked(VARPipeline(load_tokenizer(config), transformer, class_names), config.sampling)


def as_asked(pipeline: VARPipeline, sampling: SamplingConfig) -> VARPipeline:
    """The pipeline with the classifier that chooses among several drawings of an image, if that is asked for,
    and with waves of rope remapped, if that is.

    Raises:
        ValueError: the classifier is missing or damaged, or tells other classes apart than are drawn, or the
            generator has no waves that can be remapped.
    """
    if sampling.remap != "none":
        pipeline.transformer.remap_waves(sampling.remap)
    if sampling.draws_per_image == 1 or sampling.classifier is None:
        return pipeline

    folder = Path(sampling.classifier) / "classifier"
    theirs = TrainingNotes.read(folder).class_names or ()
    if pipeline.class_names and theirs and theirs != tuple(pipeline.class_names):
        raise ValueError(
            f"sampling.classifier={sampling.classifier} was trained on other classes "
            f"({', '.join(theirs[:3])} ...) than the generator ({', '.join(pipeline.class_names[:3])} ...)"
        )
    pipeline.classifier = load_classifier_of_images(folder)
    return pipeline


def draw_folder(
    pipeline: VARPipeline,
    sampling: SamplingConfig,
    folder: Path,
    accelerator: Accelerator,
    *,
    npz: bool = False,
    keep_tokens: bool = False,
    classes: Sequence[int] | None = None,
) -> Path:
    """Fills `folder/images` on all processes together, writes `folder/grid.png`, returns `folder/images`.

    `classes`: these alone, each once. `keep_tokens`: the images' tokens are kept beside them.
    """
    pipeline.to(accelerator.device)
    if pipeline.classifier is not None:
        pipeline.classifier.to(accelerator.device)
    if classes is None:
        classes = range(max(1, pipeline.transformer.num_classes))
    total = sampling.images_per_class * len(classes)
    processes = Processes.of(accelerator)

    with Counter(total, "drawing", shown=processes.is_main, processes=processes.world) as counter:
        fill_folder(
            folder,
            pipeline,
            sampling,
            weights=weights_of(pipeline),
            classes=classes,
            keep_tokens=keep_tokens,
            processes=processes,
            on_progress=counter.add,
        )
    accelerator.wait_for_everyone()

    if accelerator.is_main_process:
        write_grid(folder / "grid.png", folder, sampling, classes, pipeline.class_names)
        if npz:
            write_npz(folder / "images.npz", folder)
    accelerator.wait_for_everyone()
    return folder / "images"


def sampling_of(folder: Path, config: SamplingConfig) -> SamplingConfig:
    """The settings that a folder's images were drawn with; `config` if it notes none, or none that are valid.

    Raises:
        ValueError: its sampling.json is damaged.
    """
    there = drawn_with(folder)
    if there is None:
        return config

    # Beside the settings the file has notes, such as of the weights.
    names = [field.name for field in fields(SamplingConfig)]
    recorded = {name: there[name] for name in names if name in there}
    try:
        return TypeAdapter(SamplingConfig).validate_python(
            {**recorded, "batch": config.batch, "classifier": config.classifier}, strict=False
        )
    except ValueError:
        return config


def class_in_words(word: str, pipeline: VARPipeline, option: str) -> int:
    """The class that a word on a command line means: by its name, else by its number.

    Raises:
        ValueError: there is no such class.
    """
    if word in pipeline.class_names:
        return pipeline.class_names.index(word)

    classes = pipeline.transformer.num_classes
    if word.isascii() and word.isdecimal() and not any(map(str.isdecimal, pipeline.class_names)):
        if int(word) < classes:
            return int(word)
        raise ValueError(f"{option} {word}: there are {classes} classes, numbers from 0 to {classes - 1}")
    if not classes:
        raise ValueError(f"{option} {word}: the generator was trained without classes")
    raise ValueError(f"{option}: {no_such_class(word, pipeline.class_names)}")


def weights_of(pipeline: VARPipeline) -> str:
    """A short hash of the values of all weights that images follow from, and of how waves are remapped."""
    digest = hashlib.sha256()
    line = pipeline.transformer.config["encoding"]
    if "remap=" in line:  # folders of others keep the hash they had before there was a remap
        digest.update(line.encode())
    for module in filter(None, (pipeline.tokenizer, pipeline.transformer, pipeline.classifier)):
        for name, tensor in sorted(module.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
