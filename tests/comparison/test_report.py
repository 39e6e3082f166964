"""The report of made-up results: it says what was measured, claims no more, and its files say the same."""

import json
import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from tests.comparison.made_up import FRECHET, LOSS, results
from var_pe.comparison.page import heat_maps
from var_pe.comparison.report import report_of
from var_pe.comparison.results import read
from var_pe.comparison.verdicts import all_columns, compared, primary_column, variance
from var_pe.comparison.writing import FILES, as_text, write_report

# The second is worse by 0.5 with a scatter of 0.01, the third the same but for 0.001.
CLEAR = {
    "learned": [3.00, 3.10, 2.95, 3.05],
    "none": [3.51, 3.60, 3.44, 3.55],
    "peg": [3.001, 3.1, 2.951, 3.049],
}


def verdicts(**losses: list[float]) -> dict[str, str]:
    found = results(margin=0.02, **losses)
    column = primary_column(found)
    return {one.arm: one.verdict(column) for one in compared(found, column)}


def test_a_difference_is_named_with_its_direction_or_not_at_all():
    """Lower is better for a loss: a sign mistaken here would turn the study's answer round."""
    assert verdicts(**CLEAR) == {"none": "worse", "peg": "equivalent within the margin"}
    assert verdicts(learned=[3.0, 3.4, 2.6], none=[2.9, 2.7, 3.1]) == {"none": "undecided"}
    assert verdicts(learned=[3.0], none=[2.0]) == {"none": "one seed: unknown"}
    assert verdicts(learned=[3.0, 3.0], none=[2.0, 2.0]) == {"none": "no spread seen: unknown"}
    higher = results(**CLEAR)
    for cell in higher["cells"]:
        cell["values"]["precision_efficientnet_lite0"] = cell["values"][LOSS]
    column = next(one for one in all_columns(higher) if one.key.startswith("precision"))
    assert compared(higher, column)[0].verdict(column) == "better"


def test_the_answer_is_two_sentences_that_claim_what_was_shown():
    """It is what most people read, and all that some do."""
    report = report_of(results(margin=0.02, **CLEAR))
    first, second = report.answer
    assert first == "learned has the best validation loss (nats per token), 3.025."
    assert second.startswith("Of 2 comparisons with learned these are real: none (+0.5")
    assert "worse" in second
    assert "peg" not in second
    assert "4 seeds could have shown differences" in report.sensitivity
    assert report.sensitivity.endswith("shown to differ by less than 0.02: peg.")
    alone = " ".join(report_of(results(learned=[3.0], none=[9.0])).answer)
    assert "One seed shows no spread" in alone


def test_what_could_be_seen_is_said_apart_for_each_number_of_seeds():
    """Three seeds see a tenth of what eight see: one range for both would promise too much of the three."""
    found = results(**CLEAR, few=[3.2, 3.4])
    report = report_of(found)
    assert report.title == "4 encodings compared over 2 to 4 seeds"
    sizes = {one.arm: f"{one.smallest:.2g}" for one in compared(found, primary_column(found))}
    assert report.sensitivity.startswith("4 seeds could have shown differences of ")
    assert f", 2 seeds {sizes['few']} with a power of 80 %" in report.sensitivity


def test_arms_of_several_groups_have_no_best_one():
    """A loss on all pictures beats that on a tenth of them, whatever the encoding."""
    found = results(**CLEAR, **{f"{name} few": [value + 5 for value in CLEAR[name]] for name in CLEAR})
    for arm in found["arms"]:
        name, _, few = arm["name"].partition(" ")
        arm |= {"compared_with": f"learned {few}".strip(), "place": [name, few or "all"], "encoding": name}
    report = report_of(found)
    assert report.answer[0] == "Arms are compared by their validation loss (nats per token)."
    assert report.answer[1].startswith("Of 4 comparisons these are real: none few (")
    assert " against learned few: worse" in report.answer[1]
    assert [line.partition(":")[0] for line in report.guide] == ["all", "few"]
    assert report.guide[1].startswith("few: take learned: ")


def test_a_table_of_pairs_that_is_left_out_is_said():
    """Thirteen rows of thirteen numbers are no table that a person reads."""
    for arms, expected in ((12, False), (13, True)):
        found = results(**{f"rope(base={number + 2})": [3.0, 3.1, 3.05 + number] for number in range(arms)})
        said = [line for line in report_of(found).notes if line.startswith("The table of all pairs is left")]
        assert bool(said) == expected


def test_the_command_under_the_scores_computes_some_of_them():
    """Without extractors evaluate.py has nothing to score by: only a study measures histograms and losses."""
    found = results(**CLEAR)
    for records, script in ((found["records"], "scripts/evaluate.py --run"), ({}, "scripts/compare.py")):
        (table,) = (one for one in report_of({**found, "records": records}).tables if one.title == "Scores")
        assert table.command.startswith(f"python {script}")


def test_names_that_do_not_say_the_encoding_stand_beside_its_line():
    """A reader of the table wants to write it into a config."""
    found = results(start=[3.0, 3.1], other=[3.5, 3.6])
    assert report_of(found).ranking.header[1].startswith("validation loss")
    found["arms"][0]["encoding"] = "learned(init=sinusoidal)"
    report = report_of(found)
    assert report.ranking.header[1] == "encoding"
    assert report.ranking.rows[0][1] == "learned(init=sinusoidal)"
    assert report.answer[0].startswith("learned(init=sinusoidal) (start) has the best validation loss")


def test_the_loss_of_one_level_may_be_what_arms_are_ranked_by():
    """After the last training is no time to hear that what was measured was not measured."""
    report = report_of({**results(**CLEAR), "primary": "validation/loss/level_1"})
    assert [row[0] for row in report.ranking.rows] == ["learned", "peg", "none"]
    assert "worse" in report.ranking.rows[2]


def test_maps_of_differences_are_seed_by_seed_like_all_differences():
    """An arm that has the lucky seeds alone would seem to be better at every place."""
    found = results(learned=[3.0, 3.1, 9.0, 9.1], none=[3.5, 3.6])
    _, (against,) = heat_maps(found)
    assert against.name == "none minus learned"
    assert {cell.said.rpartition(": ")[2] for cell in against.cells} == {"0.5000 nats"}


def test_more_comparisons_ask_for_more():
    """Thirty arms against one would find a difference by chance alone."""
    pair = {"learned": [3.00, 3.10, 2.95, 3.05], "none": [3.03, 3.13, 2.99, 3.07]}
    two = results(**pair)
    many = results(**pair, **{f"other_{n}": [3.1, 2.9, 3.2, 2.8] for n in range(20)})
    of_two, of_many = (compared(found, primary_column(found))[0] for found in (two, many))
    assert of_two.p == of_many.p
    assert of_two.is_real
    assert not of_many.is_real


def test_a_handicapped_arm_is_looked_for_and_not_ranked():
    """It is there to be found: among the others it would only take away from their share of the error."""
    found = results(handicapped="none", **CLEAR)
    report = report_of(found)
    assert "none" not in [row[0] for row in report.ranking.rows]
    (alarms,) = [table for table in report.tables if table.title.startswith("False alarms")]
    assert any("handicapped arm, none, was found" in note for note in alarms.notes)
    helped = {**CLEAR, "none": [value - 1 for value in CLEAR["none"]]}
    (other,) = [t for t in report_of(results(handicapped="none", **helped)).tables if t.title == alarms.title]
    assert any("handicapped arm, none, was not found" in note for note in other.notes)
    assert alarms.rows[0][1].endswith("of 20")
    assert alarms.rows[1][1].endswith("of 10,000")


def test_a_margin_may_be_a_share_of_what_the_handicapped_arm_loses():
    """0.02 nats tells nobody anything; a tenth of what is lost without positions does."""
    found = results(margin=0.0001, handicapped="none", **CLEAR) | {"handicap_margins": [0.1]}
    report = report_of(found)
    assert "by less than 0.0001: none, which takes " in report.sensitivity
    assert report.sensitivity.endswith("by less than 0.1 x what none loses (0.05000): peg.")
    (table,) = [table for table in report.tables if table.title.startswith("Is it shown")]
    ((arm, _, _, declared, seeds, p, shown, few),) = table.rows
    assert (arm, declared, shown) == ("peg", "not shown", "yes")
    assert float(p.removeprefix("< ")) < 0.05
    assert int(few) < int(seeds)

    # Of one that loses nothing, a share is no margin.
    unfound = report_of(results(handicapped="peg", **CLEAR) | {"handicap_margins": [1.0]})
    (alarms,) = [table for table in unfound.tables if table.title.startswith("False alarms")]
    assert any("are left out: it was not shown to be worse" in note for note in alarms.notes)


def test_what_was_chosen_for_each_arm_is_not_said_to_be_the_same_for_all():
    """The config's guidance stands in no arm's drawings then."""
    found = results(**CLEAR)
    assert "Sampler: guidance_scale 1.5." in report_of(found).notes
    assert report_of(found).trained.endswith(
        "No learning rates were tried: it is 0.001 where an arm does not say."
    )
    found["study"] |= {"learning_rates": [0.1, 0.2, 0.3], "guidances": [1.5, 3.0]}
    assert "Sampler: guidance_scale as chosen for each arm." in report_of(found).notes
    assert report_of(found).trained.endswith(
        "Each arm has the best of 3 learning rates and of 2 guidance scales."
    )


def test_what_was_not_measured_is_said():
    """A reader looks for it in vain otherwise, or takes it to be there."""
    found = results(**CLEAR)
    (line,) = [note for note in report_of(found).notes if note.startswith("Not measured")]
    assert "agreement with a judge" in line
    assert "sampling seeds" not in line
    for cell in found["cells"]:
        cell["values"]["class_agreement"] = 0.5
    assert not [note for note in report_of(found).notes if "agreement with a judge" in note]


def test_failed_and_unfinished_cells_are_said():
    """A mean over the seeds that happened to survive is not the study's."""
    found = results(**CLEAR)
    found["cells"][1] |= {"failed": "loss is not finite", "values": {}, "curves": {}, "nats_by_place": []}
    found["cells"][2] |= {"values": {}, "curves": {}, "nats_by_place": []}
    missing = report_of(found).missing
    assert missing[0] == "Failed: learned, seed 1: loss is not finite"
    assert missing[1].startswith("Not finished: 1 of 12 cells")


def test_a_study_without_a_finished_cell_says_so(tmp_path):
    """All cells failed: that is the report, and not an error about it."""
    found = results(learned=[3.0])
    found["cells"][0] |= {"failed": "a full disk", "values": {}, "drawings": {}, "curves": {}}
    found["cells"][0] |= {"nats_by_place": [], "picture": ""}
    assert "No cell is finished yet." in write_report(found, tmp_path)
    assert "a full disk" in (tmp_path / "comparison.html").read_text()
    with pytest.raises(ValueError, match="primary=fid was not measured; measured were encoding_parameters"):
        report_of({**results(learned=[3.0]), "primary": "fid"})


def test_what_is_read_off_made_up_shapes_leads_the_scores():
    """Of pictures that nobody could name a distance says little."""
    found = results(**CLEAR)
    for cell in found["cells"]:
        cell["values"]["kind_as_asked_shapes"] = 0.9
    labels = [column.label for column in all_columns(found)]
    assert labels[:3] == ["validation loss (nats per token)", "kind as asked", "token histogram distance"]


def test_scatter_is_split_into_training_and_sampling():
    """New samples of one model say little about another training of it."""
    found = variance(results(**CLEAR), FRECHET)
    assert (found.trainings, found.samplings, found.tokenizer) == (4, 2, None)
    assert found.sampling == pytest.approx(0.5 / 2**0.5)
    assert found.training > found.sampling


def test_scatter_of_tokenizers_is_seen_where_their_seeds_are_the_only_axis():
    """Each would be a group of its own, in which no tokenizer seed was varied."""
    found = results(first=[3.0, 3.1], second=[4.0, 4.1])
    for number, arm in enumerate(found["arms"]):
        arm["place"] = [f"tokenizer seed {number}"]
    split = variance(found, FRECHET)
    assert split.tokenizers == 2
    assert split.tokenizer > split.training


def test_advice_follows_the_stated_rule():
    """Of arms that are not shown to be worse than the best, the one with the fewest parameters."""
    three = {"none": [3.0, 3.1, 2.9], "learned": [2.99, 3.08, 2.91], "peg": [4.0, 4.11, 3.9]}
    (line,) = report_of(results(**three)).guide
    begins = (
        "no encoding is shown to be better than no positions at all: validation loss (nats per token) 3.000 "
    )
    assert line.startswith(f"{begins}over 3 seeds; 0 parameters")
    assert "learned has the best mean, 2.993, and is not shown to be better" in line
    assert line.endswith("; shown to be worse: peg.")
    assert "nothing can be advised" in report_of(results(learned=[3.0], none=[9.0])).guide[0]

    # Arms of few seeds neither win by luck nor hide, by their number, what many seeds show of the others.
    few = {f"other_{number}": [2.0, 6.0] for number in range(30)}
    assert report_of(results(**three, **few)).guide == [f"{line[:-1]}; 30 arms with fewer seeds left out."]

    # Of equals the one that the others are compared with.
    same = results(corner=[3.0, 3.2, 2.9], start=[2.9, 3.0, 3.1])
    for cell in same["cells"]:
        cell["values"]["encoding_parameters"] = 0.0
    assert report_of(same).guide[0].startswith("take corner: ")


def test_advice_calls_no_more_real_than_the_study_does():
    """Each of 20 situations with an error of its own would contradict the answer that stands above them."""
    pair = {"learned": [3.0, 3.1, 2.95], "none": [3.03, 3.14, 2.97]}
    found = results(**{f"{name} {n}": values for n in range(20) for name, values in pair.items()})
    for arm in found["arms"]:
        name, _, number = arm["name"].partition(" ")
        arm |= {"compared_with": f"learned {number}", "place": [name, number], "encoding": name}
    alone = report_of(results(**pair)).guide[0]
    assert alone.startswith("take learned")
    report = report_of(found)
    assert report.answer[1].startswith("None of 20 comparisons")
    assert not [line for line in report.guide if "shown to be worse: " in line]


def test_an_arm_of_one_seed_does_not_hide_what_the_others_show():
    """Its one value may be the best by luck, and the study is not yet finished."""
    report = report_of(results(**CLEAR, few=[2.0]))
    assert "these are real: none" in report.answer[1]


def test_rates_at_the_end_of_what_was_tried_are_said():
    """An arm that wants a larger rate than any that was tried has lost by the grid."""
    found = results(**CLEAR)
    for arm, rate in zip(found["arms"], (0.001, 0.002, 0.004), strict=True):
        nats = {"0.001": 3.0, "0.002": 3.0, "0.004": 3.0}
        arm["chosen"] = {"learning_rate": rate, "guidance": 0.0, "nats": nats, "distances": {}}
    (table,) = [table for table in report_of(found).tables if table.title.startswith("Learning rate")]
    assert "the smallest rate that was tried is that of 1 of 3 arms, the largest " in table.notes[1]
    for arm in found["arms"]:
        arm["chosen"]["diverged"] = ["0.008"]
    (table,) = [table for table in report_of(found).tables if table.title.startswith("Learning rate")]
    assert "0.008: diverged" in table.rows[0][2]
    assert "largest" not in table.notes[1]


class Text(HTMLParser):
    """What a browser would show."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def handle_data(self, data: str) -> None:
        self.said.append(data)


def test_page_and_markdown_say_the_same_and_the_page_stands_alone(tmp_path):
    """The page is passed on by itself; text from a config is not markup; nothing of Python is left."""
    found = results(margin=0.02, **CLEAR, **{"<b>&</script>": [3.2, 3.3, 3.15, 3.25]})
    found["arms"][3]["encoding"] = "none"
    found["study"]["question"] = "Is <i>this</i> better?"
    write_report(found, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(FILES)
    html, markdown = ((tmp_path / name).read_text() for name in ("comparison.html", "comparison.md"))
    parser = Text()
    parser.feed(html)
    said = " ".join(parser.said)
    report = report_of(found)
    cells = [text for table in (report.ranking, *report.tables) for row in table.rows for text in row]
    texts = [
        *report.answer,
        report.sensitivity,
        *report.guide,
        *report.notes,
        *report.tokenizers,
        report.trained,
        report.question,
    ]
    for text in [*texts, *filter(None, cells)]:
        assert text in said
        assert text in markdown

    assert "<b>" not in html
    assert "<i>this" not in html
    assert not re.search(r"""(src|href)=["'](?!data:)""", html)
    assert len(html) < 3_000_000
    assert not re.search(r"\bNone\b|\bTrue\b|\bnan\b", markdown)
    assert Image.open(tmp_path / "samples.png").width > 300
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)[1]
    assert json.loads(data)["arms"][3]["name"] == "<b>&</script>"


def test_every_table_is_made_again_from_the_file(tmp_path):
    """Who doubts the page recomputes it, without a training."""
    found = results(**CLEAR)
    text = write_report(found, tmp_path)
    pages = {name: (tmp_path / name).read_bytes() for name in FILES}
    assert write_report(read(tmp_path / "comparison.json"), tmp_path) == text
    assert {name: (tmp_path / name).read_bytes() for name in FILES} == pages
    for other in ('{"format": 0}', '{"format": 1}', "[]"):
        (tmp_path / "other.json").write_text(other)
        with pytest.raises(ValueError, match=r"not the comparison.json of a study"):
            read(tmp_path / "other.json")


def test_arms_with_other_levels_have_tables_and_maps_of_their_own(tmp_path):
    """One ladder's grids would cut another one's tokens into wrong levels, or run out of them."""
    found = results(**CLEAR)
    found["arms"][1]["grids"] = [[1, 1], [3, 3]]
    for cell in found["cells"]:
        if cell["arm"] == "none":
            cell["nats_by_place"] = [3.0] * 10
    write_report(found, tmp_path)
    titles = [table.title for table in report_of(found).tables]
    assert {"Validation loss by level, 5 tokens", "Validation loss by level, 10 tokens"} <= set(titles)
    html = (tmp_path / "comparison.html").read_text()
    assert "3x3, row 3, column 3" in html
    assert "none minus learned" not in html
    assert "peg minus learned" in html
    assert "level 2" in html


def test_the_terminals_table_is_aligned():
    """It is what the demo ends with."""
    lines = as_text(report_of(results(**CLEAR))).splitlines()
    assert len({len(line) for line in lines[:4]}) == 1
