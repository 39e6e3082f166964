"""Numbers for people have as many digits as they mean something."""

from var_pe.pages.numbers import percent, plain, rounded


def test_a_spread_has_two_digits_and_the_mean_as_many_places():
    """More digits than the spread allows are noise that looks like knowledge."""
    assert rounded(12.3456, 0.2345) == "12.35 ± 0.23"
    assert rounded(1234.5, 67.8) == "1234 ± 68"
    assert rounded(-0.00123, 0.00045) == "-0.00123 ± 0.00045"
    assert [plain(0), plain(12.3456), plain(-0.0012345)] == ["0", "12.35", "-0.001234"]


def test_a_share_has_a_spread_only_where_there_are_several():
    assert percent(0.6, 0.1414) == "60.0 ± 14.1"
    assert percent(0.6, None) == "60.0"
