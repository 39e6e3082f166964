"""Whether encodings rank the same under other settings, as the report says it."""

from tests.comparison.made_up import results
from var_pe.comparison.agreement import agreement_table
from var_pe.comparison.report import report_of

SCATTER = [0.0, 0.02, -0.01]
SIZES = {"small": 1e5, "middle": 1e6, "large": 4e6}
# Means of each size: the middle one turns a and c round, the small one has the same order.
MEANS = {
    "small": {"a": 2.0, "b": 2.5, "c": 3.0},
    "middle": {"a": 2.0, "b": 2.5, "c": 1.5},
    "large": {"a": 1.0, "b": 1.2, "c": 1.4},
}


def sizes(*names: str):
    """A study of three encodings under these sizes of the generator."""
    losses = {
        f"{line} {size}": [mean + seed + 0.001 * place * (seed > 0) for seed in SCATTER]
        for size in names
        for place, (line, mean) in enumerate(MEANS[size].items())
    }
    found = results(**losses)
    for arm in found["arms"]:
        line, size = arm["name"].split()
        arm.update(place=[line, size], encoding=line)
    for cell in found["cells"]:
        cell["values"]["parameters"] = SIZES[cell["arm"].split()[1]]
    return found


def test_an_encoding_is_the_same_under_every_width():
    """`sinusoidal` has another scale in every width, so its resolved lines differ."""
    found = sizes("small", "large")
    for arm in found["arms"]:
        line, size = arm["place"]
        arm.update(encoding=f"{line}(scale={SIZES[size]:g})")
    assert not agreement_table(found).rows
    found["study"]["encodings"] = ["a", "b", "c"]
    assert [row[0] for row in agreement_table(found).rows] == ["large", "small"]


def test_the_smallest_that_ranks_as_the_largest_is_named():
    """A study with it stands for the large model; one that turns an order round does not."""
    table = agreement_table(sizes("small", "middle", "large"))
    by_name = {row[0]: row for row in table.rows}
    assert list(by_name) == ["large", "middle", "small"]
    assert by_name["small"][3:] == ["1.000", "3 of 3", "0"]
    assert by_name["middle"][3:] == ["-0.3333", "1 of 3", "2"]
    assert by_name["middle"][2].startswith("c 1.5")
    assert table.notes[1].startswith("The smallest that ranks as the largest")
    assert report_of(sizes("small", "middle", "large")).findings == [table.notes[1]]
    assert table.notes[1].endswith(": small.")
    assert agreement_table(sizes("middle", "large")).notes[1].startswith("None of the smaller")
    assert not agreement_table(sizes("large")).rows
