"""The report's section on a simulated attack."""

from typing import Any

from fedsim.report import build_report

from .example_runs import EXAMPLE, MakeRun, summary
from .test_report import Page

ATTACK: dict[str, Any] = {
    "kind": "backdoor",
    "about": "Attackers train on stamped images.",
    "settings": {"fraction": 0.2, "trigger": {"size": 2, "corner": "bottom_right"}},
    "attackers": 4,
    "clients": 20,
    "defences": ["aggregation norm_bound (bound = 0.5)"],
}


def page_of(make_run: MakeRun, success: Any, **changes: Any) -> Page:
    """A run of two rounds whose first had no evaluation."""
    metrics = {"loss": 0.2, "accuracy": 0.9} | ({} if success is None else {"attack_success": success})
    rows = [{"round": 1} | dict.fromkeys(metrics), {"round": 2} | metrics]
    about = {"metrics": metrics, "main_metric": "accuracy"} | changes
    return Page(build_report(make_run(summary=summary(2, [EXAMPLE], **about), rounds=rows, clients={})))


def test_attack_attackers_defence_and_success_are_told(make_run: MakeRun) -> None:
    page = page_of(make_run, 0.25, attack=ATTACK)
    for text in (
        "backdoor: Attackers train on stamped images.",
        "fraction = 0.2, trigger.size = 2, trigger.corner = bottom_right",
        "4 of 20 clients",
        "aggregation norm_bound (bound = 0.5)",
        "Accuracy on clean test records 90.0%",
        "25.0% of the test records that show it",
        "after round 2 25.0%",
    ):
        assert text in page.text, text
    assert page.source.count("<h3>Attack success over the rounds</h3>") == 1  # not among the metrics too
    assert "Accuracy over the rounds" in page.text


def test_without_a_success_of_its_own_there_is_no_figure_and_no_defence_is_called_nothing(make_run: MakeRun) -> None:
    page = page_of(make_run, None, attack=ATTACK | {"defences": []})
    assert "What stands against it nothing" in page.text
    assert "Attack success" not in page.source


def test_a_run_without_attack_has_no_such_section(make_run: MakeRun) -> None:
    for attack in (None, {}):
        page = page_of(make_run, None, **({} if attack == {} else {"attack": attack}))
        assert "The attack" not in page.source
        assert "#attack" not in page.source


def test_what_the_record_says_is_escaped(make_run: MakeRun) -> None:
    page = page_of(make_run, 0.5, attack=ATTACK | {"about": "<script>x</script>", "defences": ["<b>"]})
    assert "<script>x" not in page.source
    assert "<b>" not in page.source
