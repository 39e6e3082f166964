"""Scores of folders: what their labels are, under which keys they are kept, and how much is computed."""

import warnings
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from PIL import Image

from var_pe import settings
from var_pe.evaluation.folder import ImageFolder
from var_pe.evaluation.metrics import halves, scores
from var_pe.evaluation.records import read_metrics
from var_pe.files import write_text
from var_pe.stages import features
from var_pe.stages.config import Config
from var_pe.stages.drawn_images import DrawnImages, Labelled, labels_of_folders
from var_pe.stages.features import described, feature_extractor, flattering, judges
from var_pe.stages.images import RealImages
from var_pe.stages.judge import name_of_judge
from var_pe.stages.models import build_classifier
from var_pe.stages.score import for_equal_counts, score_images, summary
from var_pe.training.notes import TrainingNotes

TEN = sorted(map(str, range(12)))  # as words: "10" is the third


def pictures(folder: Path, *names: str, size: int = 32) -> Path:
    """One noisy picture a name."""
    for seed, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = torch.randint(0, 256, (size, size, 3), generator=torch.Generator().manual_seed(seed))
        Image.fromarray(pixels.byte().numpy()).save(folder / name)
    return folder


@pytest.mark.parametrize(
    ("folder", "class_names", "label"),
    [
        ("dog", ("cat", "dog"), 1),
        ("1", ("cat", "dog"), 1),
        ("1", (), 1),
        ("0001", (), 1),
        ("0001_dog", ("cat", "dog"), 1),
        ("10", TEN, 2),
        ("0010_9", TEN, 10),
        ("0010", TEN, 10),
        ("99", TEN, -1),
        ("T-shirt_top", ("Bag", "T-shirt/top"), 1),
        ("mouse", ("cat", "dog"), -1),
        ("some/dog/0", ("cat", "dog"), 1),
        (".", ("cat", "dog"), -1),
    ],
)
def test_a_folder_s_name_says_the_class(tmp_path, folder, class_names, label):
    """The name of a class first: one called 10 need not be the tenth."""
    pictures(tmp_path / "mine", f"{folder}/0.png")
    assert labels_of_folders(ImageFolder(tmp_path / "mine"), class_names) == [label]


def test_a_drawn_folder_is_labelled_by_number(tmp_path):
    """Whatever its classes are called: there, 0001 is not the class called 0001."""
    names = ["0001", "0000"]
    pictures(tmp_path / "images", "0000/0.png", "0001_0000/1.png")
    assert labels_of_folders(ImageFolder(tmp_path / "images"), names) == [1, 1]
    write_text(tmp_path / "sampling.json", "{}")
    assert labels_of_folders(ImageFolder(tmp_path / "images"), names) == [0, 1]
    assert DrawnImages(tmp_path, names).labels == [0, 1]


def test_drawn_images_of_no_known_class_are_refused(tmp_path):
    pictures(tmp_path / "images", "0002_c/0.png")
    with pytest.raises(ValueError, match=r"drawn_images=.* has images of class 2, the data has 2 classes"):
        DrawnImages(tmp_path, ["a", "b"])
    pictures(tmp_path / "images", "shoes/0.png")
    with pytest.raises(ValueError, match="its folders are not named after classes or their numbers"):
        DrawnImages(tmp_path, ["a", "b"])


@pytest.fixture
def config(tmp_path) -> Config:
    """A classifier that knows nothing, whose features serve, and twelve classes of shapes."""
    small = ["data.shapes_train=8", "data.shapes_test=40", "classifier.dim=16", "classifier.depth=1"]
    small += [
        "classifier.num_heads=2",
        f"run={tmp_path / 'run'}",
        f"evaluation.features=[{tmp_path / 'vit'}]",
    ]
    config = settings.load(Config, "shapes_vit", small)
    folder = tmp_path / "vit" / "classifier"
    build_classifier(config, 12).save_pretrained(folder)
    TrainingNotes(step=1, ema=True).write(folder)
    return config


def test_every_folder_has_a_key_of_its_own(config, tmp_path, monkeypatch):
    """Its whole path, however it was written; the run's own folder keeps its short name."""
    names = [f"{label:04d}/{n}.png" for label in (0, 1) for n in range(6)]
    folders = [tmp_path / "a" / "images", tmp_path / "b" / "images", tmp_path / "run" / "drawn" / "images"]
    for folder in folders:
        pictures(folder, *names)
    write_text(tmp_path / "a" / "images" / "notes.txt", "x")
    (tmp_path / "run" / "generator").mkdir()
    TrainingNotes(step=7, ema=True).write(tmp_path / "run" / "generator")
    monkeypatch.chdir(tmp_path / "a")
    accelerator = Accelerator(cpu=True)
    known = {}
    for folder in (Path("images"), *folders):
        found = score_images(config, folder, accelerator, features=config.evaluation.features, known=known)
        assert ("left out, because they cannot be read as pictures: 1 .txt" in summary(found)) == (
            folder in (Path("images"), folders[0])
        )
    kept = read_metrics(tmp_path / "run" / "metrics.json")
    assert list(kept) == [f"{tmp_path}/{name}/images/images/vit" for name in "ab"] + ["drawn/images/vit"]
    assert [record["weights"]["step"] for record in kept.values()] == [None, None, 7]
    assert kept["drawn/images/vit"]["images"] == str(folders[2])


@pytest.mark.parametrize(("labels", "said"), [((0, 1), True), (range(12), False), ((None,), False)])
def test_a_folder_without_some_classes_is_said(config, tmp_path, labels, said):
    """Two classes against all of them are far apart, however good their pictures are."""
    folders = ["." if label is None else f"{label:04d}" for label in labels]
    folder = pictures(tmp_path / "mine", *[f"{name}/{n}.png" for name in folders for n in range(2)])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        score_images(config, folder, Accelerator(cpu=True), features=[])
    sentences = [str(each.message) for each in caught]
    assert any("has pictures of 2 of 12 classes" in sentence for sentence in sentences) == said


def test_a_summary_says_of_how_many_images():
    """An accuracy of 20 images is hardly a number."""
    assert summary({"classifier": {"values": {"top1": 0.15}, "num_images": 20}}).startswith(
        "classifier (20 images)\n  top1 "
    )


def test_features_are_computed_of_the_images_that_are_compared(config, tmp_path, monkeypatch):
    """The scores are those of the whole split's halves, without features of the rest."""
    folder = pictures(tmp_path / "mine", *[f"{n}.png" for n in range(12)])
    accelerator, (name,) = Accelerator(cpu=True), config.evaluation.features
    everything = described(feature_extractor(name), RealImages(config, train=False), accelerator)
    ours = described(feature_extractor(name), Labelled(folder), accelerator)
    lengths, extract = [], features.extract
    monkeypatch.setattr(
        features, "extract", lambda e, images, **o: lengths.append(len(images)) or extract(e, images, **o)
    )
    (found,) = score_images(config, folder, accelerator, features=[name]).values()
    assert len(everything) == 40
    assert lengths == [24, 12]
    wanted = scores(ours, halves(everything, 12)[1], extractor=feature_extractor(name))
    for key, value in wanted.items():
        assert found["values"][key] == pytest.approx(value, rel=1e-4, abs=1e-4), key
    assert found["num_images"] == found["reference"]["num_images"] == found["floor"]["count"] == 12


@pytest.mark.parametrize(
    ("rules", "judge", "flatters"),
    [
        (["perceptual.weight=1"], "efficientnet_lite0", True),
        (["perceptual.weight=1"], "efficientnet_lite0_spatial", True),
        (["perceptual.weight=1"], "efficientnet_lite1", False),
        (["perceptual.weight=0"], "efficientnet_lite0", False),
        (["adversarial.weight=1"], "efficientnet_lite0", False),
        (["adversarial.weight=1", "adversarial.discriminator=features"], "efficientnet_lite0", True),
        (["perceptual.weight=1", "perceptual.network=runs/vit"], "./runs/vit/", True),
        (["perceptual.weight=1", "perceptual.network=runs/vit"], "efficientnet_lite0", False),
    ],
)
def test_a_judge_that_a_tokenizer_was_trained_against_is_named(rules, judge, flatters):
    """Its distance is what the tokenizer was made to lower."""
    given = [f"tokenizer_training.{rule}" for rule in rules]
    config = settings.load(Config, None, ["run=run", "tokenizer_run=tokenizer", *given])
    assert len(flattering(config, [judge, "shapes"])) == flatters
    judge_of_tokenizer = name_of_judge(config)
    assert judge_of_tokenizer
    assert not flattering(config, [judge_of_tokenizer])


def test_a_judge_that_an_earlier_tokenizer_was_trained_against_is_named_too(tmp_path):
    """A tokenizer that goes on without the perceptual term still looks as that term made it."""
    rules = {
        "first": ["tokenizer_training.perceptual.weight=1"],
        "second": [
            "tokenizer_training.perceptual.weight=1",
            "tokenizer_training.perceptual.network=efficientnet_lite1",
            f"tokenizer_init_from={tmp_path / 'first'}",
        ],
        "third": [f"tokenizer_init_from={tmp_path / 'second'}"],
    }
    for name, given in rules.items():
        folders = [f"run={tmp_path / 'run'}", f"tokenizer_run={tmp_path / name}"]
        config = settings.load(Config, None, [*folders, *given])
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(settings.to_yaml(config))
    names = ["efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"]
    assert len(flattering(config, names)) == 2
    assert name_of_judge(config) == "efficientnet_lite2"


@pytest.mark.parametrize(
    "name", ["fashion.yaml", "clipart.yaml", "cifar.yaml", "imagenet256.yaml", "shapes.yaml"]
)
def test_no_config_of_ours_is_scored_by_what_its_tokenizer_was_trained_against(name):
    config = settings.load(Config, name)
    assert not flattering(config, judges(config))


def test_more_drawn_than_real_images_are_answered_with_commands_for_equal_counts():
    """Few images raise a Frechet distance and lower the Inception score, and the floor has few."""
    entry = {"num_images": 400, "reference": {"num_images": 34, "split": "test"}}
    entry |= {"features": {"name": "efficientnet_lite0"}}
    entry |= {"sampler": {"images_per_class": 40}}
    said = for_equal_counts({"drawn/images/efficientnet_lite0": entry}, "runs/icons")
    assert said.startswith(
        "400 drawn images were compared with 34 real ones (at most half of the test split, "
    )
    assert "sample.py --run runs/icons --count 3 --output runs/icons/drawn_3 &&" in said
    assert said.endswith("evaluate.py --run runs/icons --images runs/icons/drawn_3/images")

    few = entry | {"reference": {"num_images": 6, "split": "test"}}
    assert said != for_equal_counts({"": few}, "runs/icons")
    assert "reference_split=train" in for_equal_counts({"": few}, "runs/icons")
    for equal in ({"num_images": 30}, {"reference": {"num_images": 2048}}):
        assert not for_equal_counts({"": entry | equal}, "runs/icons")


def test_made_up_shapes_are_read_and_other_pictures_are_not(config, tmp_path):
    """In a comparison of shapes the numbers say what a person sees; nothing can be read off other sets."""
    vit = config.evaluation.features
    assert judges(config) == ["shapes", *vit]
    grey = settings.load(Config, "shapes_vit", ["data.channels=1"])
    assert "shapes" not in judges(grey)
    assert "shapes" not in judges(settings.load(Config, "cifar", []))

    test = RealImages(config, train=False)
    for number in range(12):
        image_CHW, label = test[number]
        folder = tmp_path / "mine" / f"{label:04d}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image_CHW.permute(1, 2, 0).numpy()).save(folder / f"{number}.png")
    (found,) = score_images(config, tmp_path / "mine", Accelerator(cpu=True), features=["shapes"]).values()
    assert found["values"]["as_asked_shapes"] == found["floor"]["as_asked_shapes"] == 1
    assert found["values"]["nothing_read_shapes"] == 0
