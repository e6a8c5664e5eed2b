"""The README's own example does what it says."""

from __future__ import annotations

import re
from pathlib import Path

import fedsim

README = Path(__file__).parents[1] / "README.md"


def block(language: str, first: str) -> str:
    """The README's code block whose first line starts so."""
    blocks = re.findall(rf"```{language}\n(.*?)```", README.read_text(), flags=re.DOTALL)
    (found,) = [text for text in blocks if text.startswith(f"# {first}")]
    return found


def test_the_example_of_own_data_and_model_learns_its_circle(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    module, scenario = block("python", "my_project.py"), block("toml", "my_scenario.toml")
    assert len(module.splitlines()) <= 25
    Path("my_project.py").write_text(module)
    Path("my_scenario.toml").write_text(scenario)
    result = fedsim.run(fedsim.load_scenario("my_scenario.toml"), tmp_path / "run")
    assert result.metrics["accuracy"] > 0.9
    assert result.summary["model"] == "my_project:Net"
