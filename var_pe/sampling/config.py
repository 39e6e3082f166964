"""The settings of drawing: what a pipeline's call starts from, and how many images a command draws."""

from typing import Annotated

from annotated_types import Len

from var_pe.encodings.machinery.bands import Remap
from var_pe.models.choice import (
    Guidance,
    GuidanceSchedule,
    Temperature,
    TopK,
    TopP,
    guidance_per_level,
    scale_guidance_per_level,
    temperature_per_level,
)
from var_pe.pyramid import Levels
from var_pe.settings.fields import Doc, FilePath, NonNegative, Positive, section


@section
class SamplingConfig:
    guidance_scale: Annotated[
        Guidance,
        Doc(
            "classifier-free guidance, in VAR's convention: 0 is none; diffusers' guidance_scale is this "
            "plus 1"
        ),
    ] = 1.5
    guidance_schedule: Annotated[
        GuidanceSchedule | list[Guidance],
        Doc(
            "linear: guidance rises from 0 at the first level; or a list of factors of guidance_scale, "
            "one for each level"
        ),
    ] = "linear"
    scale_guidance: Annotated[
        Guidance | list[Guidance],
        Doc(
            "pushes the prediction of each level away from that of the level before it; 0: none; one "
            "number, or one for each level"
        ),
    ] = 0.0
    temperature: Annotated[
        Temperature | list[Temperature],
        Doc(
            "temperature of the choice of codes, below 1 for likelier ones; one number, or one for each level"
        ),
    ] = 1.0
    top_k: Annotated[TopK, Doc("draw only from the k likeliest codes; 0: from all")] = 0
    top_p: Annotated[
        TopP, Doc("draw only from the likeliest codes that have this probability together; 0: from all")
    ] = 0.0
    images_per_class: Annotated[Positive, Doc("images of each class; in all, if there are no classes")] = 100
    batch: Annotated[Positive, Doc("images drawn in one batch; does not change the images")] = 100
    seed: Annotated[NonNegative, Doc("seed of the images")] = 0
    draws_per_image: Annotated[
        Positive,
        Doc("images drawn for each one that is kept, which sampling.classifier chooses (rejection sampling)"),
    ] = 1
    classifier: Annotated[
        FilePath | None,
        Doc("folder of the run of a classifier, which keeps the drawing whose class it finds likeliest"),
    ] = None
    size: Annotated[
        Annotated[list[Positive], Len(2, 2)] | None, Doc("rows and columns of pixels; null: as trained")
    ] = None
    levels: Annotated[
        Levels | None, Doc("grids from coarse to fine; null: the trained ones, scaled to size")
    ] = None
    remap: Annotated[
        Remap,
        Doc("waves of a trained rope that turn more slowly on larger grids; levels: the more, the coarser"),
    ] = "none"

    def __post_init__(self) -> None:
        if self.draws_per_image > 1 and self.classifier is None:
            raise ValueError(
                f"draws_per_image={self.draws_per_image} needs sampling.classifier, the folder of a "
                f"classifier's run, which chooses among the drawings"
            )

    def check_levels(self, num_levels: int) -> None:
        """Whether what is given for each level is given for so many.

        Raises:
            ValueError: there are more numbers or fewer.
        """
        guidance_per_level(self.guidance_scale, self.guidance_schedule, num_levels)
        scale_guidance_per_level(self.scale_guidance, num_levels)
        temperature_per_level(self.temperature, num_levels)
