"""Tables of text have a cell for each column."""

from var_pe.pages.tables import aligned_table, markdown_table


def test_a_markdown_table_has_a_rule_below_its_header():
    """Without it nothing is a table."""
    table = markdown_table(["name", "score"], [["a", "1"], ["b", ""]])
    assert table.splitlines() == ["| name | score |", "| --- | --- |", "| a | 1 |", "| b |  |"]


def test_a_pipe_in_a_cell_does_not_end_it():
    """An arm's name is anybody's text, and a command may hold one."""
    assert markdown_table(["a|b"], [["1 | 2"]]).splitlines() == [r"| a\|b |", "| --- |", r"| 1 \| 2 |"]


def test_columns_are_aligned_text_left_and_numbers_right():
    assert aligned_table([["name", "n"], ["a", "1000"]]) == "name     n\na     1000"
