"""Known ways to get privacy wrong, each re-introduced on purpose: the named check must then fail, and pass without it.

A check is a function of a builder of small federations and a folder. A mutation patches one place of fedsim.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import fedsim
import fedsim.checks
import fedsim.client
import fedsim.running
import fedsim.server
import fedsim.training.mixture
import fedsim.training.trainer
import fedsim.updates
from fedsim.aggregation import WeightedSum
from fedsim.algorithms.ditto import Ditto
from fedsim.algorithms.fedper import FedPer
from fedsim.client import train_clients
from fedsim.client_store import ClientStore
from fedsim.errors import BudgetExhausted, FedsimError
from fedsim.federation import build_federation
from fedsim.privacy import accounting, clipping, ledger, mechanism, plan, sampling, statement_algorithm
from fedsim.privacy.accounting import epsilon
from fedsim.privacy.events import Event, compose
from fedsim.privacy.keystream import Keystream
from fedsim.privacy.ledger import Ledger, Limit
from fedsim.seeding import Stream
from fedsim.training.work import Work, epoch_batches
from tests.conftest import (
    CLIENT_PRIVACY,
    EXAMPLE_PRIVACY,
    SMALL,
    batches_of,
    job_of,
    local_problem,
    without_noise,
    work_of,
)

EVENT = Event(1.0, 0.1, "poisson")
EVERY_TRAINER = ("auto", "vectorised", "opacus")  # auto: the native one, where this machine can build it
LOCAL_PRIVACY = CLIENT_PRIVACY + 'placement = "client"\n'
AUTOENCODER = ("rounds=1", 'task={kind="reconstruction"}', 'model={name="autoencoder", channels=[1], bottleneck=1}')
EMPTY = "privacy.example.sampling_rate=1e-9"
# Deviations of a correlation of the 610 parameters of two updates that are noise alone: 0.04.
UNRELATED = 0.2


def build(text: str = EXAMPLE_PRIVACY, *overrides: str) -> Any:
    return build_federation(fedsim.parse_scenario(SMALL + text, "small", overrides))


def run(folder: Path, text: str, *overrides: str, **watch: Any) -> fedsim.Result:
    return fedsim.run(fedsim.parse_scenario(SMALL + text, "small", overrides), folder / "run", **watch)


def noise_of(made: Any, round_: int, client: int) -> np.ndarray:
    """A client's update in a round without records: its noise alone."""
    return train_clients(made, job_of(made, [client], round_)).total


# --- checks


def every_round_counts(folder: Path) -> None:
    """A client that takes part in rounds 1, 5 and 9 with 7 steps each has 21 in the ledger."""
    book = Ledger(folder / "l.db", "p", 2, "run")
    for round_ in (1, 5, 9):
        book.charge(round_, [plan.Charge("example", EVENT, 7, np.array([1]))])
    assert book.composition("example", 1) == ((EVENT, 21),)


def fixed_cohorts_are_not_amplified(folder: Path) -> None:
    made = build(CLIENT_PRIVACY, 'cohort.sampling={kind="fixed", size=2}')
    assert epsilon(compose([(made.plan.client.event, 5)]), 1e-5) >= epsilon(compose([(Event(1.2), 5)]), 1e-5)


def a_tiny_clip_norm_grows(folder: Path) -> None:
    """When every update is clipped, the adaptive clip norm must go up."""
    clip = ("privacy.client.clip_norm=1e-4", 'privacy.client.clipping={kind="adaptive", learning_rate=0.5}')
    row: dict[str, Any] = {}
    run(folder, CLIENT_PRIVACY, *clip, "rounds=8", "privacy.client.noise_multiplier=0.1", on_round=row.update)
    assert row["clip_norm_client"] > 2e-4


def one_client_moves_the_sum_by_at_most_the_clip_norm(folder: Path) -> None:
    made = build(CLIENT_PRIVACY, "privacy.client.clip_norm=0.01")
    whole = train_clients(made, job_of(made)).total
    for client in range(6):
        without = train_clients(made, job_of(made, [c for c in range(6) if c != client])).total
        assert np.linalg.norm(whole - without) <= 0.01 * (1 + 1e-6)


def a_client_s_records_change_no_other_update(folder: Path) -> None:
    """Nor where they would stand in a padded place: here record 0, whose square overflows, in a model under vmap."""
    made = build(CLIENT_PRIVACY, 'engine.trainer="vectorised"', "algorithm.local.batch_size=8")
    made.trainer.chain = None
    made.task.features[0] = 3e38
    assert train_clients(made, job_of(made)).invalid == 1


def owners_are_not_scaled_across_clients(folder: Path) -> None:
    data = 'data={source="parkinsons", scaling={kind="client"}}'
    natural = 'population={partition={kind="natural"}}'
    fedsim.parse_scenario(SMALL + CLIENT_PRIVACY, "small", (data, natural))
    with pytest.raises(FedsimError, match="at other clients"):
        fedsim.parse_scenario(SMALL + CLIENT_PRIVACY, "small", (data,))


def held_back_records_are_not_shown(folder: Path) -> None:
    own = 'evaluation={test={kind="per_client"}}'
    for name, override in (("public", "rounds=1"), ("private", own)):
        result = run(folder / name, EXAMPLE_PRIVACY, *AUTOENCODER, override)
        assert (result.directory / "pictures.json").exists() == (name == "public")
        assert ("shows some of these" in " ".join(result.summary["outside"])) == (name == "public")


def a_nan_update_is_contained(folder: Path) -> None:
    rows = torch.ones(3, 4)
    rows[1, 2] = float("nan")
    assert torch.isfinite(clipping.clip_rows(rows, 1.0)[0]).all()


def noise_comes_from_no_global_generator(folder: Path) -> None:
    before = torch.get_rng_state()
    mechanism.GaussianSum(EVENT, 1.0).release(torch.zeros(100), np.random.default_rng(0))
    gaussian_sums((EVENT,)).release(torch.zeros(1, 100), torch.zeros(1), 0)
    after = torch.get_rng_state()
    torch.set_rng_state(before)
    assert torch.equal(before, after)


def noise_has_the_deviation_of_its_event(folder: Path) -> None:
    """100,000 draws: within 2 %, 9 standard errors."""
    released = mechanism.GaussianSum(Event(1.3), 0.4).release(torch.zeros(100_000), np.random.default_rng(0))
    assert float(released.total.std()) == pytest.approx(1.3 * 0.4, rel=0.02)
    rows = gaussian_sums((Event(1.3), Event(0.7)), clip_norm=0.4).release(torch.zeros(2, 100_000), torch.zeros(2), 0)
    assert rows.totals.std(dim=1).tolist() == pytest.approx([1.3 * 0.4, 0.7 * 0.4], rel=0.02)


def gaussian_sums(events: tuple[Event, ...], clip_norm: float = 1.0) -> mechanism.GaussianSums:
    """Clients 0, 1, ..., of one event each."""
    clients = np.arange(len(events))
    keystream = Keystream.of("reproducible", 0, 1)
    return mechanism.GaussianSums(clients, events, clients, clip_norm, None, keystream, Stream.NOISE)


def two_rounds_have_different_noise(folder: Path) -> None:
    for trainer in EVERY_TRAINER:
        made = build(EXAMPLE_PRIVACY, EMPTY, "algorithm.local.steps=1", f"engine.trainer={trainer}")
        draws = [noise_of(made, round_, 0) for round_ in (1, 2)]
        assert abs(np.corrcoef(draws)[0, 1]) < UNRELATED


def two_clients_have_different_noise(folder: Path) -> None:
    for trainer in EVERY_TRAINER:
        made = build(EXAMPLE_PRIVACY, EMPTY, "algorithm.local.steps=1", f"engine.trainer={trainer}")
        draws = [noise_of(made, 1, client) for client in (0, 1)]
        assert abs(np.corrcoef(draws)[0, 1]) < UNRELATED


def two_clients_have_different_local_noise(folder: Path) -> None:
    made = build(LOCAL_PRIVACY, "algorithm.local.learning_rate=1e-12")
    draws = [noise_of(made, 1, client) for client in (0, 1)]
    assert abs(np.corrcoef(draws)[0, 1]) < UNRELATED


def two_steps_have_different_noise(folder: Path) -> None:
    """What a second step adds to an update that is noise alone has nothing to do with the first."""
    for trainer in EVERY_TRAINER:
        builds = [
            build(EXAMPLE_PRIVACY, EMPTY, f"algorithm.local.steps={n}", f"engine.trainer={trainer}") for n in (1, 2)
        ]
        first, both = (noise_of(made, 1, 0) for made in builds)
        assert abs(np.corrcoef(first, both - first)[0, 1]) < UNRELATED


def secure_jobs_have_different_noise(folder: Path) -> None:
    """The same job twice, with the same seed and every record in every batch: only the noise can differ."""
    everybody = ("privacy.example.sampling_rate=1.0", "algorithm.local.learning_rate=1e-3")
    for text, overrides in ((EXAMPLE_PRIVACY, everybody), (LOCAL_PRIVACY, ())):
        made = build(text, 'privacy.randomness="secure"', *overrides)
        first, second = (noise_of(made, 1, 0) for _ in range(2))
        assert (np.abs(first - second) > 0).mean() > 0.9


def no_words_serve_twice(folder: Path) -> None:
    """Batches, dropout, the gradients' noise and local noise of a round are made of words of their own.

    Two of 10,000 words of 64 bits are equal by chance once in 4e11 times.
    """
    drawn: list[np.ndarray] = []
    chacha = Keystream._chacha

    def watched(self: Keystream, stream: Stream, step: int, *where: torch.Tensor) -> torch.Tensor:
        made = chacha(self, stream, step, *where)
        drawn.append(made.t().contiguous().numpy().view(np.uint64).reshape(-1))
        return made

    model = 'model={name="mlp", hidden=[2], dropout=0.5}'
    made = build(EXAMPLE_PRIVACY + LOCAL_PRIVACY, "engine.trainer=opacus", model, "algorithm.local.steps=2")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Keystream, "_chacha", watched)
        train_clients(made, job_of(made, [0, 1]))
    words = np.concatenate(drawn)
    assert len(drawn) >= 1 + 2 + 2 + 1
    assert len(np.unique(words)) == len(words)


def an_empty_batch_releases_noise_and_counts(folder: Path) -> None:
    for trainer in EVERY_TRAINER:
        made = build(EXAMPLE_PRIVACY, EMPTY, "algorithm.local.steps=3", f"engine.trainer={trainer}")
        reply = train_clients(made, job_of(made, [0]))
        assert sum(reply.events.values()) == 3
        assert np.abs(reply.total).max() > 0


def one_record_moves_a_step_by_at_most_its_clip_norm(folder: Path) -> None:
    """Without noise, a step on three records and on two of them differ by at most lr * C / batch_size."""
    for trainer in EVERY_TRAINER:
        made = build(
            EXAMPLE_PRIVACY,
            "privacy.example.sampling_rate=1.0",
            "privacy.example.clip_norm=0.01",
            f"engine.trainer={trainer}",
        )
        work = without_noise(work_of(made, [0]))
        updates = []
        for batch in (work.batch(0, 0)[:3], work.batch(0, 0)[1:3]):
            one = replace(work, records=batch, lengths=np.array([[len(batch)]]))
            updates.append(
                made.trainer.train(*local_problem(made.scenario.algorithm, made.start), one).updates[0].double()
            )
        assert 0 < float((updates[0] - updates[1]).norm()) <= 0.2 * 0.01 / 64 * (1 + 1e-3)


def all_tensors_are_clipped_together(folder: Path) -> None:
    gradients = torch.ones(1, 1, 12)
    total, _ = clipping.clipped_sums(gradients, torch.ones(1, 1, dtype=torch.bool), 1.0, sizes=[4, 4, 4])
    assert float(total.norm()) <= 1 + 1e-6


def the_server_divides_by_a_public_number(folder: Path) -> None:
    """The same sum gives the same update whether 2 or 5 clients happened to take part."""
    made = build(CLIENT_PRIVACY)
    updates = []
    for clients in (2, 5):
        sums = fedsim.server.Collected(WeightedSum(len(made.start), torch.device("cpu")), clients)
        sums.updates.add_sum(torch.ones(len(made.start)), float(clients), clients)
        session = fedsim.server.Session(made, *[None] * 4, made.plan.clip_norms(), None, torch.zeros(0))  # type: ignore[arg-type]
        updates.append(fedsim.server.release(session, sums, 1))
    torch.testing.assert_close(updates[0], updates[1])


def the_ledger_is_charged_before_a_client_trains(folder: Path) -> None:
    seen: list[int] = []
    honest = fedsim.client.train_clients

    def spy(federation: Any, job: Any, store: Any) -> Any:
        book = Ledger(folder / "run" / "ledger.db", federation.population.digest(), 6, "reader")
        seen.append(sum(count for _, count in book.composition("client", 0)))
        return honest(federation, job)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fedsim.client, "train_clients", spy)
        run(folder, CLIENT_PRIVACY)
    assert seen == [1, 2, 3]


def batches_are_poisson(folder: Path) -> None:
    made = build(EXAMPLE_PRIVACY, "algorithm.local.steps=500", "algorithm.local.batch_size=20")
    largest = int(made.population.sizes.argmax())
    rate, size = made.plan.example.rates[largest], int(made.population.sizes[largest])
    counts = [len(batch) for batch in batches_of(work_of(made, [largest]), largest)]
    assert np.var(counts) == pytest.approx(size * rate * (1 - rate), rel=0.4)


def cohorts_are_poisson(folder: Path) -> None:
    rng = np.random.default_rng(0)
    sizes = [len(sampling.Poisson(rate=0.3).draw(100, 1, rng)) for _ in range(500)]
    assert np.var(sizes) == pytest.approx(21, rel=0.4)


def replacing_costs_twice_the_sensitivity(folder: Path) -> None:
    replaced = epsilon.__wrapped__(compose([(Event(2.0, 1.0, "none", "replace-one"), 1)]), 1e-5)
    assert replaced == pytest.approx(epsilon(compose([(Event(1.0), 1)]), 1e-5))


def a_budget_is_never_exceeded(folder: Path) -> None:
    limit = Limit(epsilon(compose([(EVENT, 5)]), 1e-5), np.full(1, 1e-5))
    book = Ledger(folder / "l.db", "p", 1, "run", {"example": limit})
    one = [plan.Charge("example", EVENT, 1, np.array([0]))]
    for round_ in range(5):
        book.charge(round_, one)
    with pytest.raises(BudgetExhausted):
        book.charge(5, one)


def the_largest_epsilon_over_clients_is_reported(folder: Path) -> None:
    result = run(folder, EXAMPLE_PRIVACY, 'cohort.sampling={kind="poisson", rate=0.5}', "rounds=4")
    made = build()
    book = Ledger(result.directory / "ledger.db", made.population.digest(), 6, "reader")
    assert result.privacy[0]["epsilon"] == max(epsilon(book.composition("example", c), 1e-4) for c in range(6))


def clients_that_are_drawn_give_records_no_amplification(folder: Path) -> None:
    made = build(EXAMPLE_PRIVACY, 'cohort.sampling={kind="poisson", rate=0.1}')
    sizes = made.population.sizes
    assert [made.plan.example.event(c).rate for c in range(6)] == [min(1.0, 64 / n) for n in sizes]


def the_count_is_of_what_is_not_clipped(folder: Path) -> None:
    for clip_norm, count in ((1e6, 3.0), (1e-6, -3.0)):
        made = build(
            CLIENT_PRIVACY, 'privacy.client.clipping={kind="adaptive"}', f"privacy.client.clip_norm={clip_norm}"
        )
        assert train_clients(made, job_of(made)).client_count == count


def a_group_waits_for_its_turn(folder: Path) -> None:
    cyclic, last = sampling.Cyclic(groups=4), np.full(10, -100)
    for round_ in range(1, 20):
        cohort = cyclic.draw(10, round_, np.random.default_rng(round_))
        assert (round_ - last[cohort] >= 4).all()
        last[cohort] = round_


def noise_and_charge_agree(folder: Path) -> None:
    run(folder, EXAMPLE_PRIVACY)


def every_step_is_reported(folder: Path) -> None:
    """What a reply says was spent is one event per client and step (and per local update), for every trainer."""
    for trainer in EVERY_TRAINER:
        made = build(EXAMPLE_PRIVACY + LOCAL_PRIVACY, "algorithm.local.steps=3", f"engine.trainer={trainer}")
        expected = Counter({made.plan.client.event: 6})
        for client in range(6):
            expected[made.plan.example.event(client)] += 3
        assert train_clients(made, job_of(made)).events == expected


def the_count_s_noise_is_paid_for(folder: Path) -> None:
    """The sum's noise is raised so that sum and count together are the event."""
    total = mechanism.GaussianSum(Event(1.0), 1.0, count_noise=0.6)
    precision = (total.deviation) ** -2 + (2 * 0.6) ** -2
    assert precision <= 1 + 1e-9


def personal(text: str, algorithm: str, *overrides: str) -> Any:
    return build(text, f"algorithm.name={algorithm}", "evaluation.test={kind='per_client'}", *overrides)


def reports_do_not_depend_on_a_client_s_own_model(folder: Path) -> None:
    """What clients keep, trained without noise, moves nothing that they send: not by a bit."""
    for algorithm in ("ditto", "apfl"):
        for text in (EXAMPLE_PRIVACY, CLIENT_PRIVACY):
            made, totals = personal(text, algorithm), []
            for name, state in (("none", 0.0), ("some", 3.0)):
                store = ClientStore(folder / f"{algorithm}-{len(text)}-{name}", 6, made.state_size)
                store.write(1, np.arange(6), np.full((6, made.state_size), state, np.float32))
                totals.append(train_clients(made, job_of(made), store).total)
            assert totals[0].tolist() == totals[1].tolist()


def a_private_head_is_not_sent(folder: Path) -> None:
    """The global model's last layer, 8 to 10, stays as it was; noise does not fall on it either."""
    own = ("algorithm.name=fedper", "evaluation.test={kind='per_client'}")
    result = run(folder, CLIENT_PRIVACY, *own)
    head = build(CLIENT_PRIVACY, *own).start[-90:]
    stored = load_file(result.directory / "model.safetensors")
    assert torch.equal(torch.cat([stored["4.weight"].flatten(), stored["4.bias"]]), head)
    assert result.summary["bytes"]["up"] == 4 * 6 * 3 * (610 - 90)


def a_client_s_own_training_draws_words_of_its_own(folder: Path) -> None:
    """Ditto's second pass: other batches and other dropout masks than the pass whose update is released."""
    model = 'model={name="mlp", hidden=[2], dropout=0.5}'
    made = personal(EXAMPLE_PRIVACY, "ditto", "engine.trainer=opacus", model, "algorithm.local.steps=2")
    seen: list[tuple[bytes, int, int]] = []
    words = Keystream._chacha

    def watched(self: Keystream, stream: Stream, step: int, *where: torch.Tensor) -> torch.Tensor:
        seen.append((self.key, int(stream), step))
        return words(self, stream, step, *where)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Keystream, "_chacha", watched)
        train_clients(made, job_of(made, [0]), ClientStore(folder / "state", 6, made.state_size))
    assert len(seen) >= 1 + 2 + 2 + 1 + 2
    assert len(set(seen)) == len(seen)


def the_run_says_that_own_models_are_not_covered(folder: Path) -> None:
    own = ("algorithm.name=ditto", "evaluation.test={kind='per_client'}")
    result = run(folder, EXAMPLE_PRIVACY, *own)
    assert any("own model" in line for line in result.privacy[0]["assumptions"])
    assert any("own models" in line for line in result.summary["outside"])


# --- mutations


@dataclass(frozen=True)
class Mutation:
    """A pitfall: what it does wrong, where it is patched in, and the check that must notice."""

    pitfall: str
    check: Callable[[Path], None]
    target: Any
    name: str
    wrong: Callable[[Any], Any]  # from the right thing to the wrong one


def _forgetful_balance(right: Any) -> Any:
    return lambda self, state, event, count: compose([(event, count)])


def _sign(right: Any) -> Any:
    return lambda clip, rate, quantile, share: clip * math.exp(rate * (min(max(share, 0), 1) - quantile))


def _global_noise(right: Any) -> Any:
    def release(self: Any, total: Any, rng: Any, *_: Any, **__: Any) -> Any:
        return mechanism.Release(total + self.deviation * torch.randn(len(total)), None, self.event)

    return release


def _global_noise_in_rows(right: Any) -> Any:
    def release(self: Any, totals: Any, counts: Any, step: int) -> Any:
        noise = torch.from_numpy(self.deviations[:, None]) * torch.randn(totals.shape)
        return replace(right(self, totals, counts, step), totals=totals + noise)

    return release


def _no_noise_when_empty(right: Any) -> Any:
    def gradient(trainer: Any, weights: Any, work: Work, step: int, result: Any) -> Any:
        if (work.lengths[: len(weights), step] > 0).any():
            return right(trainer, weights, work, step, result)
        return torch.zeros_like(weights)

    return gradient


def _true_batch_size(right: Any) -> Any:
    def gradient(trainer: Any, weights: Any, work: Work, step: int, result: Any) -> Any:
        lengths = torch.from_numpy(work.lengths[: len(weights), step, None]).clamp(min=1)
        return right(trainer, weights, work, step, result) * work.denominator / lengths

    return gradient


def _each_tensor_alone(right: Any) -> Any:
    def sums(gradients: Any, mask: Any, clip_norm: float, sizes: Any = None) -> Any:
        return right(gradients, mask, clip_norm * (len(sizes) ** 0.5 if sizes else 1.0), sizes)

    return sums


def _true_weight(right: Any) -> Any:
    def release(session: Any, sums: Any, round_: int) -> Any:
        expected = session.federation.plan.client.expected_weight
        return right(session, sums, round_) * expected / sums.updates.weight

    return release


def _charge_late(right: Any) -> Any:
    def charge(self: Any, round_: int, charges: Any) -> None:
        right(self, round_, charges if round_ == 3 else [])

    return charge


def _one_round(right: Any) -> Any:
    return classmethod(lambda cls, randomness, seed, round_: right.__func__(cls, randomness, seed, 0))


def _never_secure(right: Any) -> Any:
    return classmethod(lambda cls, randomness, seed, round_: right.__func__(cls, "reproducible", seed, round_))


def _one_client(right: Any) -> Any:
    return lambda self, stream, clients, step, count: right(self, stream, torch.zeros_like(clients), step, count)


def _one_stream(right: Any) -> Any:
    return lambda self, stream, step, *where: right(self, Stream.BATCHES, step, *where)


def _one_step(right: Any) -> Any:
    return lambda self, totals, counts, step, *how: right(self, totals, counts, 0, *how)


def _noise_of_one_client(right: Any) -> Any:
    def release(self: Any, *how: Any) -> Any:
        return right(replace(self, clients=np.zeros_like(self.clients)), *how)

    return release


def _one_event_fewer(right: Any) -> Any:
    def spent(self: Any, times: Any) -> Any:
        events = right(self, times)
        return events - Counter(list(events)[:1])

    return spent


def _padded_with_record_0(right: Any) -> Any:
    def batch(task: Any, work: Work, step: int, *dropout: Any) -> Any:
        made = right(task, work, step, *dropout)
        return replace(made, features=torch.where(made.mask[..., None, None, None], made.features, task.features[0]))

    return batch


def _sizes(right: Any) -> Any:
    return lambda federation, clients: torch.from_numpy(federation.population.sizes[clients].astype(float))


def _shuffled(right: Any) -> Any:
    return lambda held, rates, steps, draw: epoch_batches(held, max(1, round(rates[0] * held.sizes[0])), steps, draw)


def _own_model_in_the_report(right: Any) -> Any:
    def train(self: Any, trainer: Any, given: Any, work: Work) -> Any:
        trained = right(self, trainer, given, work)
        leaked = trained.state[:, : trained.updates.shape[1]]
        return replace(trained, updates=trained.updates + 1e-3 * leaked)

    return train


def _trained_from_the_mixture(right: Any) -> Any:
    def mixed(trainer: Any, local: Any, starts: Any, mixture: Any, work: Work) -> Any:
        return right(trainer, local, (mixture.of(starts[1], starts[0]), starts[1]), mixture, work)

    return mixed


MUTATIONS = [
    Mutation(
        "a client's own model in its report",
        reports_do_not_depend_on_a_client_s_own_model,
        Ditto,
        "train",
        _own_model_in_the_report,
    ),
    Mutation(
        "a mixture of both models trained for the server",
        reports_do_not_depend_on_a_client_s_own_model,
        fedsim.training.mixture,
        "train_mixed",
        _trained_from_the_mixture,
    ),
    Mutation(
        "a private head that is sent",
        a_private_head_is_not_sent,
        FedPer,
        "private",
        lambda right: lambda self, layout: layout.names[:1],
    ),
    Mutation(
        "a second pass with the first one's words",
        a_client_s_own_training_draws_words_of_its_own,
        Keystream,
        "apart",
        lambda right: lambda self, purpose: self,
    ),
    Mutation(
        "own models that the statement is silent on",
        the_run_says_that_own_models_are_not_covered,
        statement_algorithm,
        "personal_assumptions",
        lambda right: lambda federation: (),
    ),
    Mutation("an accountant rebuilt each round", every_round_counts, ledger._Balance, "after", _forgetful_balance),
    Mutation(
        "fixed-size cohorts accounted as Poisson",
        fixed_cohorts_are_not_amplified,
        sampling.Fixed,
        "event",
        lambda right: lambda self, noise, relation, clients: Event(noise, self.size / clients, "poisson"),
    ),
    Mutation("adaptive clipping with its sign inverted", a_tiny_clip_norm_grows, fedsim.server, "adapted", _sign),
    Mutation(
        "data set sizes as weights under client-level privacy",
        one_client_moves_the_sum_by_at_most_the_clip_norm,
        fedsim.updates,
        "client_weights",
        _sizes,
    ),
    Mutation(
        "places without a record filled with another client's",
        a_client_s_records_change_no_other_update,
        fedsim.training.trainer,
        "make_batch",
        _padded_with_record_0,
    ),
    Mutation(
        "an owner's records scaled together, held by several clients",
        owners_are_not_scaled_across_clients,
        fedsim.checks,
        "_scaling",
        lambda right: lambda scenario: (),
    ),
    Mutation(
        "pictures of records that clients hold back",
        held_back_records_are_not_shown,
        fedsim.running,
        "pictures",
        lambda right: lambda session: session.federation.task.pictures(session.federation.module),
    ),
    Mutation(
        "NaN passes the clipper",
        a_nan_update_is_contained,
        clipping,
        "scale_rows",
        lambda right: lambda rows, factors, norms: rows * factors.to(rows.dtype).unsqueeze(-1),
    ),
    Mutation(
        "noise from a global generator",
        noise_comes_from_no_global_generator,
        mechanism.GaussianSum,
        "release",
        _global_noise,
    ),
    Mutation(
        "noise that ignores the clip norm",
        noise_has_the_deviation_of_its_event,
        mechanism.GaussianSum,
        "deviation",
        lambda right: property(lambda self: self.event.noise_multiplier),
    ),
    Mutation(
        "variance taken for deviation",
        noise_has_the_deviation_of_its_event,
        mechanism.GaussianSum,
        "deviation",
        lambda right: property(lambda self: math.sqrt(right.fget(self))),
    ),
    Mutation(
        "the same noise in every round",
        two_rounds_have_different_noise,
        Keystream,
        "of",
        _one_round,
    ),
    Mutation(
        "the same words at every client",
        two_clients_have_different_noise,
        Keystream,
        "blocks",
        _one_client,
    ),
    Mutation(
        "the same noise at every client",
        two_clients_have_different_noise,
        mechanism.GaussianSums,
        "release",
        _noise_of_one_client,
    ),
    Mutation(
        "the same local noise at every client",
        two_clients_have_different_local_noise,
        mechanism.GaussianSums,
        "release",
        _noise_of_one_client,
    ),
    Mutation(
        "the same noise in every step",
        two_steps_have_different_noise,
        mechanism.GaussianSums,
        "release",
        _one_step,
    ),
    Mutation(
        "clients' noise from a global generator",
        noise_comes_from_no_global_generator,
        mechanism.GaussianSums,
        "release",
        _global_noise_in_rows,
    ),
    Mutation(
        "secure noise from the scenario's seed",
        secure_jobs_have_different_noise,
        Keystream,
        "of",
        _never_secure,
    ),
    Mutation("batches and noise from the same words", no_words_serve_twice, Keystream, "_chacha", _one_stream),
    Mutation(
        "a release that is not reported", every_step_is_reported, mechanism.GaussianSums, "spent", _one_event_fewer
    ),
    Mutation(
        "a release that nobody pays for", noise_and_charge_agree, mechanism.GaussianSums, "spent", _one_event_fewer
    ),
    Mutation(
        "no noise for an empty batch",
        an_empty_batch_releases_noise_and_counts,
        fedsim.training.trainer,
        "step_gradient",
        _no_noise_when_empty,
    ),
    Mutation(
        "division by the batch's true size",
        one_record_moves_a_step_by_at_most_its_clip_norm,
        fedsim.training.trainer,
        "step_gradient",
        _true_batch_size,
    ),
    Mutation(
        "per-layer thresholds that do not add up to the clip norm",
        all_tensors_are_clipped_together,
        clipping,
        "clipped_sums",
        _each_tensor_alone,
    ),
    Mutation(
        "division by the cohort's true size",
        the_server_divides_by_a_public_number,
        fedsim.server,
        "release",
        _true_weight,
    ),
    Mutation("charging after release", the_ledger_is_charged_before_a_client_trains, Ledger, "charge", _charge_late),
    Mutation("shuffled batches accounted as Poisson", batches_are_poisson, fedsim.client, "poisson_batches", _shuffled),
    Mutation(
        "cohorts of fixed size accounted as Poisson",
        cohorts_are_poisson,
        sampling.Poisson,
        "draw",
        lambda right: lambda self, n, round_, rng: np.sort(rng.choice(n, round(self.rate * n), replace=False)),
    ),
    Mutation(
        "replace-one without the doubled sensitivity",
        replacing_costs_twice_the_sensitivity,
        accounting,
        "sensitivity",
        lambda right: lambda event: 1.0,
    ),
    Mutation(
        "a budget that nobody enforces",
        a_budget_is_never_exceeded,
        Ledger,
        "_refuse_overspending",
        lambda right: lambda self, charge: None,
    ),
    Mutation(
        "a mean over clients instead of the largest",
        the_largest_epsilon_over_clients_is_reported,
        Ledger,
        "epsilons",
        lambda right: lambda self, unit, delta: np.full(self.clients, right(self, unit, delta).mean()),
    ),
    Mutation(
        "records amplified by the sampling of clients",
        clients_that_are_drawn_give_records_no_amplification,
        plan.ExamplePlan,
        "event",
        lambda right: lambda self, client: replace(right(self, client), rate=right(self, client).rate * 0.1),
    ),
    Mutation(
        "the clipped counted instead of the unclipped",
        the_count_is_of_what_is_not_clipped,
        fedsim.updates,
        "centred_count",
        lambda right: lambda norms, clip_norm: -right(norms, clip_norm),
    ),
    Mutation(
        "a schedule without its gap",
        a_group_waits_for_its_turn,
        sampling.Cyclic,
        "charged",
        lambda right: lambda self, clients, round_: np.arange(clients),
    ),
    Mutation(
        "steps that are not charged",
        noise_and_charge_agree,
        plan.ExamplePlan,
        "charges",
        lambda right: lambda self, cohort: [replace(c, count=max(1, c.count - 1)) for c in right(self, cohort)],
    ),
    Mutation(
        "a count released for free",
        the_count_s_noise_is_paid_for,
        mechanism,
        "sum_noise_multiplier",
        lambda right: lambda noise_multiplier, count_noise: noise_multiplier,
    ),
]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.pitfall)
def test_the_pitfall_is_caught(mutation, tmp_path, monkeypatch):
    for folder in ("right", "wrong"):
        (tmp_path / folder).mkdir()
    mutation.check(tmp_path / "right")
    right = vars(mutation.target)[mutation.name] if isinstance(mutation.target, type) else None
    right = right or getattr(mutation.target, mutation.name)
    monkeypatch.setattr(mutation.target, mutation.name, mutation.wrong(right))
    with pytest.raises((AssertionError, FedsimError, pytest.fail.Exception)):
        mutation.check(tmp_path / "wrong")


def test_there_are_enough_of_them():
    assert len(MUTATIONS) >= 36
