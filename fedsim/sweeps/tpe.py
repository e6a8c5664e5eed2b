"""Tree-structured Parzen estimators (Bergstra et al. 2011) by Optuna, restartable: each batch is drawn afresh."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from fedsim.extras import missing
from fedsim.seeding import Stream, generator
from fedsim.sweeps.objectives import directions
from fedsim.sweeps.search import ATTEMPTS, Scores, random_values
from fedsim.sweeps.settings import Sweep
from fedsim.sweeps.space import Axis, Choices
from fedsim.sweeps.trials import Json, Trial, distinct

if TYPE_CHECKING:
    from optuna import Study

STARTUP_TRIALS = 10
# Enough to find a setting that was not tried where one is left nearby.
PROPOSALS = 20
LARGEST = 1e30


def require_optuna() -> None:
    """Raises ``BadInput`` that says how to install Optuna where it is missing."""
    try:
        import optuna
    except ImportError as error:
        raise missing('sweep.method = "tpe"', "optuna", "sweep") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def propose(sweep: Sweep, trials: list[Trial], scores: Scores) -> list[Trial]:
    """The next ``sweep.batch`` settings that were not tried, from a study made of all earlier trials in their order.

    The sampler's seed is that of the batch. Fewer, or none, when so many were tried or the space has no more.
    """
    require_optuna()
    search = sweep.search
    wanted = min(search.batch, (search.trials or 0) - len(trials))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna's notes on experimental options
        study = _study(sweep, len(trials))
        for trial in trials:
            _tell(study, sweep, trial, scores.get(trial.number))
        batch: list[Trial] = []
        while len(batch) < wanted:
            fresh = _fresh(study, sweep, [*trials, *batch])
            if fresh is None:
                break
            batch.append(fresh)
    return batch


def _study(sweep: Sweep, done: int) -> Study:
    import optuna

    rng = generator(sweep.search.seed, Stream.SWEEP, done, 1)
    sampler = optuna.samplers.TPESampler(
        seed=int(rng.integers(2**31)), n_startup_trials=STARTUP_TRIALS, constant_liar=True
    )
    return optuna.create_study(sampler=sampler, directions=directions(sweep.search.objectives))


def _fresh(study: Study, sweep: Sweep, known: list[Trial]) -> Trial | None:
    """A setting that is not among the known ones: proposed, or drawn where the proposals repeat themselves."""
    keys = [trial.key for trial in known]
    for number in range(PROPOSALS + ATTEMPTS):
        if number < PROPOSALS:
            asked = study.ask(_distributions(sweep))
            values = _values(sweep, asked.params)
        else:
            values = random_values(sweep, len(known) * ATTEMPTS + number)
        for trial in distinct([values], keys):
            return trial
    return None


def _tell(study: Study, sweep: Sweep, trial: Trial, score: tuple[float, ...] | None) -> None:
    import optuna

    params = _params(sweep, trial.values)
    state = optuna.trial.TrialState.FAIL if score is None else optuna.trial.TrialState.COMPLETE
    values = None if score is None else [min(max(value, -LARGEST), LARGEST) for value in score]
    distributions = _distributions(sweep)
    study.add_trial(optuna.trial.create_trial(state=state, params=params, distributions=distributions, values=values))


def _distributions(sweep: Sweep) -> dict[str, Any]:
    return {key: _distribution(axis) for key, axis in sweep.space.items()}


def _distribution(axis: Axis) -> Any:
    """Optuna's word for an axis; choices, which may be tables, and steps go by their numbers."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(axis, Choices):
        return CategoricalDistribution(list(range(len(axis.options))))
    if axis.spacing is not None:
        return IntDistribution(0, len(axis.points()) - 1)
    if axis.whole:
        return IntDistribution(int(axis.low), int(axis.high), log=axis.log)
    return FloatDistribution(axis.low, axis.high, log=axis.log)


def _values(sweep: Sweep, params: Json) -> Json:
    """A setting from Optuna's parameters."""
    return {key: _value(axis, params[key]) for key, axis in sweep.space.items()}


def _value(axis: Axis, param: Any) -> Any:
    return axis.points()[param] if isinstance(axis, Choices) or axis.spacing is not None else param


def _params(sweep: Sweep, values: Json) -> Json:
    """Optuna's parameters of a setting; of values that made no difference, and so were left out, the first."""
    params: Json = {}
    for key, axis in sweep.space.items():
        if isinstance(axis, Choices) or axis.spacing is not None:
            points = [_plain(point) for point in axis.points()]
            params[key] = points.index(_plain(values[key])) if key in values else 0
        else:
            params[key] = values.get(key, axis.low)
    return params


def _plain(value: Any) -> Any:
    return "inf" if value == float("inf") else value
