"""Draws images of a trained run into a folder."""

import hashlib
from pathlib import Path

from accelerate import Accelerator

from var_pe.models.generator import VARTransformer
from var_pe.processes import Processes
from var_pe.progress import Counter
from var_pe.sampling.config import SamplingConfig
from var_pe.sampling.folder import fill_folder, write_npz
from var_pe.sampling.pipeline import VARPipeline
from var_pe.sampling.sheets import write_grid
from var_pe.stages.begun import check_codes
from var_pe.stages.config import Config
from var_pe.stages.models import load_model, load_tokenizer
from var_pe.training.notes import TrainingNotes


def load_pipeline(config: Config) -> VARPipeline:
    """The pipeline of the run's generator and the tokenizer that it was trained with.

    Raises:
        ValueError: one of them is missing or damaged, or the tokenizer has been trained on since.
    """
    check_codes(config)
    generator = Path(config.run) / "generator"
    transformer = load_model(VARTransformer, generator)
    class_names = TrainingNotes.read(generator).class_names or ()
    return VARPipeline(load_tokenizer(config), transformer, class_names)


def draw_folder(
    pipeline: VARPipeline,
    sampling: SamplingConfig,
    folder: Path,
    accelerator: Accelerator,
    *,
    npz: bool = False,
) -> Path:
    """Fills `folder/images` on all processes together, writes `folder/grid.png`, returns `folder/images`."""
    pipeline.to(accelerator.device)
    classes = pipeline.transformer.num_classes
    total = sampling.images_per_class * max(1, classes)
    processes = Processes.of(accelerator)

    with Counter(total, "drawing", shown=processes.is_main, processes=processes.world) as counter:
        fill_folder(
            folder,
            pipeline,
            sampling,
            weights=weights_of(pipeline),
            processes=processes,
            on_progress=counter.add,
        )
    accelerator.wait_for_everyone()

    if accelerator.is_main_process:
        write_grid(folder / "grid.png", folder, sampling, classes)
        if npz:
            write_npz(folder / "images.npz", folder)
    accelerator.wait_for_everyone()
    return folder / "images"


def weights_of(pipeline: VARPipeline) -> str:
    """A short hash of the values of all weights that images follow from."""
    digest = hashlib.sha256()
    for module in (pipeline.tokenizer, pipeline.transformer):
        for name, tensor in sorted(module.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
