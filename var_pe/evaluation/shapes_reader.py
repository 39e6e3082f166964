"""Reads off a picture of the made-up set what it shows: class, place, size, colour, ground and light.

Analysis by synthesis: nothing is trained, and no drawn picture was ever looked at. Every kind, centre and
radius is tried at low resolution, the likeliest kinds are refined at full resolution, and the one that leaves
the least of the picture unexplained is read. What no kind explains well, or two kinds explain almost equally
well, is read as nothing.
"""

import functools
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from var_pe.data.shapes import CLASSES, COLOURS, COLUMNS, GROUNDS, LIGHTS, RADII, ROWS
from var_pe.evaluation.features import FeatureExtractor, Features
from var_pe.evaluation.shapes_fit import Array, Canvas, Fit

Numbers = NDArray[np.int64]

KINDS = tuple(dict.fromkeys(kind for kind, _, _ in CLASSES.values()))
KIND_OF_CLASS = np.array([KINDS.index(kind) for kind, _, _ in CLASSES.values()])
NOTHING = -1

# The search
COARSE = 16  # pixels of the shorter side at which every hypothesis is tried
PLACES = 16  # centres along each side: two in each of the set's cells
BLUR = 0.02  # of the hypotheses, in parts of the shorter side
REFINED = 5  # kinds that are refined
STEPS = (2, 4)  # of the refinement, before and after hopeless kinds are given up
HOPELESS = 3.0  # leaves so many times as much as the best

# What is nothing, chosen on real pictures and on real ones that were spoilt in known ways
UNEXPLAINED = 0.15  # of the shape's energy; both smoothed, so that noise passes and a gap does not
SMOOTHING = 1 / 32  # by what, in parts of the shorter side
CLEARLY = 1.2  # times as much as the best kind the next one must leave
SOFTEST = 0.045  # blur up to which a shape counts, in parts of the shorter side
NEARER = 0.5  # a value must be nearer than this share of the distance to the next of the set's
SLOPES = (0.1, 0.4)  # of the ground, relative to it; the set's are 0.25


@dataclass(frozen=True)
class Found:
    """The best fit of every picture, and what tells whether to believe it."""

    kind_N: Numbers
    form_NF: Array
    colour_NM3: Array
    # share of the shape's energy, both smoothed
    unexplained_N: Array
    # how many times as much the next kind leaves
    clearness_N: Array

    @classmethod
    def empty(cls, number: int) -> "Found":
        """Room for so many pictures."""
        sizes = ((), (4,), (4, 3), (), ())
        kinds, *rest = (np.zeros((number, *size), np.float32) for size in sizes)
        return cls(kinds.astype(np.int64), *rest)


class Search:
    """Every hypothesis about pictures of one size."""

    def __init__(self, height: int, width: int) -> None:
        self.canvas = Canvas(height, width)
        scale = min(1.0, COARSE / self.canvas.side)
        self.coarse = round(height * scale), round(width * scale)
        self.forms_QF = hypotheses(self.canvas)
        self.bases_KQMp = [self._coarse_basis(kind) for kind in KINDS]

    def _coarse_basis(self, kind: str) -> Tensor:
        """Orthonormal parts of every hypothesis at low resolution: what they explain is a sum of squares."""
        basis_QPM = torch.from_numpy(self.canvas.basis(self.canvas.cover(kind, self.forms_QF)))
        basis_QMHW = basis_QPM.transpose(1, 2).unflatten(2, (self.canvas.height, self.canvas.width))
        small_QpM = adaptive_avg_pool2d(basis_QMHW, self.coarse).flatten(2).transpose(1, 2)
        return torch.linalg.qr(small_QpM)[0].transpose(1, 2).contiguous()

    def found(self, images_BCHW: Tensor) -> Found:
        """The best fit of each image."""
        pictures_NP3 = images_BCHW.flatten(2).transpose(1, 2).contiguous().numpy()
        start_NKF, explained_NK = self._search(images_BCHW)
        rank_NK = (-explained_NK).argsort(1).argsort(1)

        # Refine the likeliest kinds
        energy_NK = np.full(explained_NK.shape, np.inf)
        fits: dict[int, tuple[Numbers, Fit]] = {}
        for kind, name in enumerate(KINDS):
            (numbers,) = np.nonzero(rank_NK[:, kind] < REFINED)
            if len(numbers):
                fit = self.canvas.fit(name, start_NKF[numbers, kind], pictures_NP3[numbers])
                for _ in range(STEPS[0]):
                    fit = self.canvas.refined(name, fit, pictures_NP3[numbers])
                fits[kind] = numbers, fit
                energy_NK[numbers, kind] = fit.energy_N

        # ... and those further that may be the best
        best_N = energy_NK.min(1)
        for kind, (numbers, fit) in fits.items():
            hopeful = fit.energy_N <= HOPELESS * best_N[numbers] + 1
            numbers, fit = numbers[hopeful], fit.take(hopeful)
            for _ in range(STEPS[1]):
                fit = self.canvas.refined(KINDS[kind], fit, pictures_NP3[numbers])
            fits[kind] = numbers, fit
            energy_NK[numbers, kind] = fit.energy_N

        # Of each picture the best
        found = Found.empty(len(pictures_NP3))
        found.kind_N[:] = energy_NK.argmin(1)
        found.clearness_N[:] = np.sort(energy_NK, 1)[:, 1] / (energy_NK.min(1) + 1)
        for kind, (numbers, fit) in fits.items():
            mine = found.kind_N[numbers] == kind
            numbers, fit = numbers[mine], fit.take(mine)
            found.form_NF[numbers] = fit.form_NF
            found.colour_NM3[numbers] = fit.colour_NM3
            found.unexplained_N[numbers] = self._unexplained(fit)
        return found

    def _search(self, images_BCHW: Tensor) -> tuple[Array, Array]:
        """The form of each kind that explains most of the images at low resolution, and how much that is."""
        small_BCp = adaptive_avg_pool2d(images_BCHW, self.coarse).flatten(2)
        columns = small_BCp.permute(2, 0, 1).flatten(1)
        forms, explained = [], []
        for basis_QMp in self.bases_KQMp:
            parts = (basis_QMp.flatten(0, 1) @ columns).square_()
            energy_QB = parts.view(len(basis_QMp), -1, *small_BCp.shape[:2]).sum((1, 3))
            most, which = energy_QB.max(0)
            forms.append(self.forms_QF[which.numpy()])
            explained.append(most.numpy())
        return np.stack(forms, 1), np.stack(explained, 1)

    def _unexplained(self, fit: Fit) -> Array:
        sigma = SMOOTHING * self.canvas.side
        left = self.canvas.smoothed(fit.left_NP3, sigma)
        shape = self.canvas.smoothed(fit.cover_NP[:, :, None] * self.canvas.contrast(fit), sigma)
        return (left**2).sum((1, 2)) / ((shape**2).sum((1, 2)) + 1)


def hypotheses(canvas: Canvas) -> Array:
    """Every radius at every place, inside the picture as the set's are; (Q, F)."""
    place = (np.arange(PLACES) + 0.5) / PLACES
    radius, down, across = np.meshgrid(np.array(RADII) * canvas.side, place, place, indexing="ij")
    centre_y = radius + down * (canvas.height - 2 * radius)
    centre_x = radius + across * (canvas.width - 2 * radius)
    form = [centre_y, centre_x, radius, np.full_like(radius, BLUR * canvas.side)]
    return np.stack(form, -1).reshape(-1, 4).astype(np.float32)


def believed(found: Found, side: int) -> Numbers:
    """The kinds, NOTHING where the fit is bad, another kind fits almost as well, or edges are too soft."""
    good = found.unexplained_N <= UNEXPLAINED
    clear = found.clearness_N >= CLEARLY
    sharp = found.form_NF[:, 3] <= SOFTEST * side
    return np.where(good & clear & sharp, found.kind_N, NOTHING)


def factors_of(found: Found, kind_N: Numbers, canvas: Canvas) -> Numbers:
    """The numbers of `data.shapes.Factors`, (N, 7); NOTHING where a value is not near one of the set's."""
    centre_y, centre_x, radius = found.form_NF.T[:3]
    size = nearest(radius[:, None] / canvas.side, np.array(RADII)[:, None])
    down = (centre_y - radius) / (canvas.height - 2 * radius)
    across = (centre_x - radius) / (canvas.width - 2 * radius)

    label, row, column = (np.full(len(kind_N), NOTHING) for _ in range(3))
    for number, (_, rows, columns) in enumerate(CLASSES.values()):
        top, bottom = rows
        left, right = columns
        v = (down - top) / (bottom - top)
        u = (across - left) / (right - left)

        # The set's whole covers every centre; one beyond the last cell is taken for it.
        inside = (v >= 0) | (top == 0)
        inside &= (v < 1) | (bottom == 1)
        inside &= (u >= 0) | (left == 0)
        inside &= (u < 1) | (right == 1)
        here = inside & (kind_N == KIND_OF_CLASS[number])
        label[here] = number
        row[here] = (v[here] * ROWS).astype(int).clip(0, ROWS - 1)
        column[here] = (u[here] * COLUMNS).astype(int).clip(0, COLUMNS - 1)

    ground_N3 = found.colour_NM3[:, 0]
    factors = [
        label,
        row,
        column,
        size,
        nearest(found.colour_NM3[:, 3], COLOURS),
        nearest(ground_N3, GROUNDS),
        light_of(found.colour_NM3),
    ]
    return np.where(kind_N[:, None] == NOTHING, NOTHING, np.stack(factors, 1))


def nearest(value_ND: Array, set_VD: Array) -> Numbers:
    """The number of the set's value that is clearly the nearest, else NOTHING."""
    away_NV = np.linalg.norm(value_ND[:, None] - set_VD, axis=2)
    first, second = np.sort(away_NV, 1)[:, :2].T
    return np.where(first < NEARER * second, away_NV.argmin(1), NOTHING)


def light_of(colour_NM3: Array) -> Numbers:
    """The corner towards which the ground grows brighter, NOTHING where its slopes are not like the set's."""
    ground_N13, slopes_N23 = colour_NM3[:, :1], colour_NM3[:, 1:3]
    slopes_N2 = (slopes_N23 * ground_N13).sum(2) / (ground_N13**2).sum(2).clip(1)
    like = ((np.abs(slopes_N2) > SLOPES[0]) & (np.abs(slopes_N2) < SLOPES[1])).all(1)
    corner_NV = (np.sign(slopes_N2)[:, None] == np.array(LIGHTS)).all(2)
    return np.where(like, corner_NV.argmax(1), NOTHING)


@functools.lru_cache(maxsize=4)
def search_at(height: int, width: int) -> Search:
    """Made once for all readers: a comparison scores every run."""
    return Search(height, width)


class ShapeReader(FeatureExtractor):
    """The reading as an extractor.

    Features are the kind and the seven `Factors` by number, NOTHING where none can be read; logits are 1 for
    the class that is read and 0 for the others.
    """

    name = "shapes"
    weights_sha256 = "none, rules 1"  # another number wherever readings change

    def describe(self, images_BCHW: Tensor) -> Features:
        """Reads float images in [0, 255], of any size.

        Raises:
            ValueError: they are grey.
        """
        channels, height, width = images_BCHW.shape[1:]
        if channels != 3:
            raise ValueError("made-up shapes are read by their colours, and the images are grey")
        search = search_at(height, width)

        found = search.found(images_BCHW.cpu())
        kind_B = believed(found, search.canvas.side)
        factors_BF = factors_of(found, kind_B, search.canvas)
        read_BF = torch.from_numpy(np.concatenate([kind_B[:, None], factors_BF], 1)).float()
        class_BV = (read_BF[:, 1:2] == torch.arange(len(CLASSES))).float()
        return Features(read_BF.to(images_BCHW.device), class_BV.to(images_BCHW.device))
