"""Does a feature extractor see where things are? Real pictures whose quarters have moved must score worse."""

from dataclasses import asdict, dataclass

from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import Dataset

from var_pe.data.part import drawn
from var_pe.evaluation.extraction import ScoredImages
from var_pe.evaluation.features import FeatureExtractor, FeatureSet
from var_pe.evaluation.metrics import frechet, half_numbers
from var_pe.stages.config import Config
from var_pe.stages.features import described
from var_pe.stages.images import RealImages

IMAGES = 2000  # of the test split, half of them on each side
HALVES = 5  # random pairs of halves


class Moved(Dataset[tuple[Tensor, int]]):
    """Pictures moved by a share of the sides; what leaves on one side enters on the other."""

    def __init__(self, images: ScoredImages, share: float) -> None:
        self.images, self.share = images, share

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image_CHW, label = self.images[index]
        height, width = image_CHW.shape[1:]
        by = round(self.share * height), round(self.share * width)
        return image_CHW.roll(by, dims=(1, 2)), label


@dataclass(frozen=True)
class ExtractorCheck:
    """Frechet distances of real pictures to other real ones: means over pairs of halves."""

    extractor: str
    # as they are; the largest of the pairs beside it
    unchanged: float
    largest_unchanged: float
    # moved by a quarter of each side; quarters exchanged crosswise
    shifted: float
    exchanged: float
    # of the pairs of each kind
    smallest_moved: float
    images: int

    @property
    def sees_places(self) -> bool:
        """Whether every pair with moved parts is farther apart than any pair without."""
        return self.smallest_moved > self.largest_unchanged

    def as_json(self) -> dict[str, object]:
        return {**asdict(self), "sees_places": self.sees_places}


def check_extractor(config: Config, extractor: FeatureExtractor, accelerator: Accelerator) -> ExtractorCheck:
    """Measures it on the test split; the halves are the same for every extractor."""
    real = RealImages(config, train=False)
    part = real.part(drawn(len(real), IMAGES, config.data.subset_seed))
    sets = {
        "unchanged": described(extractor, part, accelerator),
        "shifted": described(extractor, Moved(part, 0.25), accelerator),
        "exchanged": described(extractor, Moved(part, 0.5), accelerator),
    }

    distances: dict[str, list[float]] = {name: [] for name in sets}
    for seed in range(HALVES):
        first, second = half_numbers(len(part), len(part) // 2, seed)
        for name, features in sets.items():
            distances[name].append(_distance(features.take(first), sets["unchanged"].take(second)))

    means = {name: sum(found) / len(found) for name, found in distances.items()}
    return ExtractorCheck(
        extractor.name,
        means["unchanged"],
        max(distances["unchanged"]),
        means["shifted"],
        means["exchanged"],
        min(distances["shifted"] + distances["exchanged"]),
        len(part) // 2,
    )


def _distance(first: FeatureSet, second: FeatureSet) -> float:
    return frechet(first, second)["frechet_distance"]
