"""The settings of drawing: what a pipeline's call starts from, and how many images a command draws."""

from typing import Annotated

from annotated_types import Len

from var_pe.models.choice import Guidance, GuidanceSchedule, Temperature, TopK, TopP
from var_pe.pyramid import Levels
from var_pe.settings.fields import Doc, FilePath, NonNegative, Positive, section


@section(frozen=True)
class SamplingConfig:
    guidance_scale: Annotated[
        Guidance, Doc("VAR's convention: 0 is none; in diffusers' convention the weight is 1 + it")
    ] = 1.5
    guidance_schedule: Annotated[
        GuidanceSchedule | list[Guidance],
        Doc("linear: from 0 at the first level; or a factor of the scale for each level"),
    ] = "linear"
    scale_guidance: Annotated[
        Guidance | list[Guidance],
        Doc(
            "pushes each level away from what the one before says of it; 0: none; one, or one for each level"
        ),
    ] = 0.0
    temperature: Annotated[
        Temperature | list[Temperature],
        Doc("below 1 is more cautious; one, or one for each level"),
    ] = 1.0
    top_k: Annotated[TopK, Doc("draw among the likeliest k codes; 0: all")] = 0
    top_p: Annotated[TopP, Doc("draw among the likeliest codes of this mass together; 0: all")] = 0.0
    images_per_class: Annotated[Positive, Doc("images of each class; without classes, of the whole")] = 100
    batch: Annotated[Positive, Doc("images drawn together; does not change them")] = 100
    seed: Annotated[NonNegative, Doc("of the images")] = 0
    draws_per_image: Annotated[
        Positive, Doc("drawings of each image, of which sampling.classifier keeps one (rejection sampling)")
    ] = 1
    classifier: Annotated[
        FilePath | None, Doc("folder of a classifier's run: keeps the drawing whose class it finds likeliest")
    ] = None
    size: Annotated[
        Annotated[list[Positive], Len(2, 2)] | None, Doc("rows and columns of pixels; null: as trained")
    ] = None
    levels: Annotated[Levels | None, Doc("grids from coarse to fine; null: the trained ones, to size")] = None

    def __post_init__(self) -> None:
        if self.draws_per_image > 1 and self.classifier is None:
            raise ValueError(
                f"draws_per_image={self.draws_per_image} needs sampling.classifier, the folder of a "
                f"classifier's run, which chooses among the drawings"
            )
