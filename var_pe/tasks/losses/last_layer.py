"""Gradients of loss terms at the decoder's last layer, where they can be compared with each other."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

from var_pe.processes import Processes


class LastLayer:
    """Watches the convolution that makes the picture, to compute its weight's gradient from the picture's.

    A convolution that draws several pixels at a place (pixel shuffle) has a smaller map than the picture.

    The gradient of its weight is computed from what went in and what comes back, without a pass through the
    model: so it costs little, and the model may be compiled, cut into shards or checkpointed.
    """

    def __init__(self, convolution: nn.Conv2d, processes: Processes) -> None:
        self.convolution, self.processes = convolution, processes
        self._watching = False
        self._given: Tensor | None = None

    def watch(self) -> None:
        """Begins to watch, at the first call: copies that were made of the model before are not watched."""
        if not self._watching:
            self.convolution.register_forward_pre_hook(self._see)
            self._watching = True

    def _see(self, convolution: nn.Module, given: tuple[Tensor, ...]) -> None:
        if torch.is_grad_enabled():
            self._given = given[0].detach()

    def gradients(self, at_picture: dict[str, Tensor]) -> dict[str, Tensor]:
        """The weight's gradient for each gradient at the picture, the mean over all processes."""
        assert self._given is not None, "the model has made a picture since `watch`"
        given_BChw, self._given = self._given.float(), None

        found = []
        for gradient_BCHW in at_picture.values():
            pixels = gradient_BCHW.shape[-1] // given_BChw.shape[-1]
            found.append(
                conv2d_weight(
                    given_BChw,
                    list(self.convolution.weight.shape),
                    F.pixel_unshuffle(gradient_BCHW.float(), pixels),
                    self.convolution.stride,
                    self.convolution.padding,
                )
            )
        means = self.processes.sum(torch.stack(found)) / self.processes.world
        return dict(zip(at_picture, means, strict=True))
