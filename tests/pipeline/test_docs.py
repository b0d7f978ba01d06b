"""What stands in the README must be what the code says."""

from pipeline.docs import README, main, rendered


def test_the_table_of_parameters_is_up_to_date() -> None:
    assert main(["--check"]) == 0


def test_rendering_changes_nothing_but_the_table() -> None:
    text = README.read_text(encoding="utf-8")
    stale = text.replace("| `epochs` |", "| `passes` |")
    assert rendered(stale) == text
