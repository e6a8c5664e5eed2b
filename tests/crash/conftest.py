"""Runs to be stopped, and the command line that goes on with them."""

from __future__ import annotations

import sys
from functools import cache

import pytest

import fedsim
import fedsim.interrupts
from fedsim import cli
from fedsim.privacy import accounting
from tests.crash.kinds import scenario_of

PRV_EPSILON = cache(accounting.prv_epsilon)


class Stop(Exception):
    pass


@pytest.fixture(autouse=True)
def _reports_of_one_word(monkeypatch):
    """Drawing figures takes longer than these runs, and so does cross-checking an epsilon again and again."""
    monkeypatch.setattr("fedsim.report.page._content", lambda record, format: b"report")
    monkeypatch.setattr("fedsim.privacy.accounting.prv_epsilon", PRV_EPSILON)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run that nobody stops."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedsim.report.page._content", lambda record, format: b"report")
        return fedsim.run(scenario_of("scaffold", "rounds=4"), tmp_path_factory.mktemp("whole") / "run").directory


@pytest.fixture
def stopped(tmp_path):
    """A run that was stopped after its third round."""

    def stop(row):
        if row["round"] == 3:
            raise Stop

    with pytest.raises(Stop):
        fedsim.run(scenario_of("scaffold", "rounds=4"), tmp_path / "run", stop)
    return tmp_path / "run"


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """``call("resume", "run")`` is ``fedsim resume run`` in this process: its exit code, and what it says of errors."""

    def run(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["fedsim", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr().err
        assert "Traceback" not in said
        return int(ended.value.code or 0), said

    return run
