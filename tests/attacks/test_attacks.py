"""Every attack against its paper's formula in NumPy, one attacker and one value at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import norm

from fedsim.attacks import ATTACKS, Attackers
from fedsim.attacks.alie import Alie, furthest
from fedsim.attacks.backdoor import Backdoor
from fedsim.attacks.free_rider import FreeRider
from fedsim.attacks.gaussian import Gaussian
from fedsim.attacks.inner_product import InnerProduct
from fedsim.attacks.label_flip import LabelFlip
from fedsim.attacks.model_replacement import ModelReplacement
from fedsim.attacks.sign_flip import SignFlip
from fedsim.attacks.triggers import Trigger
from fedsim.errors import BadInput
from fedsim.privacy.keystream import Keystream
from tests.samples import images, numbers, rows

CORNERS = {"top_left": (0, 0), "top_right": (0, 6), "bottom_left": (6, 0), "bottom_right": (6, 6)}


def attackers(count=4, cohort=20, round_=3, clients=None):
    """Some attackers of a round."""
    numbers = np.arange(5, 5 + count) if clients is None else np.array(clients)
    return Attackers(numbers, cohort, Keystream.of("reproducible", 0, round_))


def updates(count=4, size=50):
    """Honest updates."""
    return torch.from_numpy(np.random.default_rng(0).standard_normal((count, size)).astype(np.float32))


@pytest.mark.parametrize("kind", ATTACKS)
def test_whoever_attacks_is_picked_by_the_seed_and_in_the_right_number(kind):
    attack = ATTACKS[kind](fraction=0.3)
    picks = [attack.chosen(11, np.random.default_rng(seed)) for seed in (0, 0, 1, 2)]
    assert [int(pick.sum()) for pick in picks] == [3] * 4  # round(0.3 x 11)
    assert (picks[0] == picks[1]).all()
    assert len({pick.tobytes() for pick in picks}) == 3


@pytest.mark.parametrize(("fraction", "clients"), [(0.01, 10), (0.99, 10), (0.5, 1)])
def test_nobody_or_everybody_is_refused(fraction, clients):
    with pytest.raises(BadInput, match=rf"attack\.fraction = {fraction}: of {clients} client"):
        SignFlip(fraction=fraction).chosen(clients, np.random.default_rng(0))


@pytest.mark.parametrize("kind", ATTACKS)
def test_attacks_that_say_they_leave_updates_alone_do(kind):
    honest = updates()
    sent = ATTACKS[kind]().tampered(honest.clone(), attackers())
    assert sent.shape == honest.shape
    assert sent.dtype == honest.dtype
    assert torch.equal(sent, honest) != ATTACKS[kind].tampers


@pytest.mark.parametrize("kind", [kind for kind, attack in ATTACKS.items() if attack.tampers and not attack.colludes])
def test_what_one_attacker_sends_does_not_depend_on_the_others(kind):
    attack, honest = ATTACKS[kind](), updates()
    whole, alone = attack.tampered(honest, attackers()), attack.tampered(honest[2:3], attackers(clients=[7]))
    torch.testing.assert_close(whole[2:3], alone, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("attack", [Gaussian(deviation=3.0), FreeRider(deviation=3.0)])
def test_noise_is_normal_of_its_deviation_and_fresh_for_every_client_and_round(attack):
    honest = torch.zeros(3, 20_000)
    sent = attack.tampered(honest, attackers(3)).numpy()
    # Mean and deviation of 60,000 normals: four standard errors, false alarm 1e-4.
    assert abs(sent.mean()) < 4 * 3 / 60_000**0.5
    assert abs(sent.std() - 3) < 4 * 3 / 120_000**0.5
    assert not np.isclose(sent[0], sent[1]).all()
    assert not np.isclose(sent, attack.tampered(honest, attackers(3, round_=4)).numpy()).all()


def test_sign_flip_and_boost_scale_each_update():
    honest = updates()
    np.testing.assert_array_equal(SignFlip(scale=2.0).tampered(honest, attackers()), -2 * honest.numpy())
    np.testing.assert_array_equal(ModelReplacement(boost=3.0).tampered(honest, attackers()), 3 * honest.numpy())


def test_model_replacement_makes_the_mean_the_attackers_own():
    """Bagdasaryan et al. 2020, equation 3: honest updates near zero, then the mean is the attackers' mean update."""
    honest = updates()
    sent = ModelReplacement().tampered(honest, attackers(4, cohort=20)).numpy()
    np.testing.assert_allclose(np.concatenate([sent, np.zeros((16, 50))]).mean(0), honest.numpy().mean(0), rtol=1e-5)
    rare = ModelReplacement(fraction=0.01).tampered(honest[:1], attackers(1, cohort=10)).numpy()
    np.testing.assert_allclose(np.concatenate([rare, np.zeros((9, 50))]).mean(0), honest.numpy()[0], rtol=1e-5)


def test_alie_is_the_mean_and_z_deviations_of_each_value():
    honest = updates()
    sent = Alie().tampered(honest, attackers(4, cohort=20)).numpy()
    z = norm.ppf((20 - 4 - 7) / (20 - 4))  # s = floor(20 / 2 + 1) - 4 = 7
    for value in range(50):
        column = honest.numpy()[:, value].astype(float)
        deviation = np.sqrt(((column - column.mean()) ** 2).mean())
        np.testing.assert_allclose(sent[:, value], column.mean() + z * deviation, rtol=1e-6)
    np.testing.assert_allclose(Alie(z=0.0).tampered(honest, attackers()), honest.mean(0).expand(4, -1), rtol=1e-6)


def test_alies_z_is_the_papers():
    """The paper's example has 50 workers of which 24 are corrupted: s = 2, 0.923, and 1.43 in the table."""
    assert furthest(50, 24) == pytest.approx(1.43, abs=0.005)
    for clients, hostile in [(20, 4), (51, 12), (100, 49), (11, 1), (10, 3)]:
        supporters = np.floor(clients / 2 + 1) - hostile
        expected = norm.ppf((clients - hostile - supporters) / (clients - hostile))
        assert furthest(clients, hostile) == pytest.approx(expected, abs=1e-12)
    assert [furthest(2, 1), furthest(1, 1), furthest(3, 5)] == [0.0, 0.0, 0.0]
    assert np.isfinite(furthest(10, 8))


def test_a_single_attacker_estimates_no_deviation():
    honest = updates(1)
    np.testing.assert_array_equal(Alie(z=1.5).tampered(honest, attackers(1)), honest)


def test_inner_product_is_minus_epsilon_times_the_mean():
    honest = updates()
    sent = InnerProduct(epsilon=0.3).tampered(honest, attackers()).numpy()
    for row in sent:
        np.testing.assert_allclose(row, -0.3 * honest.numpy().mean(0), rtol=1e-5, atol=1e-8)


def test_a_plain_mean_turns_round_above_the_epsilon_that_the_docs_name():
    honest = torch.ones(20, 3)  # all agree
    for epsilon, forward in [(3.9, True), (4.1, False)]:  # (20 - 4) / 4
        honest[:4] = InnerProduct(epsilon=epsilon).tampered(torch.ones(4, 3), attackers())
        assert (honest.mean(0) > 0).all() == forward


def test_label_flip_changes_the_attackers_labels_alone():
    data, records = images(), np.array([3, 5, 8, 250])
    before = data.train.labels.copy()
    for attack, flip in [
        (LabelFlip(), lambda y: 9 - y),
        (LabelFlip(source=7, target=1), lambda y: 1 if y == 7 else y),
    ]:
        wanted = [flip(y) if number in records else y for number, y in enumerate(before.tolist())]
        poisoned = attack.poison(data, records, np.random.default_rng(0))
        assert poisoned.labels.tolist() == wanted
        assert poisoned.features is data.train.features
    assert (data.train.labels == before).all()


def test_label_flip_probes_the_records_that_it_would_flip():
    data = images()
    probe = LabelFlip(source=7, target=1).probe(data)
    assert (probe.features == data.test.features[data.test.labels == 7]).all()
    assert set(probe.labels.tolist()) == {1}
    assert (LabelFlip().probe(data).labels == 9 - data.test.labels).all()


@pytest.mark.parametrize("corner", CORNERS)
@pytest.mark.parametrize("attack", [Backdoor, ModelReplacement])
def test_a_backdoor_stamps_its_share_of_the_attackers_records(corner, attack):
    data, records = images(), np.arange(40, 140)
    before = data.train.features.copy(), data.train.labels.copy()
    settings = Trigger(corner=corner, value=0.7, target=4, poisoned=0.3)
    poisoned = attack(trigger=settings).poison(data, records, np.random.default_rng(0))
    down, right = CORNERS[corner]
    stamped = 0
    for number in range(len(data.train)):
        expected = before[0][number].copy()
        expected[:, down : down + 2, right : right + 2] = 0.7
        if (poisoned.features[number] == expected).all() and poisoned.labels[number] == 4:
            assert number in records
            stamped += 1
        else:
            assert (poisoned.features[number] == before[0][number]).all()
            assert poisoned.labels[number] == before[1][number]
    assert stamped == 30
    assert (data.train.features == before[0]).all()
    assert (data.train.labels == before[1]).all()


def test_a_backdoor_probes_stamped_records_of_other_classes():
    data = images()
    before = data.test.features.copy()
    probe = Backdoor(trigger=Trigger(size=3, target=4)).probe(data)
    wanted = before[data.test.labels != 4]
    wanted[:, :, 5:, 5:] = 1.0
    assert (probe.features == wanted).all()
    assert set(probe.labels.tolist()) == {4}
    assert (data.test.features == before).all()


@pytest.mark.parametrize(
    ("attack", "data", "message"),
    [
        (LabelFlip(), numbers, 'attack.kind = "label_flip": it needs labels that are classes'),
        (LabelFlip(source=1, target=10), images, "attack.target = 10: the data has 10 classes"),
        (Backdoor(), rows, "attack.trigger: features of shape"),
        (Backdoor(trigger=Trigger(size=8)), images, "attack.trigger.size = 8: it would cover"),
        (ModelReplacement(trigger=Trigger(target=10)), images, "attack.trigger.target = 10: the data has 10"),
    ],
)
def test_what_does_not_fit_the_data_is_refused(attack, data, message):
    with pytest.raises(BadInput) as refused:
        attack.check(data())
    assert str(refused.value).startswith(message)


def test_success_that_no_test_record_would_show_is_refused():
    data = images()
    kept = data.test.labels == 3
    only = type(data)(data.train, type(data.test)(data.test.features[kept], data.test.labels[kept]), data.names)
    for attack in (LabelFlip(source=7, target=1), Backdoor(trigger=Trigger(target=3))):
        with pytest.raises(BadInput, match="no test record shows"):
            attack.probe(only)
