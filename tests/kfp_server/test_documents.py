"""What the documents show of schedules is what the commands print."""

import re
import shlex
from pathlib import Path

import pytest

from pipeline.schedule import main as schedule
from tests.ci_files import CI
from tests.conftest import ROOT
from tests.kfp_server.server import Server

DOCUMENT = (ROOT / "docs" / "schedule.md").read_text(encoding="utf-8")
SCHEDULES = CI / "schedules.yaml"


def sessions() -> list[tuple[str, str]]:
    """The commands that the document shows, and what it says that they print."""
    shown = re.findall(r"^    \$ python -m pipeline\.schedule (.+)\n((?:    [^$\n].*\n)*)", DOCUMENT, re.MULTILINE)
    return [(command, re.sub(r"^    ", "", printed, flags=re.MULTILINE)) for command, printed in shown]


def test_the_file_that_is_shown_is_the_one_that_is_there() -> None:
    (shown,) = re.findall(r"```yaml\n(.*?)```", DOCUMENT, re.DOTALL)
    assert SCHEDULES.read_text().partition("\n")[2] == shown


def test_the_commands_print_what_is_shown(
    uploaded: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path("schedules.yaml")
    path.write_text(SCHEDULES.read_text())
    capsys.readouterr()
    assert [command.split()[0] for command, _ in sessions()] == ["apply", "apply", "diff", "apply"]
    for number, (command, printed) in enumerate(sessions()):
        if number == 2:
            path.write_text(path.read_text().replace("cc-by-4.0", "cc-by-4.0\n      epochs: 1"))
        schedule(shlex.split(command))
        assert capsys.readouterr().out == printed
