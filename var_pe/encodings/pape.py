"""Parabolas as scores: every query says how fast they fall with the displacement, and where they lean."""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from var_pe.encodings.base import ModelShape, own, register
from var_pe.encodings.machinery.scores import ProductEncoding, displacement
from var_pe.pyramid import Positions


@dataclass(frozen=True)
class Parabolas:
    """The displacements of pairs, and what the queries' parabolas are made by, of all layers or of one."""

    # from query to key, in cells of the finest level: y, x, y^2, 2 y x, x^2, (Lq, Lk, 5)
    power_QK5: Tensor
    direction_NHP2: Tensor
    fall_NHDP: Tensor
    lean_NHDP: Tensor


@register("pape")
class PaPE(ProductEncoding[Parabolas]):
    """`score += sum over p of b_p(q) (u_p . d) - a_p(q) (u_p . d)^2`, a_p(q) = softplus(q . A_p) > 0.

    PaPE (Ohrstrom et al. 2026, arXiv 2602.01418, and its public code): each head has P directions u_p, along
    which every query q chooses how fast a parabola falls (a_p) and how far it leans to a side, b_p = q . B_p.
    d is the displacement from query to key in cells of the finest level: nothing else of places matters,
    scores fall without end, and what falls is up to the content. With `isotropic`, their PaPE-RI: one a per
    head, no b, and |d|^2 for the squares, so that turning the picture changes nothing.

    Theirs makes a and b of the tokens before attention's map and scales the sum as the other products; here
    they are made of the queries, scaled as those are, and the sum is taken as it is. u of PaPE-RI, one number
    a head, is random and stays so there; here it is learned. Theirs widens queries
    and keys by 3 P + 2 channels, which keeps the flash kernel, but takes squares of places apart and
    together again, which 16 bits do not stand; here it is worked out in float32 for each pair, 0 for a token
    itself. Prefix tokens get 0. Of levels it knows nothing but where their tokens are.

    u starts normal, such that the fall to the farthest cell is about 0.7; A and B normal with deviation
    1 / sqrt(D). Follows any pyramid: nothing moves.

    Cost: loses the flash kernel, five products a pair for each image, head and layer (`ProductEncoding`),
    and 2 (D + 1) P numbers a head and layer.

    Args:
        parabolas: P; 50 in the paper.
        isotropic: PaPE-RI, for which P is 1.
    Raises:
        ValueError: `parabolas` is below 1 or above 1024.
    """

    def __init__(self, shape: ModelShape, *, parabolas: int = 8, isotropic: bool = False) -> None:
        super().__init__()
        if not 1 <= parabolas <= 1024:
            raise ValueError(f"pape: parabolas is a whole number from 1 to 1024, got {parabolas}")

        self.isotropic = isotropic
        self.longest = max(shape.pyramid.finest)
        number = 1 if isotropic else parabolas
        heads = (shape.depth, shape.num_heads)
        head_dim = shape.dim // shape.num_heads
        self.direction_NHP2 = nn.Parameter(torch.zeros(*heads, number, 1 if isotropic else 2))
        self.fall_NHDP = nn.Parameter(torch.zeros(*heads, head_dim, number))
        if not isotropic:
            self.lean_NHDP = nn.Parameter(torch.zeros(*heads, head_dim, number))

    def init_parameter(self, name: str, parameter: nn.Parameter, generator: torch.Generator) -> None:
        if name == "direction_NHP2":
            std = 1 / self.longest / parameter.shape[2] ** 0.5
        else:
            std = parameter.shape[2] ** -0.5
        nn.init.normal_(parameter, std=std, generator=generator)

    def geometry(self, query: Positions, key: Positions) -> Parabolas:
        dy_QK, dx_QK = (-displacement(query, key)).unbind(-1)
        power_QK5 = torch.stack([dy_QK, dx_QK, dy_QK**2, 2 * dy_QK * dx_QK, dx_QK**2], dim=-1)
        lean_NHDP = self.fall_NHDP if self.isotropic else self.lean_NHDP
        return Parabolas(power_QK5, self.direction_NHP2, self.fall_NHDP, lean_NHDP)

    def geometry_at(self, geometry: Parabolas, layer: int) -> Parabolas:
        here = slice(layer, layer + 1)
        return replace(
            geometry,
            direction_NHP2=geometry.direction_NHP2[here],
            fall_NHDP=geometry.fall_NHDP[here],
            lean_NHDP=geometry.lean_NHDP[here],
        )

    def answers(self, q_BHQD: Tensor, k_BHKD: Tensor, geometry: Parabolas, layer: int) -> Tensor:
        place = own(layer, len(geometry.fall_NHDP))
        u_HP2 = geometry.direction_NHP2[place].float()
        a_BHQP = F.softplus(q_BHQD @ geometry.fall_NHDP[place].float())
        if self.isotropic:
            a_BHQ1 = a_BHQP * u_HP2[:, 0, :, None] ** 2
            return -a_BHQ1 * geometry.power_QK5[..., 2::2].sum(-1)

        # A sum of parabolas over two axes is one quadratic form for each query.
        b_BHQP = q_BHQD @ geometry.lean_NHDP[place].float()
        uy_HP, ux_HP = u_HP2.unbind(-1)
        square_HP3 = torch.stack([uy_HP**2, uy_HP * ux_HP, ux_HP**2], dim=-1)
        form_BHQ5 = torch.cat([b_BHQP @ u_HP2, -a_BHQP @ square_HP3], dim=-1)
        return torch.einsum("BHQm,QKm->BHQK", form_BHQ5, geometry.power_QK5)
