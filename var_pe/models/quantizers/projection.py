"""Between the latent map and codes of few channels. Letter: `F` channels of a code."""

import torch
from torch import Generator, Tensor, nn

# Added to the diagonal of the products of rows, as a share of their mean: rows that become parallel then give
# large coordinates rather than infinite ones.
RIDGE = 1e-6


class Projection(nn.Module):
    """A learned linear map from F channels up to Z, and down as what undoes it.

    `down` takes the coordinates of least squares, which need no weights of their own: what `up` makes of a
    code, `down` takes back, so every code is rounded to itself. Its own weights count as constants.
    """

    def __init__(self, channels: int, latent_channels: int) -> None:
        super().__init__()
        if not 1 <= channels <= latent_channels:
            raise ValueError(
                f"a code's channels must be in 1 .. tokenizer.latent_channels = {latent_channels}, "
                f"got {channels}"
            )
        self.weight_FZ = nn.Parameter(torch.zeros(channels, latent_channels))

    def init_parameter(self, name: str, parameter: nn.Parameter, generator: Generator) -> None:
        nn.init.orthogonal_(parameter, generator=generator)

    @torch.no_grad()
    def scale(self, factor: Tensor) -> None:
        self.weight_FZ.mul_(factor)

    def up(self, code: Tensor) -> Tensor:
        """Vectors of F as vectors of Z, float32."""
        return code.float() @ self.weight_FZ.float()

    def down(self, z: Tensor) -> Tensor:
        """Vectors of Z as vectors of F, float32."""
        return z.float() @ self.inverse()

    @torch.no_grad()
    def inverse(self) -> Tensor:
        """What `down` multiplies by, float32 (Z, F)."""
        weight_FZ = self.weight_FZ.float()
        product_FF = weight_FZ @ weight_FZ.T
        diagonal_F = product_FF.diagonal()
        product_FF = product_FF + torch.diag_embed((RIDGE * diagonal_F.mean()).expand_as(diagonal_F))
        return weight_FZ.T @ torch.linalg.inv_ex(product_FF).inverse
