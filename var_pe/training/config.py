"""The settings that every training has, whatever is trained; a task adds its own."""

import math
from dataclasses import field
from typing import Annotated, Literal

from annotated_types import Len

from var_pe.settings.fields import (
    CHANGES_NO_WEIGHTS,
    Doc,
    NonNegative,
    NonNegativeFloat,
    Positive,
    PositiveFloat,
    Share,
    ShareBelowOne,
    section,
)
from var_pe.training.compilation import Compile
from var_pe.training.precision import Precision
from var_pe.training.schedule import Schedule


@section
class TrainingConfig:
    steps: Annotated[NonNegative, Doc("optimizer steps; 0: as many as `epochs` takes")] = 0
    epochs: Annotated[PositiveFloat, Doc("passes over the training set, if steps is 0")] = 1.0
    batch: Annotated[Positive, Doc("images per optimizer step, over all processes and micro-batches")] = 256
    accumulate: Annotated[Positive, Doc("micro-batches per optimizer step (gradient accumulation)")] = 1
    optimizer: Annotated[
        Literal["adamw", "muon"],
        Doc("muon: orthogonal updates for the matrices inside blocks, AdamW for the rest"),
    ] = "adamw"
    learning_rate: Annotated[PositiveFloat, Doc("its peak")] = 3e-4
    schedule: Annotated[Schedule, Doc("schedule of the learning rate after its warm-up")] = "cosine"
    warmup: Annotated[
        ShareBelowOne, Doc("share of the steps over which the learning rate rises (warm-up)")
    ] = 0.02
    final_ratio: Annotated[Share, Doc("learning rate at the end, as a share of the peak")] = 0.0
    betas: Annotated[list[ShareBelowOne], Len(2, 2), Doc("AdamW's betas")] = field(
        default_factory=lambda: [0.9, 0.95]
    )
    weight_decay: Annotated[
        NonNegativeFloat, Doc("for all weights but biases, norms, position and level embeddings, and codes")
    ] = 0.05
    max_grad_norm: Annotated[PositiveFloat, Doc("gradients are clipped to this norm")] = 2.0
    ema: Annotated[ShareBelowOne, Doc("largest decay of the weights' moving average (EMA)")] = 0.999
    keep: Annotated[
        Literal["best", "last"],
        Doc(
            "which moving average becomes the finished model: that of the best validation or of the last step"
        ),
    ] = "last"
    patience: Annotated[
        NonNegative,
        Doc(
            "early stopping: validations in a row without a new best one after which the training ends; "
            "0: off"
        ),
    ] = 0
    precision: Annotated[
        Precision,
        Doc("precision of products; auto: bf16 on GPUs and processors that have it, else float32"),
    ] = "float32"
    compile: Annotated[
        Compile,
        Doc(
            "what torch.compile compiles: the repeated blocks, the whole forward pass or nothing; auto: "
            "blocks in trainings of 5000 steps or more"
        ),
    ] = "auto"
    checkpointing: Annotated[
        bool, Doc("recompute activations in the backward pass, block by block: less memory, more time")
    ] = False
    log_every: Annotated[Positive, Doc("steps between log entries"), CHANGES_NO_WEIGHTS] = 50
    save_every: Annotated[
        Positive, Doc("steps between checkpoints; the last two are kept"), CHANGES_NO_WEIGHTS
    ] = 500
    validate_every: Annotated[
        NonNegative, Doc("steps between validations; 0: only at the end"), CHANGES_NO_WEIGHTS
    ] = 500
    preview_every: Annotated[
        NonNegative, Doc("steps between pictures; 0: only at the end"), CHANGES_NO_WEIGHTS
    ] = 500
    validation_images: Annotated[Positive, Doc("test images to validate on"), CHANGES_NO_WEIGHTS] = 2000
    workers: Annotated[
        NonNegative, Doc("data loading processes per training process"), CHANGES_NO_WEIGHTS
    ] = 0
    trackers: Annotated[
        list[Literal["tensorboard", "wandb", "trackio"]],
        Doc("where logged values go besides log.jsonl"),
        CHANGES_NO_WEIGHTS,
    ] = field(default_factory=lambda: ["tensorboard"])

    def __post_init__(self) -> None:
        if self.batch % self.accumulate:
            raise ValueError(f"accumulate must be a divisor of batch ({self.batch}), got {self.accumulate}")
        if self.patience and not self.validate_every:
            raise ValueError(f"patience={self.patience} counts validations: set validate_every, got 0")

    def steps_for(self, length: int | None) -> int:
        """Optimizer steps for a training set of `length` images (None: a stream, of unknown length).

        Raises:
            ValueError: the steps are not set and the length is not known.
        """
        if length is None and not self.steps:
            raise ValueError(
                "data.streaming needs the training's steps: a stream has no length for epochs to count"
            )
        return self.steps or max(1, math.ceil(self.epochs * (length or 0) / self.batch))
