"""A pipeline's folder: what is loaded from it is checked, and its card and VAR's statistics stay with it."""

import json
from os import PathLike
from pathlib import Path
from typing import Any, Self, cast

import diffusers
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from huggingface_hub import CommitInfo, upload_folder

from var_pe.files import write_text
from var_pe.models.code_counts import load_hits, save_hits
from var_pe.models.folder import check_folder, check_whole
from var_pe.models.generator import VARTransformer
from var_pe.models.tokenizer import VQTokenizer
from var_pe.models.weight_files import files_by_variant

INDEX, CARD = "model_index.json", "README.md"
PARTS = {"tokenizer": VQTokenizer, "transformer": VARTransformer}
FILES = (INDEX, CARD, *(f"{part}/*.{kind}" for part in PARTS for kind in ("json", "safetensors", "bin")))


class SavedPipeline(DiffusionPipeline):
    """A pipeline of a `tokenizer` and a `transformer` in a folder that can be loaded, saved again and pushed.

    `card` is the model card that lay in the folder it was loaded from, None where there was none.
    """

    tokenizer: VQTokenizer
    transformer: VARTransformer
    card: str | None = None
    extras_are_read: bool = False

    def __init_subclass__(cls, **kwargs: object) -> None:
        """Lets `DiffusionPipeline.from_pretrained` find the class, which it looks up in `diffusers` alone."""
        super().__init_subclass__(**kwargs)
        setattr(diffusers, cls.__name__, cls)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | PathLike[str], **kwargs: object) -> Self:
        """diffusers' loader; what it leaves empty or cannot read in a local folder is an error.

        Raises:
            ValueError: a folder does not hold a pipeline of this package, or a file in it is missing.
        """
        folder = Path(pretrained_model_name_or_path).expanduser()
        local = folder.is_dir()
        name = folder if local else pretrained_model_name_or_path
        variant = cast(str | None, kwargs.get("variant"))
        if local and not is_ours(folder):
            raise ValueError(f"{folder} has no {INDEX} of a pipeline of var_pe: not a saved pipeline")
        if local:
            # A part without the variant is loaded as it is, if another part has it.
            having = [part for part in PARTS if variant in files_by_variant(folder / part)]
            for part, cls_of_part in PARTS.items():
                if part not in kwargs:  # otherwise the caller gives it, and it is not read
                    own = variant if part in having or not having else None
                    check_folder(cls_of_part, folder / part, own)
            if not list(folder.glob("*/*.safetensors")):
                kwargs.setdefault(
                    "use_safetensors", False
                )  # diffusers finds shards of the other kind so alone

        pipeline = super().from_pretrained(name, **kwargs)
        for part in PARTS:
            check_whole(getattr(pipeline, part), f"{name}/{part}")

        pipeline._read_extras()
        return pipeline

    @classmethod
    def from_folder(cls, folder: Path, option: str) -> Self:
        """The pipeline in a folder that an option of a script names; nothing is looked for on the hub."""
        if not (folder / INDEX).exists():
            made = f"; scripts/sample.py --run {folder} --save-pipeline DIR makes one of a run"
            if not (folder / "generator").is_dir():
                made = ""
            raise ValueError(f"{option} {folder} has no {INDEX}: not a saved pipeline{made}")
        return cls.from_pretrained(folder, local_files_only=True, use_safetensors=True)

    @classmethod
    def from_pipe(cls, pipeline: DiffusionPipeline, **kwargs: object) -> Self:
        """diffusers' way from one pipeline to another of the same models; the card goes along.

        The models keep their dtype unless `torch_dtype` gives another: diffusers would cast them to float32,
        in the first pipeline, too.
        """
        if not kwargs.keys() & {"torch_dtype", "dtype"}:
            kwargs["torch_dtype"] = pipeline.dtype
        other = super().from_pipe(pipeline, **kwargs)
        other.card = getattr(pipeline, "card", None)
        return other

    def save_pretrained(self, save_directory: str | PathLike[str], *args: Any, **kwargs: Any) -> None:
        """diffusers' folder, with the card and the statistics of VAR's files that came with this pipeline."""
        folder = Path(save_directory).expanduser()
        self._read_extras()  # not read yet if diffusers' own class has loaded the pipeline
        save_hits(self.tokenizer, folder / "tokenizer")  # first: with push_to_hub=True the rest is an upload
        super().save_pretrained(folder, *args, **kwargs)
        self._keep_card(folder)

    def _read_extras(self) -> None:
        """Reads the files that lie beside the weights in the folder that the pipeline was loaded from."""
        if self.extras_are_read:
            return
        self.extras_are_read = True

        # VAR's statistics lie beside the tokenizer's weights: in this folder, another one or the hub's cache.
        came_from = self.tokenizer.config.get("_name_or_path")
        if came_from:
            load_hits(self.tokenizer, Path(came_from))
        card = Path(str(self.config.get("_name_or_path") or "")) / CARD
        if self.card is None and card.parent != Path() and card.is_file():
            self.card = card.read_text(encoding="utf-8")

    def _keep_card(self, folder: Path) -> None:
        if self.card is not None:
            write_text(folder / CARD, self.card)

    def _upload_folder(
        self, working_dir: str | PathLike[str], repo_id: str, *args: Any, **kwargs: Any
    ) -> CommitInfo:
        """The end of push_to_hub; diffusers has by then written a card that says nothing of the run."""
        self._keep_card(Path(working_dir))
        return upload(Path(working_dir), repo_id, *args, **kwargs)


def upload(
    folder: Path,
    name: str,
    token: str | None = None,
    commit_message: str | None = None,
    create_pr: bool = False,
    subfolder: str | None = None,
) -> CommitInfo:
    """Sends the files of the pipeline in `folder`, and no others that lie there, to the hub's `name`."""
    return upload_folder(
        repo_id=name,
        folder_path=folder,
        path_in_repo=subfolder,
        allow_patterns=list(FILES),
        token=token,
        commit_message=commit_message or "Upload a VARPipeline",
        create_pr=create_pr,
    )


def is_ours(folder: Path) -> bool:
    """Whether a folder's index names a pipeline of ours."""
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(index, dict) and index.get("_class_name") in ("VARPipeline", "VARInpaintPipeline")


def check_free(folder: Path, option: str) -> None:
    """Refuses a folder in which a saved pipeline would lie among, or write over, somebody's other files.

    Raises:
        ValueError: it is such a folder.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{option} {folder} is a file; name a folder")

    if folder.is_dir() and any(folder.iterdir()) and not is_ours(folder):
        raise ValueError(
            f"{option} {folder} holds other files than a saved pipeline; choose another or empty it"
        )
