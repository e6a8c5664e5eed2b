"""What a run releases that no guarantee covers."""

from __future__ import annotations

from collections.abc import Iterator

from fedsim.communication.statement import communication_outside
from fedsim.federation import Federation
from fedsim.holdings import of_training_owners
from fedsim.models import ModelOptions
from fedsim.population.statistics import SHOWN_CLIENTS
from fedsim.privacy.statement_algorithm import beside_guarantees


def outside(federation: Federation) -> list[str]:
    """What was released that no guarantee covers, a sentence each."""
    lines = [
        *_metrics(federation),
        "The choice of settings (learning rate, clip norm and so on) is not covered: if it was tuned on this data, "
        "that spent privacy too.",
    ]
    if federation.shows_records:
        lines.append("The report shows some of these test records themselves, beside what the model makes of them.")
    if federation.plan.client is None and federation.plan.example is None and federation.weighting == "examples":
        lines.append("The number of records of each client, used as its weight.")
    lines += beside_guarantees(federation)
    if federation.task.data.notes:
        lines.append("What loading counted in the data (the notes on the data) is for the experimenter only.")
    if federation.holdings.root is not None:
        lines.append(
            f"The server trains on {len(federation.holdings.root.indices)} root records without noise and follows "
            "them: they count as public, and nothing protects them."
        )
    if federation.holdings.attacks is not None and federation.plan.client is not None:
        lines.append(
            f"{int(federation.holdings.attacks.sum())} clients play attackers, who may show each other what they "
            "have: a guarantee for whole clients is for those that do not attack."
        )
    model = federation.scenario.model
    if isinstance(model, ModelOptions) and model.initial is not None:
        lines.append(
            f"Training starts from the weights in {model.initial} (SHA-256 {model.initial_sha256}), which count as "
            "public: what they were trained on is not covered, so it must not hold records that this run protects."
        )
    lines += communication_outside(federation.scenario.communication)
    if federation.holdings.remote is not None:
        lines.append("The server knows each site's number of records, who took part in each round, and when.")
    else:
        lines.append(
            "The size of each round's cohort, how many of it delivered, the clients' sizes and label counts, and this "
            "record of the simulation are for the experimenter only."
        )
    return lines


def _metrics(federation: Federation) -> Iterator[str]:
    """On whose records metrics were computed; they are released without noise."""
    if (remote := federation.holdings.remote) is not None:
        yield from remote.released(federation)
        return
    held_back, unseen = federation.holdings.held_back, federation.holdings.unseen
    tested = len(federation.task.data.test)
    own = of_training_owners(federation.scenario, federation.holdings)
    if own and federation.plan.client is not None:
        yield (
            f"Test metrics were computed on {tested} held-out records and are released without noise. {own} of them "
            "belong to the clients that train: a guarantee for whole clients does not cover what the metrics tell of "
            "those."
        )
    elif held_back is None:
        yield (
            f"Test metrics were computed on {tested} held-out records that count as public; "
            "nothing protects those records."
        )
    else:
        clients = int((held_back.sizes > 0).sum())
        each = "every client's own and " if len(held_back) <= SHOWN_CLIENTS else ""
        yield (
            f"Test metrics, {each}those over clients (mean, percentile, worst) among them, were computed on {tested} "
            f"private records that {clients} clients held back, and are released without noise: nothing protects those "
            "records, and a guarantee for whole clients does not cover what the metrics tell of them."
        )
    if unseen is not None:
        yield (
            f"Metrics of unseen clients were computed on all {len(unseen.indices)} private records of {len(unseen)} "
            "clients that never train, and are released without noise. Those clients spend nothing, and nothing "
            "protects their records."
        )
