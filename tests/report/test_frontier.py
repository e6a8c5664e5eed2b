"""The frontier report: what it says against the numbers it is given, and that it is safe, small and whole."""

import base64
import hashlib
import html
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from fedsim.privacy.accounting import epsilon
from fedsim.privacy.events import Event, compose
from fedsim.privacy.selection import Tries, selection_epsilon
from fedsim.report import plain
from fedsim.report.frontier import build_frontier
from fedsim.report.frontier.axes import axes_of
from fedsim.report.frontier.fairness import thirds, worst_mean
from fedsim.report.frontier.inputs import read_sweep
from fedsim.report.frontier.looking import facts
from fedsim.report.frontier.marks import Marked, Marks, _bars
from fedsim.report.frontier.panels import _aside, epsilon_ticks, tick_values
from fedsim.report.frontier.pareto import Point
from fedsim.report.frontier.settings import Setting, settings_of
from fedsim.report.frontier.view import cost_front, epsilon_view, view_of
from fedsim.report.statistics import Interval

from .example_sweeps import HOSTILE, SEEDS, SWEEP, TRIVIAL, Json, hostile, line, lines, many, write_sweep
from .test_report import Page

MOST_BYTES = 5_000_000


class FrontierPage(Page):
    """Scripts hold no words, inputs no content."""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        super().handle_starttag(tag, attrs)
        if tag == "input":
            self.open.pop()

    def handle_data(self, data: str) -> None:
        if "script" not in self.open:
            super().handle_data(data)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = write_sweep(tmp_path_factory.mktemp("sweeps") / "digits", lines())
    build_frontier(directory)
    return directory


@pytest.fixture(scope="module")
def page(sweep: Path) -> FrontierPage:
    return FrontierPage(sweep / "frontier.html")


@pytest.fixture(scope="module")
def hostile_page(tmp_path_factory: pytest.TempPathFactory) -> FrontierPage:
    directory = tmp_path_factory.mktemp("sweeps") / "hostile"
    changes = {"name": HOSTILE, "method": HOSTILE, "baselines": {"trivial": TRIVIAL | {"how": HOSTILE}}}
    return FrontierPage(build_frontier(write_sweep(directory, hostile(), SWEEP | changes)))


def built(tmp_path: Path, rows: list[Json], *, runs: bool = False, **changes: Any) -> str:
    return FrontierPage(build_frontier(write_sweep(tmp_path / "sweep", rows, SWEEP | changes, runs=runs))).text


def accuracies(trial: int) -> list[float]:
    return [row["metrics"]["accuracy"] for row in lines() if row["trial"] == trial]


def test_the_table_holds_mean_and_scipys_interval_of_every_setting(page: FrontierPage) -> None:
    for trial in range(6):
        values = np.array(accuracies(trial))
        low, high = stats.t.interval(0.95, len(SEEDS) - 1, loc=values.mean(), scale=stats.sem(values))
        half = (high - low) / 2
        assert f"{100 * values.mean():.1f}% ± {100 * half:.1f}%" in page.text


def test_the_cheapest_setting_and_the_knee_are_named_in_words(page: FrontierPage) -> None:
    means = [float(np.mean(accuracies(trial))) for trial in range(6)]
    cheapest = next(trial for trial in range(5) if means[trial] >= 0.95 * means[5])
    epsilon = (0.5, 1, 2, 4, 8)[cheapest]
    assert (
        f"It is setting {cheapest} (target_epsilon = {epsilon:g}) with accuracy {plain.percent(means[cheapest])}"
        in page.text
    )
    assert f"Needed were {plain.percent(0.95 * means[5])}, which is 95 % of {plain.percent(means[5])}." in page.text
    assert "The knee, for one record It is setting 2 (target_epsilon = 2)" in page.text
    assert "Kneedle" in page.text
    assert "95 % Student t intervals" in page.text


def test_baselines_and_pareto_set_are_drawn_and_named(page: FrontierPage) -> None:
    for words in ("no privacy", "no learning", "Pareto set", "knee", "cheapest at 95 %", "single run (a seed)"):
        assert words in page.text
    assert "10.2%" in page.text
    assert page.source.count('class="best"') == 5


def test_every_axis_has_its_unit(page: FrontierPage, hostile_page: FrontierPage) -> None:
    for source in (page.source, hostile_page.source):
        for svg in re.findall(r"<svg .*?</svg>", source, re.DOTALL):
            texts = re.findall(r"<text [^>]*>([^<]*)</text>", svg)
            assert sum(bool(re.fullmatch(r"[^0-9].+ \(.+\)", text)) for text in texts) >= 2, texts


def test_points_and_rows_lead_to_the_reports_of_the_runs(page: FrontierPage, sweep: Path) -> None:
    links = {attributes.get("href") or attributes["xlink:href"] for tag, attributes in page.tags if tag == "a"}
    runs = {f"runs/t{trial:04d}-s{seed}/report.html" for trial in range(6) for seed in SEEDS}
    assert runs <= links
    assert all((sweep / link).is_file() for link in runs)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert {link[1:] for link in links if link.startswith("#")} <= set(ids)
    assert len(ids) == len(set(ids))
    drawn = re.findall(r'<a xlink:href="([^"]+)"><title>([^<]+)</title>', page.source)
    assert ("#setting-3", next(title for link, title in drawn if link == "#setting-3")) in drawn
    assert any("setting 3: target_epsilon = 4; 9" in title and "ε per record 4.00" in title for _, title in drawn)


def test_the_page_loads_nothing_and_runs_only_its_own_script(page: FrontierPage, hostile_page: FrontierPage) -> None:
    for each in (page, hostile_page):
        names = {tag for tag, _ in each.tags}
        assert not names & {"link", "iframe", "object", "embed", "img", "base", "form"}
        assert not any(name.startswith("on") for _, attributes in each.tags for name in attributes)
        (script,) = re.findall(r"<script>(.*?)</script>", each.source, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        (policy,) = [a["content"] for tag, a in each.tags if a.get("http-equiv") == "Content-Security-Policy"]
        assert policy == f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'"


def test_what_the_record_says_is_text_only(hostile_page: FrontierPage) -> None:
    assert hostile_page.text.count("alert(1)") > 5
    assert "<script>alert" not in hostile_page.source
    assert "<img" not in hostile_page.source
    assert "{{ 7*7 }}" in hostile_page.text
    targets = [a.get("href") or a.get("xlink:href", "") for tag, a in hostile_page.tags if tag == "a"]
    assert all(re.fullmatch(r"#[a-z0-9-]+|runs/t\d{4}-s\d/report\.html", target) for target in targets)


@pytest.mark.parametrize(
    "run", ["../t0000-s0", "runs/../../x", "javascript:alert(1)", "runs/a/b", "/etc", None, 'runs/"x']
)
def test_only_runs_of_this_sweep_are_linked_or_read(tmp_path: Path, run: Any) -> None:
    directory = write_sweep(tmp_path / "sweep", [line(0, 0, 1.0, 0.9)])
    (tmp_path / "t0000-s0").mkdir()
    (tmp_path / "t0000-s0" / "report.html").touch()
    record = read_sweep(directory)
    assert record.link(record.rows[0])
    assert record.link(record.rows[0] | {"run": run}) == ""


def test_failed_and_pruned_runs_are_told_and_in_no_figure(hostile_page: FrontierPage) -> None:
    text = hostile_page.text
    assert "failed 1 pruned 2" in text
    assert re.search(r"Setting 1, seed 3 .* failed after 0 rounds\. <script>alert\(1\)", text)
    assert "was pruned after 30 rounds" in text
    assert "setting 0, seed 4" not in hostile_page.source
    assert "setting 0, seed 2" in hostile_page.source


def test_a_setting_of_which_a_seed_failed_is_drawn_but_chosen_for_nothing(tmp_path: Path) -> None:
    survivor = [
        line(2, 0, 2.0, 0.99),
        line(2, 1, 2.0, 0.99, metrics={"accuracy": None}),  # completed, but not a number
        line(3, 0, None, 0.999),
        line(3, 1, None, 0.0, status="failed", metrics={}, rounds=0),
    ]
    rows = [line(trial, seed, at, 0.9) for trial, at in ((0, 4.0), (1, None)) for seed in (0, 1)] + survivor
    directory = write_sweep(tmp_path / "part", rows, SWEEP | {"baselines": {}}, runs=False)
    view = view_of(read_sweep(directory))
    seen = epsilon_view(view, "example")
    assert [point.setting.number for point in seen.points] == [0, 1, 2, 3]
    assert [point.setting.number for point in seen.front] == [0]
    assert seen.cheapest is not None
    assert seen.cheapest.setting.number == 0
    assert view.reference is not None
    assert view.reference.setting.number == 1
    text = FrontierPage(build_frontier(directory)).text
    assert "99.0% (1 of 2 runs)" in text
    assert "Of 2 settings some runs failed, were pruned or measured nothing." in text


def test_guarantees_that_say_different_things_are_not_compared_silently(tmp_path: Path) -> None:
    rows = [row | {"relation": {"example": "replace-one" if row["trial"] == 1 else "add-remove"}} for row in lines()]
    assert "holds for different neighbouring relations in different settings" in built(tmp_path, rows)
    same = [row | {"relation": {"example": "add-remove"} if row["trial"] < 5 else {}} for row in lines()]
    assert "Beware" not in FrontierPage(build_frontier(write_sweep(tmp_path / "same", same, runs=False))).text


def test_noise_from_seeds_is_no_independent_noise(tmp_path: Path) -> None:
    words = "two settings with the same seed had the same noise, which the difference of their results cancels"
    assert words in built(tmp_path, lines(), runs=True)
    secure = [row | {"randomness": {"example": "secure"} if row["trial"] < 5 else {}} for row in lines()]
    assert words not in FrontierPage(build_frontier(write_sweep(tmp_path / "secure", secure))).text


def test_what_is_only_projected_is_said_at_the_top(tmp_path: Path) -> None:
    rows = [row | {"projected": row["trial"] == 2} for row in lines()]
    assert "ε for one client is projected" in built(tmp_path, rows)


def test_no_share_is_taken_of_a_baseline_below_zero(tmp_path: Path) -> None:
    rows = [line(trial, 0, at, 0, metrics={"r2": -0.5}, main_metric="r2") for trial, at in ((0, 1.0), (1, None))]
    text = built(tmp_path, rows, objectives=["r2"], baselines={})
    assert "the non-private baseline is -0.5, and 95 % of what is not above 0 means nothing" in text


def test_the_baseline_is_that_of_the_metric_that_is_shown(tmp_path: Path) -> None:
    rows = [
        line(trial, 0, None, score, metrics={"accuracy": score, "loss": score}) for trial, score in ((0, 0.9), (1, 0.5))
    ]
    named = SWEEP | {"objectives": ["loss"], "baselines": {"non_private": 0}}
    view = view_of(read_sweep(write_sweep(tmp_path / "loss", rows, named, runs=False)))
    assert view.reference is not None
    assert view.reference.setting.number == 1


def test_the_cost_of_looking_is_that_of_the_ledgers(page: FrontierPage) -> None:
    seeds = [(Event(4.0 / epsilon, 0.1, "poisson"), 300 * len(SEEDS)) for epsilon in (0.5, 1.0, 2.0, 4.0, 8.0)]
    figures = {
        "One run, fixed beforehand": 8.0,
        "The best setting, had the sweep been drawn so, those without a guarantee left out": selection_epsilon(
            compose(seeds[-1:]), 1e-4, Tries(5)
        ),
        "Everything in this report, those without a guarantee left out": epsilon(compose(seeds), 1e-4),
    }
    for name, value in figures.items():
        assert f"{name} ε = {plain.epsilon(value)}" in page.text
    assert "whoever reads this report. By privacy loss distributions" in page.text
    whole = plain.epsilon(epsilon(compose(seeds), 1e-4))
    assert f"ε per record of the whole sweep {whole} all runs with a guarantee together" in page.text
    assert "Everything, with the runs without a guarantee ε = ∞ 5 runs trained without noise" in page.text
    assert "a grid of fixed size, which the theorem does not cover" in page.text


def test_with_one_seed_a_setting_costs_what_its_run_says(tmp_path: Path) -> None:
    rows = [line(trial, 0, at, 0.9) for trial, at in ((0, 2.0), (1, 4.0))]
    view = view_of(read_sweep(write_sweep(tmp_path / "one", rows)))
    cost = facts(view)["example"]
    assert cost["one_run"] == cost["one_setting"] == 4.0
    events = [(Event(2.0, 0.1, "poisson"), 300), (Event(1.0, 0.1, "poisson"), 300)]
    assert cost["everything"] == epsilon(compose(events), 1e-4)
    assert (cost["delta"], cost["runs_without_a_guarantee"], cost["best_of_random_tries"]) == (1e-4, 0, None)


def test_an_end_that_was_cut_is_open(tmp_path: Path) -> None:
    from matplotlib.figure import Figure

    axes, point = Figure().subplots(), Point(settings_of(read_sweep(write_sweep(tmp_path / "s", lines())))[0], 1.0, 0.9)
    whole = Interval(0.9, 0.7, 1.1, 2)
    mark = Marked(point, whole.within(0.0, 1.0), True, "", "", whole)
    _bars(axes, [mark], Marks([mark], [], [], {}), [1.0])
    assert [(line.get_marker(), *line.get_ydata()) for line in axes.lines] == [("_", 0.7), ("^", 1.0)]
    rows = [line(trial, seed, at, (0.99, 0.7)[seed]) for trial, at in ((0, 1.0), (1, None)) for seed in (0, 1)]
    text = FrontierPage(build_frontier(write_sweep(tmp_path / "cut", rows, SWEEP | {"baselines": {}}))).text
    assert "An arrow at an end" in text
    assert "With two seeds an interval means little" in text


def test_settings_of_one_epsilon_stand_side_by_side() -> None:
    points = [Point(Setting(number, {}, (), "accuracy"), cost, 0.5) for number, cost in enumerate((1.0, 2.0, 1.0, 1.0))]
    shifts = _aside(points, 2.0)
    assert shifts.keys() == {0, 2, 3}
    assert shifts[0] < shifts[2] == 1.0 < shifts[3] < 1.1
    assert _aside([points[0]] * 9, 2.0) == {}


def test_values_that_can_be_told_apart_are_the_ticks() -> None:
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    epsilon_ticks(axes, [1.0, 2.0, 4.0, 5.0, 6.0], None)
    assert [text.get_text() for text in axes.get_xticklabels()] == ["1", "2", "4", "5", "6"]


def test_what_is_shown_against_a_lever_is_said(tmp_path: Path, page: FrontierPage) -> None:
    assert "against noise multiplier of records (the least of any client), mean over the seeds" in page.text
    assert "1 setting without it left out" in page.text
    rows = [row | {"seconds": 1.0 + row["trial"]} for row in lines()]
    view = view_of(read_sweep(write_sweep(tmp_path / "slow", rows, runs=False)))
    (timed,) = (axis for axis in axes_of(view.settings) if axis.key == "seconds")
    assert cost_front(view, timed)[1] == []


def test_without_client_metrics_it_is_said_that_who_pays_is_not_known(tmp_path: Path) -> None:
    assert "no run that counts scored its clients one by one" in built(tmp_path, lines())


def test_settings_that_learnt_nothing_are_named(tmp_path: Path, page: FrontierPage) -> None:
    rows = [row | ({"metrics": {"accuracy": 0.1}} if row["trial"] in (0, 2) else {}) for row in lines()]
    assert "No better than that: setting 0 and 2." in built(tmp_path, rows)
    assert "No better than that" not in page.text


def test_a_public_selection_says_what_it_assumes_and_still_what_it_would_cost(tmp_path: Path) -> None:
    text = built(tmp_path, lines(), runs=True, selection="public")
    assert "are assumed to be public. Nothing here checks it." in text
    assert "Public validation records alone are not enough." in text
    assert "Naive composition of all runs" in text
    assert "Choosing is not free" not in text


@pytest.mark.parametrize(
    ("method", "words"), [("tpe", "earlier results choose later"), ("random", "a fixed number of settings")]
)
def test_searches_that_the_theorem_does_not_cover_are_told(tmp_path: Path, method: str, words: str) -> None:
    text = built(tmp_path, lines(), runs=True, method=method)
    assert words in text
    assert ("Papernot and Steinke" in text) is (method == "random")


@pytest.mark.parametrize("method", ["grid", "random"])
def test_no_figure_of_the_theorem_stands_beside_an_adaptive_search(tmp_path: Path, method: str) -> None:
    rows = [row | ({"status": "pruned"} if row["trial"] == 1 else {}) for row in lines()]
    text = built(tmp_path, rows, runs=True, method=method)
    assert "a search with successive halving, in which earlier results choose later runs" in text
    assert "Papernot and Steinke" not in text
    assert "Naive composition of all runs" in text


def test_a_random_number_of_random_settings_is_covered(tmp_path: Path) -> None:
    text = built(tmp_path, lines(), runs=True, method="random", tries={"mean": 10, "shape": 0})
    expected = selection_epsilon(compose([(Event(0.5, 0.1, "poisson"), 1500)]), 1e-4, Tries(10, 0.0))
    assert (
        f"The best setting, and nothing else, those without a guarantee left out ε = {plain.epsilon(expected)}" in text
    )
    assert "(logarithmic, mean 10)" in text


def test_without_ledgers_no_cost_is_made_up(tmp_path: Path) -> None:
    assert "It cannot be computed from the ledgers of the runs: setting 0, seed 0 has no ledger.db." in built(
        tmp_path, lines()
    )


def test_a_failed_run_counts_with_what_its_ledger_holds(tmp_path: Path) -> None:
    rows = [line(0, 0, 1.0, 0.8), line(1, 0, 2.0, 0.9)]
    directory = write_sweep(tmp_path / "sweep", rows)
    failed = rows[1] | {"status": "failed", "error": "gone", "metrics": {}, "rounds": 0, "epsilon": {}, "delta": {}}
    (directory / "trials.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [rows[0], failed]))
    expected = compose([(Event(4.0, 0.1, "poisson"), 300), (Event(2.0, 0.1, "poisson"), 300)])
    text = FrontierPage(build_frontier(directory)).text
    assert f"Everything in this report ε = {plain.epsilon(epsilon(expected, 1e-4))}" in text
    (directory / "runs/t0001-s0/ledger.db").write_bytes(b"no database at all")
    assert (
        "cannot be computed from the ledgers of the runs: file is not a database"
        in FrontierPage(build_frontier(directory)).text
    )
    (directory / "runs/t0001-s0/ledger.db").unlink()
    (directory / "runs/t0001-s0/rounds.jsonl").write_text("{}\n")
    assert "1 run trained without noise" in FrontierPage(build_frontier(directory)).text


def test_who_pays_is_computed_from_the_clients(page: FrontierPage, sweep: Path) -> None:
    values: dict[int, list[float]] = {}
    for trial in (3, 5):
        files = [sweep / f"runs/t{trial:04d}-s{seed}/clients.json" for seed in SEEDS]
        tables = [json.loads(file.read_text())["metrics_by_client"]["clients"] for file in files]
        values[trial] = sorted(row["value"] for table in tables for row in table)
    average = np.mean(values[5]) - np.mean(values[3])
    tail = np.mean(values[5][:10]) - np.mean(values[3][:10])
    assert f"the average client {100 * average:.1f} percentage points and the worst tenth {100 * tail:.1f}" in page.text
    assert f"with ε = 4.00 (setting 3) 100 {plain.percent(float(np.mean(values[3])))}" in page.text


def test_the_worst_tenth_and_the_thirds() -> None:
    samples = np.array([[0.9, 0.1, 0.5, *[0.7] * 17]])
    assert worst_mean(True)(samples) == pytest.approx([0.3])
    assert worst_mean(False)(samples) == pytest.approx([0.8])
    from fedsim.report.frontier.fairness import Clients

    sizes, setting = np.array([9.0, 1, 5, 2, 8, 6]), epsilon_setting()
    found = thirds(Clients(setting, "x", "accuracy", sizes, sizes / 10))
    assert [(size, round(mean, 9)) for size, mean, _ in found] == [(1.5, 0.15), (5.5, 0.55), (8.5, 0.85)]


def epsilon_setting() -> Any:
    from fedsim.report.frontier.settings import Setting

    return Setting(0, {}, (), "accuracy")


def test_an_interval_beyond_the_possible_is_drawn_and_told_cut(tmp_path: Path) -> None:
    rows = [line(0, seed, 2.0, value) for seed, value in enumerate((0.6, 0.95))] + [line(1, 0, None, 0.8)]
    view = view_of(read_sweep(write_sweep(tmp_path / "other", rows, SWEEP | {"baselines": {}}, runs=False)))
    assert (view.scored[0].possible.low, view.scored[0].possible.high) == (0, 1)
    text = built(tmp_path, rows, baselines={})
    assert f"77.5% ± {100 * stats.t.ppf(0.975, 1) * 0.175:.1f}%" in text
    assert "One seed gives no interval" in text  # the baseline has one


def test_whether_the_cheapest_is_certain_is_told_by_pairs_of_seeds(tmp_path: Path) -> None:
    noisy = [(0.70, 0.71), (0.90, 0.92), (0.80, 0.80)]  # the seeds scatter, the pairs do not
    pairs = [
        line(trial, seed, at, pair[trial]) for seed, pair in enumerate(noisy) for trial, at in ((0, 2.0), (1, None))
    ]
    low, high = stats.ttest_1samp([ours - 0.95 * theirs for ours, theirs in noisy], 0).confidence_interval(0.95)
    whole = f"what it has to spare ({100 * low:.1f} percentage points to {100 * high:.1f} percentage points) is above 0"
    assert whole in built(tmp_path, pairs, baselines={})
    turned = [row | {"metrics": {"accuracy": noisy[row["seed"] - 2][1]}} if row["trial"] else row for row in pairs]
    text = FrontierPage(build_frontier(write_sweep(tmp_path / "b", turned, SWEEP | {"baselines": {}}, runs=False))).text
    assert "goes below 0: more seeds could name another setting" in text


def test_of_a_loss_the_spare_is_turned_round() -> None:
    from fedsim.report.frontier.pareto import spare
    from fedsim.report.frontier.settings import Setting

    ours, theirs = (Setting(0, {}, (line(0, 3, None, 0, metrics={"loss": x}),), "loss") for x in (1.0, 1.9))
    assert spare(ours, theirs, False) == pytest.approx([1.0])


def test_clients_of_one_size_are_not_told_apart_by_size(page: FrontierPage, tmp_path: Path) -> None:
    assert "Accuracy by how much a client holds" in page.text
    directory = write_sweep(tmp_path / "sweep", lines())
    for file in directory.glob("runs/*/clients.json"):
        table = json.loads(file.read_text())
        for row in table["metrics_by_client"]["clients"]:
            row["test_records"] = 14
        file.write_text(json.dumps(table))
    text = FrontierPage(build_frontier(directory)).text
    assert "by how much a client holds" not in text
    assert "Accuracy, client by client" in text


def test_less_is_better_for_losses_and_a_baseline_may_be_missing(tmp_path: Path) -> None:
    rows = [row | {"metrics": {"loss": 1 - row["metrics"]["accuracy"]}, "main_metric": "loss"} for row in lines()]
    directory = write_sweep(tmp_path / "all", rows, SWEEP | {"objectives": ["loss"]}, runs=False)
    view = view_of(read_sweep(directory))
    losses = [float(np.mean([1 - value for value in accuracies(trial)])) for trial in range(6)]
    assert view.limit == pytest.approx(losses[5] / 0.95)
    assert [point.setting.number for point in epsilon_view(view, "example").front] == [
        trial for trial in range(6) if losses[trial] < min(losses[:trial], default=1)
    ]
    text = built(tmp_path, [row for row in rows if row["trial"] < 5], objectives=["loss"])
    assert "No setting without privacy was tried" in text
    assert "there is no non-private baseline" in text


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [line(0, 0, None, 0.9)],
        [line(0, 0, 2.0, 0.9)],
        [line(0, 0, 2.0, 0.9) | {"status": "failed", "metrics": {}, "epsilon": {}, "error": "x", "rounds": 0}],
        [line(0, 0, 0.0, 0.1), line(1, 0, 3.0, 0.1)],
        [line(0, seed, 2.0, 0.5) for seed in SEEDS],
        [line(0, 0, 2.0, 0.9, metrics={"accuracy": None}, values=None, cohort=None, bytes_up=None)],
    ],
)
def test_small_and_broken_sweeps_still_make_a_page(tmp_path: Path, rows: list[Json]) -> None:
    assert "How the runs ended" in built(tmp_path, rows)


def test_the_same_record_gives_the_same_page_in_any_order_of_finishing(tmp_path: Path, sweep: Path) -> None:
    ordered = sorted(lines(), key=lambda row: (row["trial"], row["seed"]))
    other = build_frontier(write_sweep(tmp_path / "other", ordered))
    assert other.read_bytes() == (sweep / "frontier.html").read_bytes()


def test_the_table_alone_is_enough_and_nothing_is_an_error(tmp_path: Path) -> None:
    directory = write_sweep(tmp_path / "sweep", lines(), runs=False)
    table = [{key: value for key, value in row.items() if key != "seconds"} for row in lines()]
    (directory / "table.json").write_text(json.dumps(table))
    (directory / "trials.jsonl").unlink()
    assert "30 runs" in FrontierPage(build_frontier(directory)).text
    with pytest.raises(FileNotFoundError, match="no record of a sweep"):
        build_frontier(tmp_path)
    (directory / "table.json").write_text('[{"seed": 1}]')
    with pytest.raises(ValueError, match="no trial"):
        build_frontier(directory)


def test_a_thousand_trials_make_a_small_page(tmp_path: Path) -> None:
    sweep = SWEEP | {"name": "random", "method": "random", "baselines": {"trivial": TRIVIAL}}
    page = build_frontier(write_sweep(tmp_path / "sweep", many(1000), sweep, runs=False))
    assert page.stat().st_size < MOST_BYTES
    source = page.read_text(encoding="utf-8")
    assert source.count('<tr id="setting-') == 1000
    assert html.unescape(source).count("setting 216: target_epsilon") >= 1


def test_ticks_are_few_and_round() -> None:
    assert tick_values(0.5, 8) == [0.5, 1, 2, 5]
    assert len(tick_values(1e-3, 1e9)) <= 7
    assert tick_values(3.1, 3.4) == [3.1, 3.4]
