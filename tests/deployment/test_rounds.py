"""Whole runs over sites that answer in this process: who takes part, what is checked, what is charged."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Error, Message

import fedsim
from fedsim import running
from fedsim.deployment import running as deployed
from fedsim.errors import FedsimError
from fedsim.loading import parse_scenario
from fedsim.messages import SharedArray
from fedsim.privacy.accounting import epsilon
from fedsim.privacy.events import Event, compose
from fedsim.privacy.ledger import Ledger
from fedsim.report import build_report
from tests.deployment.fake_flower import Made, make

TABLE = """
rounds = 3
[data]
source = "csv"
path = "simulated.csv"
label = "ill"
classes = ["no", "yes"]
features = [{ kind = "numeric", name = "a" }, { kind = "numeric", name = "b" }]
[population]
clients = 3
[model]
name = "logistic"
[algorithm]
name = "fedavg"
local = { batch_size = 1000, learning_rate = 0.5 }
[engine]
kind = "deployment"
deployment = { connection = "here", join_seconds = 0.01, round_seconds = 2.0 }
"""
PRIVATE = """
[privacy.example]
clip_norm = 1.0
noise_multiplier = 2.0
sampling_rate = 0.2
delta = 1e-5
"""
SITES = ("a", "b", "c")


def write_table(file: Path, seed: int, rows: int = 60) -> Path:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(rows, 2))
    labels = np.where(values.sum(1) + rng.normal(scale=0.3, size=rows) > 0, "yes", "no")
    lines = ["a,b,ill", *(f"{x:.6f},{y:.6f},{label}" for (x, y), label in zip(values, labels, strict=True))]
    file.write_text("\n".join(lines) + "\n")
    return file


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    """Three sites with tables of their own; without privacy and with metrics, where their policies say so."""
    data = {name: write_table(tmp_path / f"{name}.csv", seed) for seed, name in enumerate(SITES)}
    found = make(tmp_path / "d", data)
    for name in SITES:
        found.set(name, without_privacy="true", send_metrics="true")
    monkeypatch.setattr(deployed, "find_connection", lambda name: found.connection)
    monkeypatch.setattr(deployed, "Link", lambda connection, say: found.flower)
    monkeypatch.setattr(running, "build_report", lambda path: None)  # one test makes it; it takes longer than a run
    return found


def run(made: Made, *overrides: str, text: str = TABLE, out: str = "run") -> fedsim.Result:
    return fedsim.run(parse_scenario(text, "table", overrides), made.folder.parent / out)


def log_of(made: Made, out: str = "run") -> list[dict[str, object]]:
    return [json.loads(line) for line in (made.folder.parent / out / "sites.jsonl").read_text().splitlines()]


def model_of(made: Made, out: str = "run") -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return load_file(made.folder.parent / out / "model.safetensors")


def pooled(made: Made, rounds: int = 3) -> dict[str, np.ndarray]:
    """The same by hand: full-batch gradient descent on all sites' training records, one step a round."""
    import torch

    from fedsim.deployment.site_data import load_site_data
    from fedsim.deployment.site_settings import load_site

    scenario = parse_scenario(TABLE, "table")
    parts = [
        load_site_data(scenario, str(made.folder.parent / f"{name}.csv"), load_site(made.site(name))).train
        for name in SITES
    ]
    x = torch.from_numpy(np.concatenate([part.features for part in parts]))
    y = torch.from_numpy(np.concatenate([part.labels for part in parts]))
    weight, bias = torch.zeros(2, 2, requires_grad=True), torch.zeros(2, requires_grad=True)
    for _ in range(rounds):
        loss = torch.nn.functional.cross_entropy(x @ weight.T + bias, y)
        gradients = torch.autograd.grad(loss, [weight, bias])
        with torch.no_grad():
            weight -= 0.5 * gradients[0]
            bias -= 0.5 * gradients[1]
    return {"weight": weight.detach().numpy(), "bias": bias.detach().numpy()}


def test_a_run_over_sites_is_gradient_descent_on_all_their_records(made: Made):
    result = run(made)
    assert "deployment" in build_report(result.directory).read_text()
    model, expected = model_of(made), pooled(made)
    weight, bias = sorted(model.values(), key=lambda array: -array.ndim)
    assert np.allclose(weight, expected["weight"], atol=1e-5)
    assert np.allclose(bias, expected["bias"], atol=1e-5)
    assert result.summary["rounds"] == 3
    assert result.summary["engine"] == "deployment"
    assert result.metrics["accuracy"] > 0.8
    assert [site["name"] for site in result.summary["sites"]] == list(SITES)
    assert sum(site["held_back"] for site in result.summary["sites"]) == result.summary["test_records"] == 36
    assert any("Metrics were released by the sites a, b, c" in line for line in result.summary["outside"])


def test_a_site_that_refuses_is_named_with_its_reason_and_the_others_go_on(made: Made, capsys: pytest.CaptureFixture):
    made.set("b", without_privacy="false")
    result = run(made)
    assert [site["name"] for site in result.summary["sites"]] == ["a", "c"]
    assert {"round": 0, "site": "b", "what": "refused"}.items() <= log_of(made)[0].items()
    assert "policy.without_privacy" in capsys.readouterr().err


def test_too_few_sites_stop_the_run_before_anything_is_written(made: Made):
    made.set("b", without_privacy="false")
    with pytest.raises(FedsimError, match="2 of 3 site"):
        run(made, "engine.deployment.min_sites=3")
    assert not (made.folder.parent / "run").exists()


def test_other_columns_are_found_before_anything_is_sent_and_the_server_sees_no_value(made: Made):
    (made.folder.parent / "b.csv").write_text("a,other,ill\n0.123456,2,yes\n")
    result = run(made)
    reasons = [line["reason"] for line in log_of(made) if line["site"] == "b"]
    assert len(reasons) == 1
    assert "does not fit" in str(reasons[0])
    assert "0.123456" not in str(reasons[0])
    assert len(result.summary["sites"]) == 2


def test_a_site_keeps_its_own_ledger_and_the_server_keeps_one_for_all(made: Made):
    result = run(made, text=TABLE + PRIVATE)
    steps = 5 * 3  # 1 / sampling_rate steps in each of three rounds
    expected = compose([(Event(2.0, 0.2, "poisson"), steps)])
    for name in SITES:
        ledger = Ledger(made.site(name) / "ledger.db", f"site {name}", 1, "look")
        assert ledger.composition("example", 0) == expected
        ledger.close()
    (entry,) = result.privacy
    assert entry["epsilon"] == pytest.approx(epsilon(expected, 1e-5))
    assert entry["randomness"] == "secure"


def test_a_run_without_privacy_is_an_infinite_entry_in_the_sites_ledger(made: Made):
    run(made)
    ledger = Ledger(made.site("a") / "ledger.db", "site a", 1, "look")
    assert epsilon(ledger.composition("example", 0), 1e-5) == np.inf
    ledger.close()
    with pytest.raises(FedsimError, match="0 of 3"):
        run(made, text=TABLE + PRIVATE, out="private")


def test_a_site_stops_where_its_own_budget_ends_whatever_the_server_plans(made: Made):
    made.set("b", max_epsilon_example="1.0")  # three rounds spend more
    result = run(made, text=TABLE + PRIVATE)
    assert [site["name"] for site in result.summary["sites"]] == ["a", "c"]
    assert "max_epsilon_example = 1" in str(log_of(made)[0]["reason"])


def test_metrics_stay_at_a_site_whose_policy_keeps_them(made: Made):
    made.set("b", send_metrics="false")
    result = run(made)
    assert result.summary["test_records"] == 24
    assert any("released by the sites a, c" in line for line in result.summary["outside"])


def test_without_any_metrics_the_run_has_none(made: Made):
    for name in SITES:
        made.set(name, send_metrics="false")
    result = run(made)
    assert result.metrics["accuracy"] is None
    assert any("so there are none" in line for line in result.summary["outside"])


def test_the_server_may_test_on_a_file_of_its_own(made: Made, tmp_path: Path):
    tests = write_table(tmp_path / "tests.csv", 9, rows=50)
    result = run(made, f'engine.deployment.test_data="{tests}"')
    assert result.summary["test_records"] == 50
    assert result.metrics["accuracy"] > 0.8
    assert any("the server's own" in line for line in result.summary["outside"])


def test_a_site_that_is_away_for_a_round_is_dropped_and_comes_back(made: Made):
    honest, seen = made.flower.sites[made.node("b")], []

    def away(message: Message) -> Message | None:
        seen.append(message.metadata.message_type)
        return None if seen.count("train") == 2 else honest(message)

    made.flower.sites[made.node("b")] = away
    result = run(made, "engine.deployment.round_seconds=1")
    rows = [json.loads(line) for line in (result.directory / "rounds.jsonl").read_text().splitlines()]
    assert [row["dropped"] for row in rows] == [0, 1, 0]
    assert result.summary["sites"][1]["dropped"] >= 1


def test_an_offline_site_is_not_waited_for(made: Made):
    made.flower.offline = {made.node("c")}
    result = run(made)
    assert [site["name"] for site in result.summary["sites"]] == ["a", "b"]
    assert log_of(made)[0]["reason"] == "not online"


def test_a_run_that_flower_gave_up_is_replaced(made: Made):
    calls = []
    honest = made.flower.sites[made.node("a")]

    def fragile(message: Message) -> Message | None:
        calls.append(message.metadata.message_type)
        if calls.count("train") == 2 and made.flower.opened == 0:
            made.flower.fail_next = 1
        return honest(message)

    made.flower.sites[made.node("a")] = fragile
    result = run(made)
    assert made.flower.opened == 1
    assert result.summary["rounds"] == 3
    assert result.summary["sites"][0]["dropped"] == 0


Tamper = Callable[[Message, Message], Message]


def with_total(change: Callable[[np.ndarray], np.ndarray]) -> Tamper:
    def tamper(message: Message, reply: Message) -> Message:
        arrays = reply.content.array_records["arrays"]
        arrays["total"] = SharedArray(change(arrays["total"].numpy()))
        return reply

    return tamper


def claims_a_million(message: Message, reply: Message) -> Message:
    reply.content.metric_records["metrics"]["weight"] = 1e6
    return reply


def without_noise(message: Message, reply: Message) -> Message:
    reply.content.config_records["config"]["events"] = "[]"
    return reply


HOSTILE: dict[str, tuple[Tamper, str]] = {
    "nan": (with_total(lambda total: total * np.nan), "not finite"),
    "shape": (with_total(lambda total: total[:-1]), "shape"),
    "float32": (with_total(lambda total: total.astype(np.float32)), "float64"),
    "huge": (with_total(lambda total: total * 1e9), "length"),
    "million": (claims_a_million, "claims weight 1e+06"),
    "noiseless": (without_noise, "noise"),
    "empty": (lambda message, reply: Message(Error(1, "x" * 10), reply_to=message), "x" * 10),
}


@pytest.mark.parametrize("name", sorted(HOSTILE))
def test_a_hostile_reply_is_rejected_with_a_reason_and_the_model_is_unharmed(made: Made, name: str):
    tamper, reason = HOSTILE[name]
    text = TABLE + PRIVATE if name == "noiseless" else TABLE
    honest = made.flower.sites[made.node("b")]

    def hostile(message: Message) -> Message:
        reply = honest(message)
        return tamper(message, reply) if message.metadata.message_type == "train" else reply

    made.flower.sites[made.node("b")] = hostile
    result = run(made, text=text)
    noted = [line for line in log_of(made) if line["site"] == "b" and line["round"]]
    assert len([line for line in noted if reason in str(line["reason"])]) == 3
    assert result.summary["sites"][1]["rejected" if name != "empty" else "refused"] == 3
    assert all(np.isfinite(array).all() and np.abs(array).max() < 10 for array in model_of(made).values())
    assert [line for line in log_of(made) if line["site"] != "b" and line["what"] in ("rejected", "dropped")] == []


def test_an_old_reply_is_no_answer_to_a_new_job(made: Made):
    honest, kept = made.flower.sites[made.node("b")], []

    def replay(message: Message) -> Message:
        reply = honest(message)
        if message.metadata.message_type == "train":
            kept.append(reply.content)
            return Message(kept[0], reply_to=message)
        return reply

    made.flower.sites[made.node("b")] = replay
    result = run(made)
    assert result.summary["sites"][1]["rejected"] == 2
    assert "an old reply" in str(next(line for line in log_of(made) if line["what"] == "rejected")["reason"])


def test_an_old_report_under_a_new_jobs_name_is_found_too(made: Made):
    honest, kept = made.flower.sites[made.node("b")], []

    def replay(message: Message) -> Message:
        reply = honest(message)
        if message.metadata.message_type == "train":
            kept.append(reply.content.array_records["arrays"])
            reply.content["arrays"] = kept[0]
        return reply

    made.flower.sites[made.node("b")] = replay
    assert run(made).summary["sites"][1]["rejected"] == 2


def test_a_lie_about_the_number_of_records_is_refused_before_the_first_round(made: Made):
    honest = made.flower.sites[made.node("b")]

    def liar(message: Message) -> Message:
        reply = honest(message)
        if message.metadata.message_type == "query":
            text = str(reply.content.config_records["announcement"]["announcement"])
            raw = json.loads(text) | {"records": 10**12 // 2}
            reply.content.config_records["announcement"]["announcement"] = json.dumps(raw)
        return reply

    made.flower.sites[made.node("b")] = liar
    result = run(made)
    assert [site["name"] for site in result.summary["sites"]] == ["a", "c"]


def test_data_unlike_the_others_keeps_a_site_out(made: Made):
    honest = made.flower.sites[made.node("b")]

    def other(message: Message) -> Message:
        reply = honest(message)
        if message.metadata.message_type == "query":
            record = reply.content.config_records["announcement"]
            record["announcement"] = json.dumps(json.loads(str(record["announcement"])) | {"shape": [3]})
        return reply

    made.flower.sites[made.node("b")] = other
    assert [site["name"] for site in run(made).summary["sites"]] == ["a", "c"]
    assert "unlike the others'" in str(log_of(made)[0]["reason"])


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


@pytest.mark.parametrize("private", [False, True])
@pytest.mark.parametrize("when", ["before the answers", "after the answers", "before the checkpoint"])
def test_a_run_that_was_killed_goes_on_and_spends_nothing_twice(
    made: Made, monkeypatch: pytest.MonkeyPatch, private: bool, when: str
):
    from fedsim import server

    text = TABLE + PRIVATE if private else TABLE
    target = {"before the answers": "exchange", "after the answers": "step", "before the checkpoint": "evaluate"}[when]
    original, calls = getattr(server, target), []

    def dies(*given: object) -> object:
        calls.append(1)
        if len(calls) == 2:
            raise Killed
        return original(*given)

    monkeypatch.setattr(server, target, dies)
    with pytest.raises(Killed):
        run(made, text=text)
    monkeypatch.setattr(server, target, original)
    result = fedsim.resume(made.folder.parent / "run")
    assert result.summary["rounds"] == 3
    if private:
        expected = compose([(Event(2.0, 0.2, "poisson"), 15)])
        assert result.privacy[0]["epsilon"] == pytest.approx(epsilon(expected, 1e-5))
        for name in SITES:
            ledger = Ledger(made.site(name) / "ledger.db", f"site {name}", 1, "look")
            assert ledger.composition("example", 0) == expected
            ledger.close()
    else:
        weight = max(model_of(made).values(), key=lambda array: array.ndim)
        assert np.allclose(weight, pooled(made)["weight"], atol=1e-5)


def test_going_on_uses_the_sizes_announced_at_the_start(made: Made, monkeypatch: pytest.MonkeyPatch):
    from fedsim import server

    honest = server.step
    monkeypatch.setattr(server, "step", lambda *given: (_ for _ in ()).throw(Killed()))
    with pytest.raises(Killed):
        run(made)
    monkeypatch.setattr(server, "step", honest)
    members = json.loads((made.folder.parent / "run" / "sites.json").read_text())
    assert [each["announcement"]["records"] for each in members] == [48, 48, 48]
    write_table(made.folder.parent / "b.csv", 1, rows=500)  # the site has more records than it announced
    result = fedsim.resume(made.folder.parent / "run")
    assert result.summary["rounds"] == 3
    assert result.summary["sites"][1]["rejected"] == 2


LOCAL = """
[privacy.client]
clip_norm = 1.0
noise_multiplier = 1.0
placement = "client"
delta = 1e-2
"""
AT_SERVER = LOCAL.replace('placement = "client"', "")
KINDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "every report by itself": (TABLE, ('algorithm.aggregation={kind="median"}',)),
    "clients that remember": (TABLE, ('algorithm.name="scaffold"',)),
    "compressed": (TABLE, ('communication={compression={kind="top_k", share=0.5}, error_feedback=true}',)),
    "noise at the sites": (TABLE + LOCAL, ()),
    "noise at the server": (TABLE + AT_SERVER, ()),
    "both units": (TABLE + PRIVATE + AT_SERVER, ()),
    "adaptive clipping": (TABLE + PRIVATE, ('privacy.example.clipping={kind="adaptive"}',)),
}


@pytest.mark.parametrize("name", sorted(KINDS))
def test_every_way_to_learn_goes_to_real_sites(made: Made, name: str):
    text, overrides = KINDS[name]
    for site in SITES:
        made.set(site, trust_server="true", max_epsilon_client="49.0")
    result = run(made, *overrides, text=text)
    assert result.summary["rounds"] == 3
    for site in result.summary["sites"]:
        assert (site["dropped"], site["refused"], site["rejected"]) == (0, 0, 0), log_of(made)
    assert all(np.isfinite(array).all() for array in model_of(made).values())
    assert any(array.any() for array in model_of(made).values())
    assert (made.site("a") / "state").exists() == (name in ("clients that remember", "compressed"))
    assert not (result.directory / "state").exists()


def test_what_only_a_simulation_has_is_refused_before_anybody_is_asked():
    with pytest.raises(FedsimError) as caught:
        parse_scenario(TABLE + "[evaluation]\nunseen_clients = 0.2\ntest = { kind = 'per_client' }\n", "table")
    assert "evaluation.unseen_clients" in str(caught.value)
    assert "evaluation.test" in str(caught.value)
    with pytest.raises(FedsimError, match=r"engine\.deployment: is for"):
        parse_scenario(TABLE, "table", ['engine.kind="inprocess"'])
