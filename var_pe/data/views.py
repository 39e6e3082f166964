"""Two views of each image, cropped and coloured anew, by (seed, epoch, index)."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2

from var_pe.data.changed_images import ChangedImages
from var_pe.data.image_set import HeldOutImages, ImageItem, ImageSet
from var_pe.data.sampler import Draw
from var_pe.seeding import mix


class ViewsItem(ImageItem):
    """An image as one view of it, and another one."""

    # float32 (channels, height, width) in [-1, 1]
    view: Tensor


@dataclass(frozen=True)
class Views:
    """How a view is made of an image: torchvision's random crop, mirror, colours and blur, as in SimCLR."""

    height: int
    width: int
    channels: int
    # smallest area of a crop, as a share of the image's
    smallest: float
    mirror: bool
    # how far brightness and contrast go, and half as far saturation; hue a quarter
    jitter: float

    def transform(self) -> v2.Compose:
        """On images in [0, 1]."""
        colour = 0.5 * self.jitter if self.channels == 3 else 0.0
        steps: list[torch.nn.Module] = [
            v2.RandomResizedCrop((self.height, self.width), scale=(self.smallest, 1.0), antialias=True)
        ]
        if self.mirror:
            steps.append(v2.RandomHorizontalFlip())
        if self.jitter:
            jitter = v2.ColorJitter(self.jitter, self.jitter, colour, colour / 4)
            blur = v2.GaussianBlur(3, sigma=(0.1, 1.0))
            steps += [v2.RandomApply([jitter], p=0.8), v2.RandomApply([blur], p=0.2)]
        return v2.Compose(steps)

    def two_of(self, item: ImageItem, transform: v2.Compose, seed: int) -> ViewsItem:
        """Two views of an image; torchvision draws from the global generator, which is put back."""
        image = (item["image"] + 1) / 2
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            first, second = transform(image), transform(image)
        return {**item, "image": 2 * first - 1, "view": 2 * second - 1}


class HeldOutViews(Dataset[ViewsItem]):
    """Two views of each held-out image, the same every time."""

    def __init__(self, images: HeldOutImages, views: Views) -> None:
        self.images, self.views = images, views
        self.transform = views.transform()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> ViewsItem:
        return self.views.two_of(self.images[index], self.transform, mix("views of held-out images", index))


class TwoViews(ChangedImages[ViewsItem]):
    """Two views of each training image, others in every epoch."""

    def __init__(self, images: ImageSet, views: Views, seed: int) -> None:
        super().__init__(images)
        self.images, self.views, self.seed = images, views, seed
        self.transform = views.transform()

    def __getitem__(self, key: Draw | int) -> ViewsItem:
        draw = Draw.of(key)
        seed = mix(self.seed, "views", draw.epoch, draw.index)
        return self.views.two_of(self.images[draw], self.transform, seed)
