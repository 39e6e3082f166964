"""RandAugment on a classifier's training images, drawn from (seed, epoch, index) like all augmentation."""

import torch
from torchvision.transforms import v2

from var_pe.data.changed_images import ChangedImages
from var_pe.data.image_set import ImageItem, ImageSet
from var_pe.data.sampler import Draw
from var_pe.seeding import mix


class Augmented(ChangedImages[ImageItem]):
    """Images after two of torchvision's RandAugment operations (Cubuk et al. 2020), filled up with black."""

    def __init__(self, images: ImageSet, magnitude: int, seed: int) -> None:
        super().__init__(images)
        self.images, self.seed = images, seed
        self.augment = v2.RandAugment(num_ops=2, magnitude=magnitude, fill=0)

    def __getitem__(self, key: Draw | int) -> ImageItem:
        draw = Draw.of(key)
        item = self.images[draw]
        pixels_CHW = ((item["image"] + 1) * 127.5).round().to(torch.uint8)

        # torchvision draws from the global generator, so that one is seeded here and restored afterwards.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(mix(self.seed, "rand augment", draw.epoch, draw.index))
            pixels_CHW = self.augment(pixels_CHW)

        return {**item, "image": pixels_CHW.float() / 127.5 - 1}
