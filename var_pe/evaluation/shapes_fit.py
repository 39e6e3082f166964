"""Lays a kind of made-up shape over pictures, with the place, size, blur and colours that explain them best.

`data/shapes.py` mixes a shaded ground and a colour by a cover that follows from kind, centre and radius:
pixel = (1 - cover) * ground + cover * colour, where the ground is a plane in y and x. Given the cover, the
colours follow by least squares; the cover itself is found by Gauss and Newton with the colours eliminated
(variable projection, Kaufman 1975). Pixels are in [0, 255].

Letters: `N` pictures, `H W` pixels of height and width, `P` all pixels; `M` = 4 parts of a picture (the
ground, its slopes down and across, the shape); `F` = 4 numbers of a form.
"""

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from var_pe.data.shapes import RADII, distance

Array = NDArray[np.floating]
Chosen = NDArray[np.integer] | NDArray[np.bool_]

SHARPEST, SOFTEST = 0.2, 0.1  # blur of a cover: in pixels (as good as sharp), in parts of the shorter side
RADIUS_BEYOND = 0.7  # how far below the set's radii, and as far above, forms may go
DELTA = 0.25  # pixels: by what derivatives are taken
LONGEST = 1.0  # pixels: of a step


@dataclass(frozen=True)
class Fit:
    """A kind laid over pictures."""

    # centre y, centre x, radius and blur (a standard deviation), in pixels
    form_NF: Array
    cover_NP: Array
    # what each part's colour is multiplied by
    basis_NPM: Array
    colour_NM3: Array
    # what is not explained, and its energy
    left_NP3: Array
    energy_N: Array
    # of each picture's next step
    damping_N: Array

    def take(self, chosen: Chosen) -> "Fit":
        """The fits of some pictures."""
        return Fit(*(getattr(self, field.name)[chosen] for field in fields(self)))


class Canvas:
    """The pixels of pictures of one size, and what can be laid over them."""

    def __init__(self, height: int, width: int) -> None:
        self.height, self.width = height, width
        self.side = min(height, width)
        self.y_H1 = np.arange(0.5, height, dtype=np.float32)[:, None]
        self.x_1W = np.arange(0.5, width, dtype=np.float32)[None, :]

        # The ground's parts: constant, and the slopes from -1 to 1
        down_HW = np.broadcast_to(2 * self.y_H1 / height - 1, (height, width))
        across_HW = np.broadcast_to(2 * self.x_1W / width - 1, (height, width))
        self.ground_P3 = np.stack([np.ones_like(down_HW), down_HW, across_HW], -1).reshape(-1, 3)

        least = (0, 0, RADIUS_BEYOND * min(RADII) * self.side, SHARPEST)
        most = (height, width, max(RADII) * self.side / RADIUS_BEYOND, SOFTEST * self.side)
        self.least_F = np.array(least, np.float32)
        self.most_F = np.array(most, np.float32)

    def cover(self, kind: str, form_NF: Array) -> Array:
        """How much of each pixel the shape covers, (N, P), as `data.shapes.render` has it, then blurred."""
        centre_y, centre_x = form_NF.T[:2, :, None, None]
        radius, blur = form_NF.T[2:, :, None, None]
        edge_NHW = distance(kind, self.y_H1 - centre_y, self.x_1W - centre_x, radius)
        cover_NHW = np.clip(0.5 - edge_NHW, 0, 1)
        blurred_NHW = smoothing(blur, self.height) @ cover_NHW @ smoothing(blur, self.width).swapaxes(1, 2)
        return blurred_NHW.reshape(len(form_NF), self.height * self.width)

    def basis(self, cover_NP: Array) -> Array:
        """What the colours of ground, slopes and shape are multiplied by, (N, P, M)."""
        ground_NP3 = (1 - cover_NP[:, :, None]) * self.ground_P3
        return np.concatenate([ground_NP3, cover_NP[:, :, None]], -1)

    def contrast(self, fit: Fit) -> Array:
        """Colour of the shape less that of the ground under it, (N, P, 3)."""
        return fit.colour_NM3[:, 3:] - self.ground_P3 @ fit.colour_NM3[:, :3]

    def fit(self, kind: str, form_NF: Array, pictures_NP3: Array, damping_N: Array | None = None) -> Fit:
        """The best colours for a form."""
        cover_NP = self.cover(kind, form_NF)
        basis_NPM = self.basis(cover_NP)
        transposed = basis_NPM.swapaxes(1, 2)
        gram = (transposed @ basis_NPM).astype(np.float64) + 1e-3 * np.eye(4)
        colour_NM3 = np.linalg.solve(gram, transposed @ pictures_NP3).astype(np.float32)

        left_NP3 = pictures_NP3 - basis_NPM @ colour_NM3
        energy_N = np.einsum("npc,npc->n", left_NP3, left_NP3)
        if damping_N is None:
            damping_N = np.full(len(form_NF), 1e-3)
        return Fit(form_NF, cover_NP, basis_NPM, colour_NM3, left_NP3, energy_N, damping_N)

    def refined(self, kind: str, fit: Fit, pictures_NP3: Array) -> Fit:
        """One step of Gauss and Newton, damped as by Levenberg; a fit that it would make worse stays."""
        step_NF = self.step(kind, fit).clip(-LONGEST, LONGEST)
        form_NF = np.clip(fit.form_NF + step_NF, self.least_F, self.most_F).astype(np.float32)
        tried = self.fit(kind, form_NF, pictures_NP3, 0.3 * fit.damping_N)

        better = tried.energy_N < fit.energy_N
        kept = []
        for field in fields(Fit):
            old, new = getattr(fit, field.name), getattr(tried, field.name)
            if field.name == "damping_N":
                old = 10 * old + 0.01
            kept.append(np.where(better.reshape(-1, *[1] * (old.ndim - 1)), new, old))
        return Fit(*kept)

    def step(self, kind: str, fit: Fit) -> Array:
        """By how much the forms should change, (N, F)."""
        slope_NPF = np.stack(
            [
                (self.cover(kind, fit.form_NF + DELTA * unit) - fit.cover_NP) / DELTA
                for unit in np.eye(4, dtype=np.float32)
            ],
            axis=-1,
        )

        # The derivative of a picture is slope times contrast. What other colours could do as well, its
        # projection on the basis, does not count.
        contrast_NP3 = self.contrast(fit)
        transposed = fit.basis_NPM.swapaxes(1, 2)
        gram = (transposed @ fit.basis_NPM).astype(np.float64) + 1e-3 * np.eye(4)
        weight_NP1 = np.einsum("npc,npc->np", contrast_NP3, contrast_NP3)[:, :, None]
        normal = (slope_NPF.swapaxes(1, 2) @ (weight_NP1 * slope_NPF)).astype(np.float64)
        for channel in range(3):
            shared = (transposed @ (contrast_NP3[:, :, channel, None] * slope_NPF)).astype(np.float64)
            normal -= shared.swapaxes(1, 2) @ np.linalg.solve(gram, shared)

        wanted_NP = np.einsum("npc,npc->np", contrast_NP3, fit.left_NP3)
        gradient_NF1 = slope_NPF.swapaxes(1, 2) @ wanted_NP[:, :, None]
        normal += (normal * fit.damping_N[:, None, None] + 1e-3) * np.eye(4)
        return np.linalg.solve(normal, gradient_NF1)[:, :, 0]

    def smoothed(self, pictures_NPC: Array, sigma: float) -> Array:
        """Pictures after a Gaussian of `sigma` pixels."""
        shape_NCHW = (*pictures_NPC.swapaxes(1, 2).shape[:2], self.height, self.width)
        blur_N11 = np.full((1, 1, 1), sigma, np.float32)
        down, across = smoothing(blur_N11, self.height), smoothing(blur_N11, self.width).swapaxes(1, 2)
        smooth_NCHW = down @ pictures_NPC.swapaxes(1, 2).reshape(shape_NCHW) @ across
        return smooth_NCHW.reshape(*shape_NCHW[:2], self.height * self.width).swapaxes(1, 2)


def smoothing(sigma_N11: Array, length: int) -> Array:
    """Matrices that smooth along an axis by a Gaussian; weights sum to 1 at the border, too."""
    place_L = np.arange(length, dtype=np.float32)
    weight_NLL = np.exp(-0.5 * ((place_L[:, None] - place_L) / sigma_N11) ** 2)
    return weight_NLL / weight_NLL.sum(2, keepdims=True)
