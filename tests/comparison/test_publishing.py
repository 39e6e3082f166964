"""A study as a page of the documentation: it says nothing of the machine and is made of its data alone."""

import json
from pathlib import Path

import pytest

from tests.comparison.made_up import results
from var_pe.comparison.figures import charts_of
from var_pe.comparison.guide import SITUATIONS
from var_pe.comparison.publishing import POINTS, publish
from var_pe.comparison.results import read
from var_pe.settings.loading import CONFIGS

ARMS = {"learned": [3.00, 3.10, 2.95], "sinusoidal": [3.51, 3.60, 3.44]}
PUBLISHED = sorted((Path(__file__).parents[2] / "docs" / "studies").glob("*.json"))


def made_elsewhere():
    """Results from another machine's folders, with long curves."""
    found = results(**ARMS)
    found["study"] |= {"output": "/scratch/me/mine", "config": "/scratch/me/configs/shapes.yaml"}
    found["command"] = "python scripts/compare.py --study /scratch/me/mine.yaml output=/scratch/me/mine"
    found["shared"]["tokenizers"][0]["folder"] = "/scratch/me/other/tokenizer"
    for cell in found["cells"]:
        cell["run"] = f"/scratch/me/mine/{cell['key']}"
        cell["curves"]["loss"] = {"steps": list(range(1, 201)), "values": [1 / 3] * 200}
    return found


def test_a_page_names_no_folder_of_the_machine_and_is_made_again_from_its_data(tmp_path):
    """It goes into the repository, where neither that machine nor its runs are."""
    written = publish(made_elsewhere(), tmp_path / "mine")
    assert {path.name for path in written} == {path.name for path in tmp_path.iterdir()}
    texts = {path: path.read_text() for path in written if path.suffix != ".png"}
    assert not [path for path, text in texts.items() if "/scratch" in text]
    data = json.loads((tmp_path / "mine.json").read_text())
    assert data["command"] == "python scripts/compare.py --study mine.yaml output=runs/studies/mine"
    assert data["cells"][0]["run"] == "runs/studies/mine/learned_0"
    assert data["cells"][0]["picture"] == made_elsewhere()["cells"][0]["picture"]
    steps = data["cells"][0]["curves"]["loss"]["steps"]
    assert len(steps) <= POINTS
    assert steps[-1] == 200

    publish(read(tmp_path / "mine.json"), tmp_path / "mine")
    assert {path: path.read_text() for path in texts} == texts


def test_a_single_validation_is_seen_in_the_chart():
    """A line through one point draws nothing: the chart would be empty."""
    found = results(**ARMS)
    for points, marker in ((3, ""), (1, "o")):
        for cell in found["cells"]:
            cell["curves"] = {
                key: {name: curve[name][:points] for name in ("steps", "values")}
                for key, curve in cell["curves"].items()
            }
        curves = charts_of(found).axes[1].get_lines()
        assert curves
        assert {line.get_marker() for line in curves} == {marker}


def test_the_index_has_every_study_and_every_claim(tmp_path):
    """A reader of one page would not know that another study says something else."""
    publish(results(**ARMS), tmp_path / "first")
    publish(results(**{**ARMS, "sinusoidal": [2.5, 2.6, 2.44]}), tmp_path / "second")
    (tmp_path / "interventions.json").write_text("{}")
    (tmp_path / "interventions.md").write_text("# What they rely on\n\nMuch.\n")
    text = publish(read(tmp_path / "first.json"), tmp_path / "first")[-1].read_text()
    assert "### [first](first.md): 2 encodings" in text
    assert "### [second](second.md): 2 encodings" in text
    assert "- [interventions](interventions.md): What they rely on" in text
    rows = [line for line in text.splitlines() if line.startswith("| Learned positions are better")]
    assert ["**confirmed**" in row for row in rows] == [True, False]
    assert "| Fixed positions win on long sequences. | nothing yet | not measured |" in text


def test_the_index_says_what_to_take_and_what_was_not_run(tmp_path):
    """A reader of a guide with gaps left out would take the studies that are there for all there is."""
    assert [name for _, name in SITUATIONS if not (CONFIGS / "studies" / f"{name}.yaml").exists()] == []
    text = publish(results(**ARMS), tmp_path / "small_data")[-1].read_text()
    rows = {line.split(" | ")[0]: line for line in text.splitlines() if line.startswith("| ")}
    few = rows["| small data, with and without augmentation"]
    assert " take learned: " in few
    assert few.endswith("[small_data](small_data.md) |")
    assert "not run yet | `python scripts/compare.py --study colour.yaml --jobs 2`" in text


@pytest.mark.parametrize("file", PUBLISHED, ids=lambda file: file.stem)
def test_what_was_published_can_be_read(file):
    """Its tables and charts are to be made again by whoever doubts them."""
    if "arms" in json.loads(file.read_text()):
        names = [arm["name"] for arm in read(file)["arms"]]
        page = file.with_suffix(".md").read_text()
        assert not [name for name in names if f"`{name}`" not in page]
