"""Segmentation and detection heads on a classifier's tokens, for pictures of made-up shapes.

The heads are as small as they can be, so that what they find was in the tokens.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from var_pe.data.shapes import CLASSES, Shapes
from var_pe.models.initialisation import initialise
from var_pe.models.vit import ViTClassifier
from var_pe.pyramid import Grid
from var_pe.seeding import generator_for
from var_pe.training.precision import autocast


@dataclass(frozen=True)
class Annotated:
    """Pictures of one size with their truth."""

    # float32 in [-1, 1]
    images_NCHW: Tensor
    # int64 per pixel: 0 is the ground, 1 + label the shape
    classes_NHW: Tensor
    # float32 centre (y, x), height and width, in shares of the image's sides
    boxes_N4: Tensor

    @property
    def size(self) -> Grid:
        return self.images_NCHW.shape[2], self.images_NCHW.shape[3]

    def __len__(self) -> int:
        return len(self.images_NCHW)

    def part(self, chosen: Tensor | slice) -> "Annotated":
        """Some of the pictures."""
        return Annotated(self.images_NCHW[chosen], self.classes_NHW[chosen], self.boxes_N4[chosen])


def annotated_shapes(count: int, size: Grid, split: str) -> Annotated:
    """The first `count` pictures of a split of `shapes`."""
    height, width = size
    source = Shapes(count, height, width, split)
    images, classes, boxes = [], [], []
    for index in range(count):
        pixels_HWC, _ = source.array(index)
        images.append(torch.from_numpy(pixels_HWC).permute(2, 0, 1).float() / 127.5 - 1)

        picture = source.describe(index)
        classes.append(torch.from_numpy(picture.mask).long() * (1 + picture.label))

        top, left = picture.box[:2]
        h, w = picture.box[2:]
        boxes.append([(top + h / 2) / height, (left + w / 2) / width, h / height, w / width])

    return Annotated(torch.stack(images), torch.stack(classes), torch.tensor(boxes))


class SegmentationHead(nn.Module):
    """One linear map of a token to the classes of its patch's pixels."""

    score_name = "mean IoU over the classes"

    def __init__(self, dim: int, patch_size: int, seed: int = 0) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.map = nn.Linear(dim, (1 + len(CLASSES)) * patch_size**2)
        initialise(self, seed)

    def logits(self, x_BLC: Tensor, grid: Grid) -> Tensor:
        """(B, classes, H, W)."""
        h, w = grid
        p = self.patch_size
        return rearrange(self.map(x_BLC), "B (h w) (V p q) -> B V (h p) (w q)", h=h, w=w, p=p, q=p)

    def loss(self, x_BLC: Tensor, grid: Grid, truth: Annotated) -> Tensor:
        """Cross entropy of pixels."""
        return F.cross_entropy(self.logits(x_BLC, grid).float(), truth.classes_NHW)

    def score(self, batches: Iterator[tuple[Tensor, Grid, Annotated]]) -> float:
        """Intersection over union of each kind of shape, over all pixels of all pictures, then the mean."""
        number = 1 + len(CLASSES)

        # Pixels by what they are (rows) and what they were taken for (columns).
        counts_VV = torch.zeros(number, number)
        for x_BLC, grid, truth in batches:
            found_BHW = self.logits(x_BLC, grid).argmax(1)
            pairs = number * truth.classes_NHW.flatten() + found_BHW.flatten()
            counts_VV += pairs.bincount(minlength=number**2).view(number, number)

        hit_V = counts_VV.diagonal()
        union_V = counts_VV.sum(0) + counts_VV.sum(1) - hit_V
        iou_V = hit_V / union_V.clamp(min=1)
        return float(iou_V[1:].mean())  # without the ground, which is not a shape


class DetectionHead(nn.Module):
    """Which cell holds the box's centre, where in the cell, and how large the box is (CenterNet's three).

    Zhou et al. 2019, with one object a picture: the cells share one softmax. Sides are logarithms of shares
    of the image's sides, offsets are in cells from the cell's centre.
    """

    score_name = "share of boxes with IoU of at least 0.5"

    def __init__(self, dim: int, patch_size: int, seed: int = 0, hidden: int = 64) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, 5))
        initialise(self, seed)

    def loss(self, x_BLC: Tensor, grid: Grid, truth: Annotated) -> Tensor:
        """Cross entropy of the cell, plus the L1 distance of the box that is predicted in it."""
        # The cell that holds the centre, by row and column and by its number.
        grid_2 = torch.tensor(grid, dtype=torch.float32)
        yx_B2 = truth.boxes_N4[:, :2] * grid_2
        cell_B2 = yx_B2.floor().clamp(min=torch.zeros(2), max=grid_2 - 1)
        index_B = (cell_B2[:, 0] * grid[1] + cell_B2[:, 1]).long()

        found_BL5 = self.mlp(x_BLC).float()
        there_B5 = found_BL5[torch.arange(len(index_B)), index_B]
        target_B4 = torch.cat([yx_B2 - cell_B2 - 0.5, truth.boxes_N4[:, 2:].log()], dim=1)
        return F.cross_entropy(found_BL5[..., 0], index_B) + F.l1_loss(there_B5[:, 1:], target_B4)

    def boxes(self, x_BLC: Tensor, grid: Grid) -> Tensor:
        """The likeliest box of each picture, (B, 4) as in `Annotated`."""
        h, w = grid
        found_BL5 = self.mlp(x_BLC).float()
        index_B = found_BL5[..., 0].argmax(1)
        best_B5 = found_BL5[torch.arange(len(index_B)), index_B]

        cell_B2 = torch.stack([index_B // w, index_B % w], dim=1)
        yx_B2 = (cell_B2 + 0.5 + best_B5[:, 1:3]) / torch.tensor([h, w])
        return torch.cat([yx_B2, best_B5[:, 3:].exp()], dim=1)

    def score(self, batches: Iterator[tuple[Tensor, Grid, Annotated]]) -> float:
        """The share of pictures whose box is found."""
        overlaps = [box_iou(self.boxes(x_BLC, grid), truth.boxes_N4) for x_BLC, grid, truth in batches]
        return float((torch.cat(overlaps) >= 0.5).float().mean())


Head = SegmentationHead | DetectionHead
HEADS: dict[str, type[SegmentationHead] | type[DetectionHead]] = {
    "segmentation": SegmentationHead,
    "detection": DetectionHead,
}


def box_iou(first_B4: Tensor, other_B4: Tensor) -> Tensor:
    """Intersection over union of boxes given as centre and sides, pair by pair."""
    low_B2 = torch.maximum(first_B4[:, :2] - first_B4[:, 2:] / 2, other_B4[:, :2] - other_B4[:, 2:] / 2)
    high_B2 = torch.minimum(first_B4[:, :2] + first_B4[:, 2:] / 2, other_B4[:, :2] + other_B4[:, 2:] / 2)
    shared_B = (high_B2 - low_B2).clamp(min=0).prod(1)

    union_B = first_B4[:, 2:].prod(1) + other_B4[:, 2:].prod(1) - shared_B
    return shared_B / union_B


@dataclass(frozen=True)
class HeadTraining:
    """How a head is trained."""

    steps: int = 250
    batch: int = 64
    # learning rate of the head
    head_rate: float = 5e-3
    # of the classifier below it, where that is fine-tuned
    body_rate: float = 5e-4
    seed: int = 0


def train_head(
    model: ViTClassifier, task: str, truth: Annotated, config: HeadTraining, *, frozen: bool
) -> Head:
    """A head for `task` trained on `truth`, and with it, unless `frozen`, the classifier (in place)."""
    head = HEADS[task](model.config["dim"], model.patch_size, config.seed)

    # The classifier's own head is not used, so it is not trained.
    groups = [{"params": list(head.parameters()), "lr": config.head_rate}]
    if not frozen:
        body = [p for name, p in model.named_parameters() if not name.startswith("head.")]
        groups.append({"params": body, "lr": config.body_rate})
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01, fused=True)
    rates = [float(group["lr"]) for group in optimizer.param_groups]

    # Tokens of a frozen classifier never change: they are computed once.
    model.train(not frozen)
    fixed_NLC = next(tokens(model, truth, len(truth)))[0] if frozen else None

    for step in range(config.steps):
        generator = generator_for(config.seed, "head", step)
        chosen_B = torch.randint(len(truth), (config.batch,), generator=generator)
        part = truth.part(chosen_B)

        # Rates fall to 0 in a straight line.
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * (1 - step / config.steps)

        with autocast("float32" if frozen else "auto", "cpu"):
            x_BLC = patch_tokens(model, part.images_NCHW) if fixed_NLC is None else fixed_NLC[chosen_B]
        head.loss(x_BLC.float(), grid_of(model, part), part).backward()
        optimizer.step()
        optimizer.zero_grad()

    model.eval()
    return head


def patch_tokens(model: ViTClassifier, images_BCHW: Tensor) -> Tensor:
    """A classifier's last tokens of the patches, without class token and registers."""
    x_BLC, prefix = model.forward_tokens(images_BCHW)
    return model.norm(x_BLC[:, prefix:])


def grid_of(model: ViTClassifier, truth: Annotated) -> Grid:
    """Rows and columns of patches."""
    height, width = truth.size
    return height // model.patch_size, width // model.patch_size


@torch.no_grad()
def tokens(model: ViTClassifier, truth: Annotated, batch: int) -> Iterator[tuple[Tensor, Grid, Annotated]]:
    """Every picture's patch tokens with its truth, `batch` at a time, computed 200 at a time."""
    for start in range(0, len(truth), batch):
        part = truth.part(slice(start, start + batch))
        computed = [patch_tokens(model, images_BCHW) for images_BCHW in part.images_NCHW.split(200)]
        yield torch.cat(computed), grid_of(model, part), part
