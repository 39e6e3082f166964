"""What trainings of segmenters and detectors have in common: their settings, and the encoder's layers."""

from typing import Annotated, Literal

from annotated_types import Gt, Le

from var_pe.models.dense.encoder import DenseModel
from var_pe.settings.fields import Doc, NonNegative, section
from var_pe.training.config import TrainingConfig
from var_pe.training.groups import ONE_RATE, LayerRates


@section
class DenseTraining(TrainingConfig):
    keep: Annotated[
        Literal["best", "last"],
        Doc(
            "which moving average becomes the finished model: that of the best validation or of the last step"
        ),
    ] = "best"
    layer_decay: Annotated[
        float,
        Gt(0),
        Le(1),
        Doc("learning rate of an encoder's layer, as a multiple of that of the layer above it; 1: the same"),
    ] = 1.0
    unfreeze_every: Annotated[
        NonNegative,
        Doc(
            "gradual unfreezing: steps until the encoder's next layer, from the last block down, is "
            "trained, too; 0: no layer is frozen; the number of all steps: the encoder stays frozen"
        ),
    ] = 0


def layers_of(model: DenseModel, config: DenseTraining) -> LayerRates:
    """The rates of the encoder's layers; whatever is on top of it is the layer of the head."""
    if config.layer_decay == 1 and not config.unfreeze_every:
        return ONE_RATE
    blocks = model.encoder.blocks_by_stage
    return LayerRates(sum(blocks), config.layer_decay, config.unfreeze_every, tuple(blocks), "encoder.")
