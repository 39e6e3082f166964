"""Guidance by scale: a level is pushed towards what the coarser one does not explain."""

from functools import lru_cache
from math import cos, pi, sqrt

import torch
import torch.nn.functional as F
from torch import Tensor

from var_pe.pyramid import Grid
from var_pe.resampling.precision import full_precision


def guided_by_scale(logits_BlV: Tensor, prior_BlV: Tensor, strength: float) -> Tensor:
    """`logits + strength * (logits - prior)`: Scaled Spatial Guidance (Shin et al. 2026, arXiv 2602.05534).

    `prior_BlV` is what the level before says of these cells (`prior_of`).
    """
    return torch.lerp(prior_BlV, logits_BlV, 1 + strength)


def prior_of(before_BlV: Tensor, coarse: Grid, fine: Grid) -> Tensor:
    """Logits of the cells of `fine` from those of `coarse`, the level before: discrete spatial enhancement.

    Each code's map is interpolated linearly, and the lowest frequencies of its cosine transform, as many as
    the coarse grid has, are replaced by the coarse map's own, so that nothing of it is blurred.
    """
    with full_precision(before_BlV):
        matrix_ml = prior_matrix(coarse, fine, before_BlV.device)
        return torch.einsum("ml,blv->bmv", matrix_ml, before_BlV.float())


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # kept for later calls
def prior_matrix(coarse: Grid, fine: Grid, device: torch.device) -> Tensor:
    """What `prior_of` does with a map, float32 (cells of `fine`, cells of `coarse`); each row sums to 1.

    With U the linear interpolation along an axis, D the orthonormal cosine transform of the coarse axis, Q
    the first rows of that of the fine one, and s = sqrt(m / n) the factor by which a transform of m numbers
    exceeds that of the n it was interpolated from, the map x becomes

        U x U^T + Q^T (s s D x D^T - Q U x U^T Q^T) Q

    Computed in float64. The article states the replacement; that a constant map stays constant, which takes
    s, is ours.
    """
    interpolated, kept, blurred = [], [], []
    for n, m in zip(coarse, fine, strict=True):
        up_mn = F.interpolate(torch.eye(n, dtype=torch.float64)[None], size=m, mode="linear")[0].T
        low = min(n, m)
        q_fm, d_fn = cosines(m)[:low], cosines(n)[:low]
        interpolated.append(up_mn)
        kept.append(sqrt(m / n) * q_fm.T @ d_fn)
        blurred.append(q_fm.T @ q_fm @ up_mn)

    matrix_ml = torch.kron(*interpolated) + torch.kron(*kept) - torch.kron(*blurred)
    return matrix_ml.float().to(device)


def cosines(n: int) -> Tensor:
    """The orthonormal cosine transform (DCT-II) of n numbers, float64 (n, n), lowest frequency first."""
    rows = []
    for k in range(n):
        factor = sqrt((1 if k == 0 else 2) / n)
        rows.append([factor * cos(pi * (i + 0.5) * k / n) for i in range(n)])
    return torch.tensor(rows, dtype=torch.float64)
