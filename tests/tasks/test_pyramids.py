"""Training on several pyramids: one a step, the same for everybody, and refused before it starts."""

import json
from collections import Counter

import pytest
import torch
from accelerate import Accelerator

from tests.runs import TINY, train_both
from var_pe import settings
from var_pe.data.images import ImageDataset
from var_pe.data.sampler import Draw
from var_pe.data.sources import DataConfig, open_source
from var_pe.processes import Processes
from var_pe.stages.config import Config
from var_pe.stages.plan import plan
from var_pe.stages.pyramids import generator_pyramids
from var_pe.stages.tokens import say_passed_over
from var_pe.tasks.generator import GeneratorTask
from var_pe.tasks.pyramids import OneOfSeveral, which_pyramid

SIZES = "generator_training.pyramids=[[1, 2], [1, 2, 3], [[1, 1], [2, 3]]]"
SMALL = [
    *TINY,
    "data.shapes_train=24",
    "data.shapes_test=8",
    "tokenizer_training.steps=1",
    "generator.encoding=sinusoidal",
    "generator.level_embedding=sinusoidal",
    "generator_training.steps=6",
    "generator_training.save_every=1",
    "sampling.images_per_class=1",
    *[
        f"{kind}_training.{rule}"
        for kind in ("tokenizer", "generator")
        for rule in ("batch=4", "validation_images=4", "precision=float32", "trackers=[]", "log_every=1")
    ],
    SIZES,
]


def a_config(folder, *more: str) -> Config:
    here = [f"run={folder / 'run'}", f"tokenizer_run={folder / 'tokenizer'}"]
    return settings.load(Config, "shapes_mixed.yaml", [*SMALL, *here, *more])


def logged(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "run" / "log.jsonl").read_text().splitlines()]


@pytest.fixture(params=[1, 0], ids=["cached", "encoded on the fly"])
def run(request, tmp_path):
    """A finished run on three pyramids."""
    return tmp_path, train_both(a_config(tmp_path, f"generator_training.views={request.param}"))


def test_every_pyramid_is_drawn_about_equally_often():
    """A pyramid that is never drawn is one the run promises and does not know."""
    counts = Counter(which_pyramid(0, step, 3) for step in range(3000))
    assert all(900 < counts[number] < 1100 for number in range(3))
    assert [which_pyramid(0, step, 3) for step in range(20)] != [
        which_pyramid(1, step, 3) for step in range(20)
    ]


def test_all_images_of_a_step_come_from_one_pyramid():
    """Grids of two sizes do not stack, and processes on different ones would wait for each other."""
    sets = OneOfSeveral([Items(10 * number) for number in range(3)], batch=4, seed=0)
    for step in range(20):
        pyramids = {sets[Draw(0, number % 8, number)] // 10 for number in range(4 * step, 4 * step + 4)}
        assert pyramids == {which_pyramid(0, step, 3)}


class Items:
    def __init__(self, first: int) -> None:
        self.first = first

    def __getitem__(self, draw: Draw) -> int:
        return self.first + draw.index


def test_a_picture_that_no_pyramid_could_read_counts_once(capsys):
    """Each set meets the images of its own steps only: neither their sum nor the largest is the number."""
    config, sets = DataConfig(shapes_train=8), []
    for broken in ([0, 3], [3, 4, 5]):
        images = ImageDataset(open_source(config, train=True), config, train=True, seed=0)
        images.unreadable[broken] = True
        sets.append(images)
    say_passed_over(OneOfSeveral(sets, batch=4, seed=0), Processes.of(Accelerator()))
    assert capsys.readouterr().out.startswith("passed over 4 pictures of training that cannot be read")


def test_each_step_and_each_validation_name_their_pyramid(run):
    """One mean over pyramids of different lengths would compare nothing with nothing."""
    entries = logged(run[0])
    names = ["1-2", "1-2-3", "1-2x3"]
    for step, entry in enumerate(entry for entry in entries if "loss" in entry):
        drawn = names[which_pyramid(0, step, 3)]
        assert [name for name in names if f"loss/{name}" in entry] == [drawn]
        assert entry[f"loss/{drawn}"] == pytest.approx(entry["loss"])
    validation = next(entry for entry in entries if "validation/loss" in entry)
    assert validation["validation/loss"] == validation["validation/loss/1-2"]
    assert len({validation[f"validation/loss/{name}"] for name in names}) == 3
    assert "validation/loss/1-2x3/level_1" in validation


def test_a_run_on_several_pyramids_resumes_bit_for_bit(run, monkeypatch):
    """The pyramid is a matter of the step, not of how often the program was started."""
    folder, whole = run
    views = settings.load(Config, folder / "run" / "config.yaml").generator_training.views
    config = a_config(folder, f"run={folder / 'again'}", f"generator_training.views={views}")
    monkeypatch.setattr(GeneratorTask, "after_step", die_at(3))
    with pytest.raises(KeyError):
        train_both(config)
    monkeypatch.undo()
    again = train_both(config)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), whole.parameters(), strict=True))


def die_at(step):
    def after_step(self, model, here, accelerator, updates):
        if here == step:
            raise KeyError("killed")
        return {}

    return after_step


def test_every_pyramid_has_its_own_tokens(tmp_path):
    """48x48 pictures are other pictures than 32x32 ones, and their tokens are kept apart."""
    train_both(a_config(tmp_path, "generator_training.steps=1", "generator_training.views=1"))
    levels = [
        json.loads(index.read_text())["key"]["levels"]
        for index in (tmp_path / "tokenizer" / "tokens").glob("*/index.json")
    ]
    assert sorted(levels, key=str) == sorted(
        [[[1, 1], [2, 2]], [[1, 1], [2, 2], [3, 3]], [[1, 1], [2, 3]]], key=str
    )


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["generator.encoding=learned"], "has 1-2-3, but the learned table was made for the grids 1-2"),
        (["generator.level_embedding=learned"], "has 1-2-3, but level_embedding learned has 2 levels"),
        (["generator_training.pyramids=[[1, 4]]"], "must begin with tokenizer.levels 1-2"),
        (["generator_training.pyramids=[[1, 2], [3, 2]]"], "larger than the last"),
    ],
)
def test_what_a_generator_cannot_follow_is_refused_before_anything_is_trained(tmp_path, more, said):
    """Thirteen minutes of tokenizer training are a long way to an error."""
    with pytest.raises(ValueError, match=said):
        train_both(a_config(tmp_path, *more))
    assert not any(tmp_path.iterdir())


def test_without_pyramids_a_generator_trains_on_the_tokenizers_levels(tmp_path):
    """The usual run is unchanged: names of losses, token cache, pyramid."""
    config = a_config(tmp_path, "generator_training.pyramids=[]", "generator.encoding=learned")
    assert [str(pyramid) for pyramid in generator_pyramids(config)] == ["1-2"]
    train_both(config)
    names = {name for entry in logged(tmp_path) for name in entry}
    assert {"loss/level_0", "loss/level_1", "validation/loss", "validation/loss/level_1"} <= names
    assert not any("1-2" in name for name in names)


def test_a_plan_lists_the_tokens_of_every_pyramid():
    """What a mixed run costs is what its largest pyramid costs."""
    said = plan(settings.load(Config, "fashion_sizes.yaml", ["data.source=shapes"]))
    assert said.count("tokens: ") == 3
    assert "tokens: 66 an image" in said
