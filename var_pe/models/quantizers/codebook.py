"""A codebook that is learned row by row: by gradient, or as running means of what is rounded to each code."""

from typing import Literal

import torch
from torch import Tensor, nn

from var_pe.models.quantizers.residual import MultiScaleQuantizer, QuantizerShape
from var_pe.settings.fields import check_choice

Learning = Literal["gradient", "ema"]

# Of counts, so that a code that no token uses is not divided by zero (Laplace smoothing)
SMOOTHING = 1e-5


class LearnedCodebook(MultiScaleQuantizer):
    """Tokens are rows of a table; `tasks/codebook.py` starts and restarts rows from data.

    Args:
        channels: of a row, which need not be those of the latent map.
        learning: `gradient`, or `ema`: each row is the moving average of what is rounded to it (van den Oord
            et al. 2017, appendix A.1; Razavi et al. 2019, section 2.1).
        decay: of that average, a step.
    """

    codebook_VZ: nn.Parameter
    ema_count_V: Tensor
    ema_sum_VZ: Tensor

    def __init__(
        self, shape: QuantizerShape, *, channels: int, learning: str, decay: float, gradient: str
    ) -> None:
        super().__init__(shape, num_codes=shape.codebook_size, gradient=gradient)
        check_choice("learning", learning, Learning)
        if not 0 < decay < 1:
            raise ValueError(f"decay must be in (0, 1), got {decay}")

        self.follows_data = learning == "ema"
        self.decay = decay
        self.rows_of_codes = ("codebook_VZ",)
        by_gradient = not self.follows_data
        self.codebook_VZ = nn.Parameter(torch.zeros(self.num_codes, channels), requires_grad=by_gradient)
        if self.follows_data:
            self.register_buffer("ema_count_V", torch.ones(self.num_codes))
            self.register_buffer("ema_sum_VZ", torch.zeros(self.num_codes, channels))
            self.rows_of_codes = ("codebook_VZ", "ema_count_V", "ema_sum_VZ")

    def coordinates(self, z_MZ: Tensor) -> Tensor:
        """Vectors of the latent map as rows that they can be compared and averaged with."""
        return z_MZ

    def settled(self, rows_VZ: Tensor) -> Tensor:
        """Means of coordinates as rows of the codebook."""
        return rows_VZ

    @torch.no_grad()
    def fill(self, codes: slice, z_MZ: Tensor) -> None:
        """Puts these vectors in the place of some neighbouring codes."""
        chosen_V = torch.zeros_like(self.usage_V, dtype=torch.bool)
        chosen_V[codes] = True
        vectors_VZ = z_MZ.new_zeros(self.num_codes, z_MZ.shape[1])
        vectors_VZ[codes] = z_MZ
        self.replace(chosen_V, vectors_VZ)

    @torch.no_grad()
    def replace(self, chosen_V: Tensor, z_VZ: Tensor) -> None:
        """Puts vectors in the place of chosen codes, each that of its number; which are is not asked for."""
        rows_VZ = self.coordinates(z_VZ)
        self.codebook_VZ.copy_(torch.where(chosen_V[:, None], rows_VZ, self.codebook_VZ))
        if self.follows_data:
            count = self.ema_count_V.mean()
            self.ema_count_V.copy_(self.ema_count_V.where(~chosen_V, count))
            self.ema_sum_VZ.copy_(torch.where(chosen_V[:, None], count * rows_VZ, self.ema_sum_VZ))

    @torch.no_grad()
    def follow(self, count_V: Tensor, sum_VZ: Tensor) -> None:
        """One step of the moving averages: how many vectors each code got, and the sum of their coordinates.

        Razavi et al. 2019, equations in section 2.1, with smoothed counts.
        """
        self.ema_count_V.lerp_(count_V, 1 - self.decay)
        self.ema_sum_VZ.lerp_(sum_VZ, 1 - self.decay)

        total = self.ema_count_V.sum()
        smoothed_V = (self.ema_count_V + SMOOTHING) / (total + self.num_codes * SMOOTHING) * total
        self.codebook_VZ.copy_(self.settled(self.ema_sum_VZ / smoothed_V[:, None]))
