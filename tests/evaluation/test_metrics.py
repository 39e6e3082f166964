"""The scores' promises: equal to torch-fidelity and to the formulas, named for what they are."""

import warnings

import numpy as np
import pytest
import torch
import torch_fidelity
from torch import Tensor
from torch.utils.data import Dataset
from torch_fidelity.feature_extractor_base import FeatureExtractorBase

from var_pe.evaluation.extraction import extract
from var_pe.evaluation.features import FeatureExtractor, Features, FeatureSet
from var_pe.evaluation.metrics import METRICS, floor, halves, scores

WEIGHT_PF = torch.randn(3 * 8 * 8, 16, generator=torch.Generator().manual_seed(0)) / 8
pytestmark = pytest.mark.filterwarnings("ignore:scores of")


class Toy(FeatureExtractor):
    """Sixteen fixed mixtures of pixels; also ten of them as logits."""

    name, weights_sha256 = "toy", "0" * 64

    def describe(self, images_BCHW: Tensor) -> Features:
        features_BF = (images_BCHW.flatten(1) / 255) @ WEIGHT_PF
        return Features(features_BF, features_BF[:, :10])


class ToyForTorchFidelity(FeatureExtractorBase):
    def __init__(self, name, features_list, **kwargs):
        super().__init__(name, features_list)

    def forward(self, images):
        found = Toy()(images)
        return tuple(
            {"features": found.features_BF, "logits": found.logits_BV}[k] for k in self.features_list
        )

    @staticmethod
    def get_provided_features_list():
        return "features", "logits"

    @staticmethod
    def get_default_feature_layer_for_metric(metric):
        return "logits" if metric == "isc" else "features"

    @staticmethod
    def can_be_compiled():
        return False


torch_fidelity.register_feature_extractor("var-pe-toy", ToyForTorchFidelity)


class Pictures(Dataset):
    """A batch as a set, as torch-fidelity takes it."""

    def __init__(self, images_NCHW: Tensor) -> None:
        self.images_NCHW = images_NCHW

    def __len__(self) -> int:
        return len(self.images_NCHW)

    def __getitem__(self, index: int) -> Tensor:
        return self.images_NCHW[index]


def pictures(count: int, seed: int, brightest: int = 256) -> Pictures:
    generator = torch.Generator().manual_seed(seed)
    return Pictures(torch.randint(0, brightest, (count, 3, 8, 8), dtype=torch.uint8, generator=generator))


def points(count: int, seed: int, width: int = 12) -> FeatureSet:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(width, width, generator=torch.Generator().manual_seed(seed + 100))
    features_NF = torch.randn(count, width, generator=generator) @ mix
    return FeatureSet(features_NF, features_NF[:, :5], torch.full((count,), -1))


def test_scores_are_torch_fidelitys():
    """Through its own front door, on the same images, its numbers are ours."""
    generated, reference = pictures(300, 0, brightest=230), pictures(400, 1)
    theirs = torch_fidelity.calculate_metrics(
        input1=generated,
        input2=reference,
        feature_extractor="var-pe-toy",
        isc=True,
        fid=True,
        kid=True,
        prc=True,
        kid_subset_size=100,
        cuda=False,
        cache=False,
        save_cpu_ram=True,
        verbose=False,
    )
    sets = [extract(Toy(), [(image, -1) for image in images]) for images in (generated, reference)]
    ours = scores(*sets, extractor=Toy(), kid_subset_size=100, seed=2020)
    names = {
        "frechet_inception_distance": "frechet_distance_toy",
        "inception_score_mean": "inception_score_mean_toy",
        "inception_score_std": "inception_score_std_toy",
        "kernel_inception_distance_mean": "kid_mean_toy",
        "kernel_inception_distance_std": "kid_std_toy",
        "precision": "precision_toy",
        "recall": "recall_toy",
    }
    for their_name, our_name in names.items():
        assert ours[our_name] == pytest.approx(theirs[their_name], rel=1e-6, abs=1e-8), our_name


def frechet_by_hand(a: np.ndarray, b: np.ndarray) -> float:
    values, vectors = np.linalg.eigh(np.cov(a, rowvar=False))
    root = vectors * np.sqrt(values.clip(0)) @ vectors.T
    inner = np.linalg.eigvalsh(root @ np.cov(b, rowvar=False) @ root).clip(0)
    trace = np.var(a, axis=0, ddof=1).sum() + np.var(b, axis=0, ddof=1).sum()
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + trace - 2 * np.sqrt(inner).sum())


def kid_by_hand(a: np.ndarray, b: np.ndarray) -> float:
    def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return (x @ y.T / x.shape[1] + 1) ** 3

    n, m = len(a), len(b)
    within = [(kernel(x, x).sum() - np.trace(kernel(x, x))) / (len(x) * (len(x) - 1)) for x in (a, b)]
    return float(sum(within) - 2 * kernel(a, b).sum() / (n * m))


def covered_by_hand(a: np.ndarray, b: np.ndarray) -> float:
    """The share of a's points that lie in the ball of some point of b, up to its third neighbour."""
    radii = [np.sort(np.linalg.norm(b - point, axis=1))[3] for point in b]
    return float(np.mean([(np.linalg.norm(b - point, axis=1) <= radii).any() for point in a]))


def test_scores_are_the_formulas():
    """In float64 and by another route, in case we feed torch-fidelity the wrong thing."""
    generated, reference = points(150, 0), points(150, 1)
    found = scores(generated, reference, extractor=Toy(), kid_subset_size=150)
    a, b = generated.features_NF.double().numpy(), reference.features_NF.double().numpy()
    assert found["frechet_distance_toy"] == pytest.approx(frechet_by_hand(a, b), rel=1e-5)
    assert found["kid_mean_toy"] == pytest.approx(kid_by_hand(a, b), rel=1e-4)
    assert found["precision_toy"] == pytest.approx(covered_by_hand(a, b))
    assert found["recall_toy"] == pytest.approx(covered_by_hand(b, a))
    chances = generated.logits_NV.double().softmax(1).numpy()[np.random.RandomState(0).permutation(150)]
    parts = [part * np.log(part / part.mean(0)) for part in np.split(chances, 10)]
    by_hand = [np.exp(part.sum(1).mean()) for part in parts]
    assert found["inception_score_mean_toy"] == pytest.approx(np.mean(by_hand))
    assert found["inception_score_std_toy"] == pytest.approx(np.std(by_hand))


def test_moving_every_image_alike_costs_the_square_of_the_move():
    """The one Frechet distance everybody knows: equal covariances, means apart."""
    here = points(500, 0)
    there = FeatureSet(here.features_NF + 0.5, here.logits_NV, here.labels_N)
    found = scores(there, here, extractor=Toy(), metrics=["frechet"])
    assert found == {"frechet_distance_toy": pytest.approx(12 * 0.25, rel=1e-4)}


def test_collapse_loses_recall_and_not_precision():
    """A generator that makes a few perfect pictures over and over must not look diverse."""
    real = points(200, 0)
    collapsed = real.take(torch.arange(8).repeat(25))
    found = scores(collapsed, real, extractor=Toy(), metrics=["precision_recall"])
    assert found["precision_toy"] > 0.95
    assert found["recall_toy"] < 0.1


def test_only_inceptions_numbers_have_the_names_of_papers():
    """A Frechet distance of other features printed as FID would be compared with papers."""
    sets = points(40, 0), points(40, 1)
    extractor = Toy()
    assert all(name.endswith("_toy") and "fid" not in name for name in scores(*sets, extractor=extractor))
    extractor.comparable = True
    assert set(scores(*sets, extractor=extractor)) == {
        "fid",
        "inception_score_mean",
        "inception_score_std",
        "kid_mean",
        "kid_std",
        "kid_subset_size",
        "precision",
        "recall",
    }


def test_scores_follow_from_the_seed():
    """The same images give the same numbers; another seed draws other subsets for KID."""
    sets = points(100, 0), points(100, 1)
    first, again, other = (scores(*sets, extractor=Toy(), seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first["kid_mean_toy"] != other["kid_mean_toy"]
    assert first["kid_subset_size_toy"] == 50


@pytest.mark.parametrize(
    ("metric", "least", "sentence"),
    [
        ("frechet", 2, "frechet needs at least 2 {} images for a covariance, got 1"),
        ("inception_score", 10, "inception_score needs at least 10 {} images for 10 splits, got 9"),
        ("kid", 7, "kid needs at least 7 {} images for subsets of 7, got 6"),
        ("precision_recall", 4, "precision_recall needs at least 4 {} images for 3 neighbours, got 3"),
    ],
)
def test_fewer_images_than_a_metric_needs_are_refused(metric, least, sentence):
    """torch-fidelity answers NaN, a traceback of LAPACK or a number that means nothing."""
    enough, few = points(least, 0), points(least - 1, 1)
    ask = {"extractor": Toy(), "metrics": [metric], "kid_subset_size": 7}
    with pytest.raises(ValueError, match=sentence.format("generated")):
        scores(few, enough, **ask)
    if metric == "inception_score":  # looks at the generated images alone
        assert scores(enough, few, **ask)
    else:
        with pytest.raises(ValueError, match=sentence.format("reference")):
            scores(enough, few, **ask)
    assert all(np.isfinite(value) for value in scores(enough, enough, **ask).values())


def test_scores_that_few_images_allow_come_without_the_others():
    """After a small drawing nobody should lose all scores for one that cannot be computed."""
    said = "left out for lack of images: inception_score needs .* got 6; precision_recall needs .* got 3$"
    with pytest.warns(UserWarning, match=said):
        found = scores(points(6, 0), points(3, 1), extractor=Toy())
    assert set(found) == {
        f"{name}_toy" for name in ("frechet_distance", "kid_mean", "kid_std", "kid_subset_size")
    }
    assert set(floor(points(12, 0), 6, extractor=Toy())) == {*found, "count", "precision_toy", "recall_toy"}
    with pytest.raises(ValueError, match="at least 2 generated images for a covariance, got 1"):
        scores(points(1, 0), points(1, 1), extractor=Toy())


def test_features_that_are_not_finite_are_refused():
    """One diverged image must be named, not end as a NaN in a table."""
    broken = points(50, 0)
    broken.features_NF[17] = float("nan")
    with pytest.raises(ValueError, match=r"1 of 50 generated images .* the first at 17"):
        scores(broken, points(50, 1), extractor=Toy())


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"metrics": ["fid"]}, "metrics must be among frechet, .* got fid"),
        ({"kid_subset_size": 1}, "kid needs subsets of at least 2 images, got kid_subset_size = 1"),
    ],
)
def test_wrong_settings_are_one_sentence(wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        scores(points(50, 0), points(50, 1), extractor=Toy(), **wrong)


def test_features_of_two_extractors_are_not_compared():
    with pytest.raises(ValueError, match="features of one extractor, got 12 generated and 9"):
        scores(points(50, 0), points(50, 1, width=9), extractor=Toy())


def test_few_images_bring_a_warning():
    """Below 2,048 a distance is mostly bias, and torch-fidelity says nothing."""
    with pytest.warns(UserWarning, match="scores of 2047 against 2048 images are unreliable"):
        scores(points(2047, 0), points(2048, 1), extractor=Toy(), metrics=["frechet"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores(points(2048, 0), points(2048, 1), extractor=Toy(), metrics=["frechet"])


@pytest.mark.parametrize(("asked", "count"), [(20, 20), (500, 50)])
def test_the_floor_compares_disjoint_halves(asked, count):
    """An image on both sides would make real look closer to real than it is."""
    reference = points(101, 0)
    numbers_N = torch.arange(101)
    first, second = halves(FeatureSet(reference.features_NF, reference.logits_NV, numbers_N), asked)
    assert len(first) == len(second) == count
    assert len(set(first.labels_N.tolist()) | set(second.labels_N.tolist())) == 2 * count
    found = floor(reference, asked, extractor=Toy())
    assert found["count"] == count
    assert found == {"count": count} | scores(first, second, extractor=Toy())


def test_every_metric_is_computed_unless_one_is_chosen():
    """`--metrics` must choose: KID over 50,000 images takes minutes."""
    sets = points(40, 0), points(40, 1)
    apart = [set(scores(*sets, extractor=Toy(), metrics=[metric])) for metric in METRICS]
    assert set.union(*apart) == set(scores(*sets, extractor=Toy()))
    assert sum(map(len, apart)) == len(set.union(*apart))
