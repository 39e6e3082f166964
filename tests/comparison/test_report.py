"""The report of made-up results: it says what was measured, claims no more, and both texts say the same."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from var_pe.comparison.description import describe
from var_pe.comparison.generator_study import About, Comparison, RealPicture, Result, TokenizerScores
from var_pe.comparison.pictures import curve, samples
from var_pe.comparison.report import as_text, write_report

DISTANCE = "Frechet distance (efficientnet_lite0)"
FRECHET = "frechet_distance_efficientnet_lite0"
ABOUT: About = {
    "tokenizer_run": "runs/tokenizer",
    "sampling": {"guidance_scale": 1.5, "batch": 100, "seed": 0},
    "evaluation": {},
    "data": {},
    "generator_training": {},
    "device": "cpu",
    "processes": 1,
    "threads": 2,
    "peak_memory_comparable": True,
    "versions": {},
}


@pytest.fixture
def study(tmp_path):
    """Makes a comparison from Frechet distances by encoding, one for each seed."""
    file = tmp_path / "picture.png"
    Image.fromarray(np.full((6, 4), 200, np.uint8)).save(file)

    def make(extractor: str = "efficientnet_lite0", **distances: list[float]) -> Comparison:
        return Comparison(
            [
                result(encoding, seed, value, extractor, file)
                for encoding, values in distances.items()
                for seed, value in enumerate(values)
            ],
            ABOUT,
        )

    return make


def result(encoding: str, seed: int, distance: float, extractor: str, file: Path) -> Result:
    comparable = extractor == "inception"
    name = "fid" if comparable else f"frechet_distance_{extractor}"
    record = {
        "values": {name: distance},
        "floor": {"count": 500, name: 1.25},
        "features": {"name": extractor, "weights_sha256": "a" * 64, "comparable_with_papers": comparable},
        "num_images": 500,
        "reference": {"set": "images of shapes", "split": "test", "num_images": 500},
    }
    log = [{"step": step, "loss": 5.0 - step + seed, "validation/loss": 4.0 - step} for step in (1, 2)]
    values = {name: distance, "parameters": 1234567, "peak_memory_gb": 1.0 + distance}
    return Result(encoding, seed, f"{encoding}_{seed}", values, {"drawn": record}, log, [("disc", file)])


def test_one_seed_shows_no_spread_and_the_report_says_so(study):
    """The commonest misreading of a table: a difference of one seed taken for the encodings'."""
    page = describe(study(learned=[10.0], none=[90.0]))
    assert "One seed shows no spread" in page.intro
    assert page.rows[0] == [f"{DISTANCE} ↓", "10.00", "90.00", "1.250"]
    assert "±" not in " ".join([page.intro, *(cell for row in page.rows for cell in row), *page.notes])
    assert page.differences == []


def test_a_difference_within_the_spread_is_never_called_better(study):
    """Means of 10 and 9 with seeds all over the place are the same number."""
    (line,) = describe(study(learned=[10.0, 14.0, 6.0], none=[9.0, 7.0, 11.0])).differences
    assert "within the spread" in line
    assert "better" not in line
    assert "worse" not in line


def test_a_difference_beyond_the_spread_is_named_with_its_direction(study):
    """Lower is better for a distance: a sign mistaken here would turn the study's answer round."""
    (line,) = describe(
        study(learned=[10.0, 20.0, 30.0], none=[5.0, 15.1, 25.2], peg=[15.0, 25.1, 35.2])
    ).differences
    assert "none -4.90 ± " in line
    assert ": better, more than the spread; peg +5.10 ± " in line
    assert line.endswith(": worse, more than the spread.")


def test_memory_outside_a_gpu_and_parameters_are_never_called_different(study):
    """Parameters are counted, not measured; a process's memory depends on the runs before."""
    found = study(learned=[1.0, 2.0, 3.0], none=[11.0, 12.1, 13.2])
    assert not any("memory" in line or "parameters" in line for line in describe(found).differences)
    on_gpu = replace(found, about={**ABOUT, "device": "cuda"})
    assert any("peak memory" in line for line in describe(on_gpu).differences)


@pytest.mark.parametrize(("extractor", "named"), [("inception", True), ("efficientnet_lite0", False)])
def test_only_inceptions_distance_is_called_fid(study, extractor, named):
    """A number that looks like FID would be set beside those of papers."""
    page = describe(study(extractor, learned=[1.0, 2.0]))
    quantities = [row[0] for row in page.rows]
    assert ("FID ↓" in quantities) == named
    assert (f"Frechet distance ({extractor}) ↓" in quantities) != named
    assert ("not comparable" in " ".join(page.notes)) != named


def test_every_number_has_its_floor_and_its_circumstances_beside_it(study):
    """A distance means nothing without count, reference, sampler and what real images get."""
    page = describe(study(learned=[1.0]))
    assert page.header[-1] == "real images"
    assert [row[-1] for row in page.rows if row[-1]] == ["1.250"]
    said = " ".join(page.notes)
    for fact in (
        "500 against as many other real ones",
        "500 generated",
        "test split",
        "aaaaaaaaaaaa",
        "guidance_scale 1.5",
        "one after another",
        "2,048",
    ):
        assert fact in said
    assert "batch" not in said


class Text(HTMLParser):
    """What a browser would show."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def handle_data(self, data: str) -> None:
        self.said.append(data)


def test_markdown_and_page_say_the_same_and_the_page_stands_alone(study, tmp_path):
    """The page is passed on by itself, so its pictures are inside; text from a config is not markup."""
    found = study(**{"learned": [1.0, 2.0], "<b>&": [3.0, 4.0]})
    page = write_report(found, tmp_path / "out")
    html = (tmp_path / "out/comparison.html").read_text()
    parser = Text()
    parser.feed(html)
    markdown = (tmp_path / "out/comparison.md").read_text()
    cells = [text for row in page.rows for text in row]
    for text in [
        page.title,
        page.intro,
        *filter(None, cells),
        *page.differences,
        *page.tokenizer,
        *page.notes,
    ]:
        assert text in parser.said
        assert text in markdown
    assert html.count("data:image/png;base64,") == 2
    assert "<b>" not in html
    for name in ("loss_curves", "samples"):
        assert Image.open(tmp_path / f"out/{name}.png").width > 300


def test_json_holds_every_run_and_what_the_table_was_made_of(study, tmp_path):
    """Who doubts the table recomputes it."""
    found = study(learned=[1.0, 3.0], none=[5.0, 9.0])
    write_report(found, tmp_path)
    read = json.loads((tmp_path / "comparison.json").read_text())
    assert [(run["encoding"], run["seed"], run["values"][FRECHET]) for run in read["runs"]] == [
        ("learned", 0, 1.0), ("learned", 1, 3.0), ("none", 0, 5.0), ("none", 1, 9.0),
    ]  # fmt: skip
    assert read["table"]["none"][FRECHET] == pytest.approx({"mean": 7.0, "spread": 8**0.5, "count": 2})
    assert read["differences_to_first"]["none"][FRECHET]["mean"] == 5.0
    assert not read["differences_to_first"]["none"][FRECHET]["exceeds_spread"]
    assert read["floor"] == {"count": 500, FRECHET: 1.25}


def test_curves_are_means_over_seeds_at_the_steps_that_all_have(study):
    """A seed that was stopped early must not bend the others' mean."""
    found = study(learned=[1.0, 2.0, 3.0])
    found.results[2].log.pop()
    drawn = curve(found, "learned", "loss")
    assert (drawn.steps, drawn.mean, drawn.low, drawn.high) == ([1], [5.0], [4.0], [6.0])


def test_the_picture_has_a_row_for_each_encoding_of_one_seed(study):
    """The same seed under every encoding is what the eye can compare."""
    axes = samples(study(learned=[1.0, 2.0], none=[3.0, 4.0])).axes
    assert [row.get_title(loc="left") for row in axes] == ["learned", "none"]


def test_real_images_and_their_reconstructions_stand_above_the_samples(study):
    """What the tokenizer loses is no encoding's fault; a class without images stays white."""
    pictures = np.full((6, 4, 1), 10, np.uint8), np.full((6, 4, 1), 20, np.uint8)
    found = replace(study(learned=[1.0]), real=[RealPicture(*pictures), None])
    for result in found.results:
        result.pictures.append(result.pictures[0])
    rows = samples(found).axes
    titles = [row.get_title(loc="left") for row in rows]
    assert titles == ["real test images", "their reconstructions by the tokenizer", "learned"]
    shown = [row.images[0].get_array() for row in rows]
    assert [(row[0, 0, 0], row[0, 6, 0]) for row in shown] == [(10, 255), (20, 255), (200, 200)]


def test_the_loss_leads_and_nothing_of_python_is_left_on_the_page(study):
    """A page is read by people: no None, no brackets, no quotes."""
    found = study(learned=[1.0], none=[2.0])
    for result in found.results:
        result.values["validation/loss"] = 3.5
    sampling = {"size": None, "temperature": [1.0, 0.9], "guidance_schedule": "linear", "top_p": 0.0}
    page = describe(replace(found, about={**ABOUT, "sampling": sampling}))
    assert page.rows[0][:2] == ["validation loss (nats per token) ↓", "3.500"]
    assert "Sampler: temperature 1 0.9, guidance_schedule linear, top_p 0." in page.notes
    said = " ".join([*page.notes, *(cell for row in page.rows for cell in row)])
    assert not re.search(r"None|True|False|[\[\]{}]|nan", said)


def test_the_tokenizers_own_scores_and_verdict_are_on_the_page(study, tmp_path):
    """No generator can draw what its tokenizer cannot."""
    scores = TokenizerScores(22.48, ["1x1", "2x2"], [51.2, 257.0], [0.45, 1.0], 512, 1000, "It is good.")
    page = write_report(replace(study(learned=[1.0]), tokenizer=scores), tmp_path)
    assert page.tokenizer[0].startswith("PSNR of 1,000 test images: 22.48 dB.")
    assert "level 1x1: 51 codes, 45% used; level 2x2: 257 codes, 100% used" in page.tokenizer[0]
    for name in ("comparison.html", "comparison.md"):
        assert "It is good." in (tmp_path / name).read_text()


def test_what_is_read_off_made_up_shapes_leads_the_table(study):
    """Of pictures that nobody could name a distance says little."""
    comparison = study(learned=[1.0])
    comparison.results[0].values.update({"validation/loss": 2.0, "kind_as_asked_shapes": 0.9})
    labels = [row[0] for row in describe(comparison).rows]
    assert labels[:2] == ["kind as asked ↑", "validation loss (nats per token) ↓"]


def test_the_terminals_table_is_aligned(study):
    """It is what the demo ends with."""
    lines = as_text(describe(study(learned=[1.0], none=[2.0]))).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[0].split() == ["learned", "none", "real", "images"]
