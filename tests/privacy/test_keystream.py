"""The clients' random words: by a slow ChaCha, a slow Box-Muller and slow loops over batches, and by statistics.

False alarms: the key is fixed, so the right words pass always; over the choice of a key, each of the 40 statistical
comparisons below fails with probability at most 1e-8 (6 standard deviations of a near-normal: 2e-9), together 4e-7.
"""

from __future__ import annotations

import math
import os
import struct
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fedsim.client import block_work
from fedsim.models.layers import Dropout
from fedsim.privacy import keystream as module
from fedsim.privacy.events import Event
from fedsim.privacy.keystream import GROUP_NORMALS, LANES, PAIRS, Keystream
from fedsim.privacy.mechanism import GaussianSum, GaussianSums
from fedsim.seeding import Stream
from fedsim.training import TRAINERS
from fedsim.training.work import Held, Work, dropout_masks, epoch_batches, make_batch, poisson_batches
from tests.conftest import EXAMPLE_PRIVACY, SMALL, job_of, trainer_of, work_of

FALSE_ALARM = 1e-8
DEVIATIONS = 6.0
KEY = bytes(range(32))
PLAIN = Keystream(KEY, round=5)
BOTH = pytest.mark.parametrize("secure", [True, False], ids=["secure", "reproducible"])
# The largest address of all: round and client below 2^32, step below 2^24.
ADDRESSES = [
    (Stream.BATCHES, 0, 0, 0),
    (Stream.NOISE, 1, 2, 3),
    (Stream.DROPOUT, 70_000, 65_536, 999_999),
    (Stream.REPLAY, 2**32 - 1, 2**24 - 1, 2**32 - 1),
]


def ids(*clients):
    return torch.tensor(clients, dtype=torch.int64)


# --- ChaCha


def quarter_round(x, a, b, c, d):
    for left, right, turned, by in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
        x[left] = (x[left] + x[right]) & 0xFFFFFFFF
        mixed = x[turned] ^ x[left]
        x[turned] = ((mixed << by) | (mixed >> (32 - by))) & 0xFFFFFFFF


def chacha_block(key, counter, nonce, rounds=20):
    """The 64 bytes of RFC 8439, section 2.3, with 20 rounds; ``nonce`` has 12 bytes."""
    start = [*struct.unpack("<4I", b"expand 32-byte k"), *struct.unpack("<8I", key), counter]
    start += struct.unpack("<3I", nonce)
    x = list(start)
    for _ in range(rounds // 2):
        for column in range(4):
            quarter_round(x, column, 4 + column, 8 + column, 12 + column)
        for column in range(4):
            quarter_round(x, column, 4 + (column + 1) % 4, 8 + (column + 2) % 4, 12 + (column + 3) % 4)
    return struct.pack("<16I", *((a + b) & 0xFFFFFFFF for a, b in zip(x, start, strict=True)))


def slow_block(keystream, stream, client, step, counter):
    nonce = struct.pack("<3I", (int(stream) << 24) + step, keystream.round, client)
    return chacha_block(keystream.key, counter, nonce, 20 if keystream.secure else 8)


def slow_bytes(keystream, stream, client, step, length):
    return b"".join(slow_block(keystream, stream, client, step, n) for n in range(-(-length // 64)))[:length]


def test_the_slow_chacha_is_the_published_one():
    """RFC 8439, section 2.3.2, and the first vector of appendix A.1; 8 rounds: draft-strombergson-chacha, TC1."""
    block = chacha_block(KEY, 1, bytes.fromhex("000000090000004a00000000"))
    assert block == bytes.fromhex(
        "10f1e7e4d13b5915500fdd1fa32071c4c7d1f4c733c068030422aa9ac3d46c4e"
        "d2826446079faa0914c2d705d98b02a2b5129cd1de164eb9cbd083e8a2503c4e"
    )
    assert chacha_block(bytes(32), 0, bytes(12)).hex().startswith("76b8e0ada0f13d90405d6ae55386bd28")
    assert chacha_block(bytes(32), 0, bytes(12), rounds=8).hex() == (
        "3e00ef2f895f40d67f5bb8e81f09a5a12c840ec3ce9a7f3b181be188ef711a1e"
        "984ce172b9216f419f445367456d5619314a42a3da86b001387bfdb80e0cfe42"
    )


@BOTH
@pytest.mark.parametrize(("stream", "round_", "step", "client"), ADDRESSES)
def test_words_are_those_of_the_cipher_at_their_address(stream, round_, step, client, secure):
    keystream = Keystream(KEY, round_, secure)
    expected = [
        list(struct.unpack("<75I", slow_bytes(keystream, stream, own, step, 300))) for own in (client, 1, client)
    ]
    assert (keystream.bits(stream, ids(client, 1, client), step, 75).long() + 2**31).tolist() == expected
    assert (keystream.bits(stream, ids(client), step, 7).long() + 2**31).tolist() == [expected[0][:7]]
    blocks = keystream.blocks(stream, ids(1, client), step, 3)
    assert (blocks.dtype, blocks.shape) == (torch.int32, (16, 2, 3))
    assert blocks[:, 1].T.contiguous().numpy().tobytes() == slow_bytes(keystream, stream, client, step, 192)


@BOTH
def test_words_of_several_clients_follow_each_other(secure):
    keystream, clients, counts = Keystream(KEY, 5, secure), np.array([7, 0, 2**32 - 1, 7]), np.array([3, 0, 20, 9])
    words = keystream.words(Stream.BATCHES, clients, counts)
    slow = [slow_bytes(keystream, Stream.BATCHES, int(c), 0, 8 * n) for c, n in zip(clients, counts, strict=True)]
    assert words.tobytes() == b"".join(slow)
    assert words.dtype == np.uint64


@BOTH
@pytest.mark.parametrize("trainer", TRAINERS)
def test_every_trainer_makes_the_same_words(federation, trainer, secure):
    keystream, clients = Keystream(KEY, 5, secure), np.array([7, 0, 2**32 - 1, 2])
    for counts in ([3, 0, 20, 900], [0, 0, 0, 0], [8, 128, 129, 1]):
        made = trainer_of(federation(), trainer).words(keystream, Stream.BATCHES, clients, np.array(counts))
        assert np.array_equal(made, keystream.words(Stream.BATCHES, clients, np.array(counts)))


def test_nothing_can_be_asked_for():
    nobody = np.zeros(0, np.int64)
    assert len(PLAIN.words(Stream.BATCHES, nobody, nobody)) == 0
    assert len(PLAIN.words(Stream.BATCHES, np.arange(3), np.zeros(3, np.int64))) == 0
    for clients in (0, 3):
        for count in (0, 9):
            assert PLAIN.bits(Stream.NOISE, torch.arange(clients), 0, count).shape == (clients, count)
            assert PLAIN.normals(Stream.NOISE, torch.arange(clients), 0, count).shape == (clients, count)


def test_words_are_made_in_pieces_that_fit_together(monkeypatch):
    whole = PLAIN.bits(Stream.DROPOUT, ids(3, 8), 4, 1000)
    monkeypatch.setattr(module, "CHUNK", 7)
    assert torch.equal(PLAIN.bits(Stream.DROPOUT, ids(3, 8), 4, 1000), whole)


def test_a_word_depends_on_every_part_of_its_address():
    keys = [Keystream.of("reproducible", seed, round_) for seed in (0, 1) for round_ in (0, 1, 2**24)]
    addresses = [(stream, step) for stream in Stream for step in (0, 1, 2**16)]
    drawn = [k.bits(stream, ids(0, 1, 2**24), step, 2) for k in keys for stream, step in addresses]
    first = {tuple(words) for words in torch.cat(drawn).tolist()}
    assert len(first) == len(keys) * len(addresses) * 3


def test_reproducible_words_repeat_and_secure_ones_do_not(monkeypatch):
    assert Keystream.of("reproducible", 3, 1) == Keystream.of("reproducible", 3, 1)
    assert Keystream.of("reproducible", 3, 1).key == Keystream.of("reproducible", 3, 2).key
    assert Keystream.of("reproducible", 3, 1).key != Keystream.of("reproducible", 4, 1).key
    sizes, urandom = [], os.urandom
    monkeypatch.setattr(module.os, "urandom", lambda size: sizes.append(size) or urandom(size))
    secure = [Keystream.of("secure", 3, 1) for _ in range(10)]
    assert sizes == [32] * 10
    assert len({made.key for made in secure}) == 10
    assert all(made.secure and made.rounds == 20 and len(made.key) == 32 for made in secure)
    assert not Keystream.of("reproducible", 3, 1).secure


def test_every_job_of_a_secure_run_has_a_key_of_its_own(federation, monkeypatch):
    from fedsim.client import train_clients

    made = federation('privacy.randomness="secure"', text=SMALL + EXAMPLE_PRIVACY)
    keys, urandom = [], os.urandom
    monkeypatch.setattr(module.os, "urandom", lambda size: keys.append(urandom(size)) or keys[-1])
    first, second = (train_clients(made, job_of(made)).total for _ in range(2))
    assert len(set(keys)) == 2
    assert not np.allclose(first, second, rtol=1e-3)


# --- normals


def slow_normal(keystream, stream, client, step, position):
    """Box and Muller's, from the words of its block and pair alone."""
    group, place = divmod(position, LANES * PAIRS * 2)
    pair, place = divmod(place, LANES * 2)
    sine, lane = divmod(place, LANES)
    words = struct.unpack("<16I", slow_block(keystream, stream, client, step, group * LANES + lane))
    high, low, angle = words[3 * pair : 3 * pair + 3]
    radius = math.sqrt(-2 * math.log((high * 2**32 + low + 0.5) / 2**64))
    turn = 2 * math.pi * angle / 2**32
    return radius * (math.sin(turn) if sine else math.cos(turn))


@BOTH
@pytest.mark.parametrize(("stream", "round_", "step", "client"), ADDRESSES)
def test_normals_are_box_muller_s(stream, round_, step, client, secure):
    keystream = Keystream(KEY, round_, secure)
    normals = keystream.normals(stream, ids(1, client), step, 3 * GROUP_NORMALS + 7)
    assert (normals.dtype, normals.shape) == (torch.float64, (2, 3 * GROUP_NORMALS + 7))
    positions = [0, 1, 15, 16, 31, 32, 47, 100, 159, 160, 161, 200, 319, 320, 3 * GROUP_NORMALS + 6]
    slow = [slow_normal(keystream, stream, client, step, position) for position in positions]
    assert normals[1, positions].tolist() == pytest.approx(slow, rel=1e-12, abs=1e-14)


def test_the_words_for_extreme_normals(monkeypatch):
    """All bits zero give the longest radius, 9.42; all bits one a radius of 0, not NaN."""

    def fixed(word):
        return lambda self, stream, clients, step, count: torch.full((16, 1, count), word, dtype=torch.int32)

    monkeypatch.setattr(Keystream, "blocks", fixed(0))
    longest = math.sqrt(-2 * math.log(2.0**-65))
    assert PLAIN.normals(Stream.NOISE, ids(0), 0, 32)[0, :LANES].tolist() == pytest.approx([longest] * LANES)
    assert PLAIN.normals(Stream.NOISE, ids(0), 0, 32)[0, LANES:].tolist() == [0.0] * LANES
    monkeypatch.setattr(Keystream, "blocks", fixed(-1))
    assert PLAIN.normals(Stream.NOISE, ids(0), 0, 32).abs().max() < 1e-8


@given(st.integers(0, 500), st.integers(0, 500))
@settings(max_examples=30, deadline=None)
def test_asking_for_fewer_gives_the_same_first_numbers(few, many):
    few, many = sorted((few, many))
    clients = ids(4, 1, 9)
    whole = PLAIN.normals(Stream.NOISE, clients, 2, many)
    assert torch.equal(PLAIN.normals(Stream.NOISE, clients, 2, few), whole[:, :few])
    assert torch.equal(PLAIN.normals(Stream.NOISE, ids(9), 2, many)[0], whole[2])
    assert torch.equal(PLAIN.bits(Stream.NOISE, clients, 2, many)[:, :few], PLAIN.bits(Stream.NOISE, clients, 2, few))
    longer, shorter = (PLAIN.words(Stream.NOISE, np.array([1, 4]), np.array([n, 1])) for n in (many, few))
    assert np.array_equal(longer[:few], shorter[:few])
    assert longer[-1] == shorter[-1]


@pytest.fixture(scope="module")
def normals():
    """2 million: 1,000 clients by 2,000 numbers each."""
    return PLAIN.normals(Stream.NOISE, torch.arange(1000), 1, 2000).numpy()


def within(value, expected, deviation, deviations=DEVIATIONS):
    return abs(value - expected) <= deviations * deviation


def test_moments(normals):
    values = normals.reshape(-1)
    n, squares = len(values), values * values
    assert within(values.mean(), 0, (1 / n) ** 0.5)
    assert within(squares.mean(), 1, (2 / n) ** 0.5)
    assert within((squares * values).mean(), 0, (15 / n) ** 0.5)
    assert within((squares * squares).mean(), 3, (96 / n) ** 0.5)


def test_distribution(normals):
    assert stats.kstest(normals.reshape(-1), "norm").pvalue >= FALSE_ALARM


@pytest.mark.parametrize("deviations", [2, 3, 4])
def test_tails(normals, deviations):
    for count in ((normals > deviations).sum(), (normals < -deviations).sum()):
        assert stats.binomtest(int(count), normals.size, stats.norm.sf(deviations)).pvalue >= FALSE_ALARM


def unrelated(first, second):
    """Neither the values nor their squares are correlated."""
    n = first.size
    assert within((first * second).mean(), 0, n**-0.5)
    assert within(((first**2 - 1) * (second**2 - 1)).mean(), 0, 2 * n**-0.5)


@pytest.mark.parametrize("lag", [1, LANES, 2 * LANES, GROUP_NORMALS])
def test_neighbours_do_not_depend_on_each_other(normals, lag):
    """Those LANES apart are a cosine and a sine of the same radius."""
    unrelated(normals[:, :-lag], normals[:, lag:])


def test_clients_do_not_depend_on_each_other(normals):
    unrelated(normals[:-1], normals[1:])


@pytest.mark.parametrize(
    ("keystream", "stream", "step"),
    [
        (PLAIN, Stream.NOISE, 2),
        (PLAIN, Stream.LOCAL_NOISE, 1),
        (Keystream(KEY, round=6), Stream.NOISE, 1),
        (Keystream(KEY[::-1], round=5), Stream.NOISE, 1),
    ],
    ids=["steps", "streams", "rounds", "keys"],
)
def test_what_has_another_address_does_not_depend_on_it(normals, keystream, stream, step):
    unrelated(normals, keystream.normals(stream, torch.arange(1000), step, 2000).numpy())


# --- batches


def held_by(sizes):
    """Clients that hold so many records, numbered by 1000 times the client, out of order in ``indices``."""
    starts = np.cumsum(sizes[::-1])[::-1] - sizes  # the last client's records come first
    indices = np.empty(sum(sizes), np.int64)
    for client, (start, size) in enumerate(zip(starts, sizes, strict=True)):
        indices[start : start + size] = 1000 * client + np.arange(size)[::-1]
    return Held(indices, starts, np.array(sizes, np.int64))


def words_of(clients):
    """Each client's own words, as many as are asked for."""
    words = [np.random.default_rng(client).integers(0, 2**64, 1000, np.uint64) for client in range(clients)]
    return words, lambda counts: np.concatenate([words[client][:count] for client, count in enumerate(counts)])


def slow_epochs(held, batch_size, steps, words):
    """Pass after pass, each in the order of its own words, cut into batches."""
    found = []
    for client, (start, size, wanted) in enumerate(zip(held.starts, held.sizes, steps, strict=True)):
        batches, left, records = [], iter(words[client].tolist()), held.indices[start : start + size].tolist()
        while len(batches) < wanted:
            keys = [next(left) for _ in records]
            order = [record for _, record in sorted(zip(keys, records, strict=True))]
            batches += [order[at : at + batch_size] for at in range(0, size, batch_size)]
        found.append(batches[:wanted])
    return found


def slow_poisson(held, rates, steps, words):
    found = []
    for client, (start, size, wanted) in enumerate(zip(held.starts, held.sizes, steps, strict=True)):
        left, records = iter(words[client].tolist()), held.indices[start : start + size].tolist()
        chance = float(rates[client])
        found.append([[r for r in records if next(left) / 2**64 < chance] for _ in range(wanted)])
    return found


def check_batches(made, expected):
    """``records`` and ``lengths`` say the same as lists of each client's batches."""
    records, lengths = made
    assert lengths.shape == (len(expected), max(map(len, expected), default=0))
    for row, batches in zip(lengths.tolist(), expected, strict=True):
        assert row == [len(batch) for batch in batches] + [-1] * (len(row) - len(batches))
    assert records.tolist() == [record for batches in expected for batch in batches for record in batch]


clients_with_steps = st.lists(st.tuples(st.integers(1, 9), st.integers(0, 12)), min_size=1, max_size=5)


@given(clients_with_steps, st.integers(1, 10))
@settings(max_examples=200, deadline=None)
def test_epochs_are_reshuffled_passes(clients, batch_size):
    sizes, steps = (np.array(column) for column in zip(*clients, strict=True))
    held, (words, draw) = held_by(sizes.tolist()), words_of(len(sizes))
    check_batches(epoch_batches(held, batch_size, steps, draw), slow_epochs(held, batch_size, steps, words))


def test_each_pass_takes_every_record_once():
    sizes, batch_size, passes = [130, 64, 1, 10], 64, 5
    held, steps = held_by(sizes), np.array([-(-size // batch_size) * passes for size in sizes])
    draw = drawing(len(sizes))
    records, lengths = epoch_batches(held, batch_size, steps, draw)
    assert lengths[0].tolist() == [64, 64, 2] * passes
    parts = np.split(records, np.cumsum(np.repeat(sizes, passes))[:-1])
    for number, part in enumerate(parts):
        client = number // passes
        assert sorted(part.tolist()) == [1000 * client + place for place in range(sizes[client])]
    assert len({tuple(part.tolist()) for part in parts[:passes]}) == passes


def drawing(clients):
    return lambda counts: PLAIN.words(Stream.BATCHES, np.arange(clients), counts)


def test_all_orders_of_a_pass_are_equally_likely():
    passes = 24_000
    records, _ = epoch_batches(held_by([4]), 4, np.array([passes]), drawing(1))
    orders = Counter(map(tuple, records.reshape(passes, 4).tolist()))
    assert len(orders) == 24
    assert stats.chisquare(list(orders.values())).pvalue >= FALSE_ALARM
    # Nor does a pass follow from the one before: all 576 pairs of orders.
    pairs = Counter(map(tuple, records.reshape(passes // 2, 8).tolist()))
    assert stats.chisquare([*pairs.values(), *[0] * (576 - len(pairs))]).pvalue >= FALSE_ALARM


rates_of_clients = st.lists(
    st.tuples(st.integers(1, 9), st.integers(0, 12), st.floats(1e-6, 1.0)), min_size=1, max_size=5
)


@given(rates_of_clients)
@settings(max_examples=200, deadline=None)
def test_poisson_batches_take_the_words_below_the_rate(clients):
    sizes, steps, rates = (np.array(column) for column in zip(*clients, strict=True))
    held, (words, draw) = held_by(sizes.tolist()), words_of(len(sizes))
    check_batches(poisson_batches(held, rates, steps, draw), slow_poisson(held, rates, steps, words))


def test_a_rate_of_one_takes_all_and_a_tiny_one_none():
    held, steps = held_by([3, 70]), np.array([4, 2])
    for rate in (1.0, 1e-15):
        records, lengths = poisson_batches(held, np.full(2, rate), steps, lambda n: np.full(n.sum(), 2**64 - 1, "u8"))
        assert lengths.tolist() == ([[3] * 4, [70, 70, -1, -1]] if rate == 1 else [[0] * 4, [0, 0, -1, -1]])
        assert len(records) == (152 if rate == 1 else 0)


def test_poisson_batches_are_poisson_at_every_rate():
    sizes, steps, rates = [50, 20, 200], np.full(3, 2000), np.array([0.02, 0.9, 0.3])
    records, lengths = poisson_batches(held_by(sizes), rates, steps, drawing(3))
    for client, (size, rate) in enumerate(zip(sizes, rates, strict=True)):
        trials = 2000 * size
        assert stats.binomtest(int(lengths[client].sum()), trials, rate).pvalue >= FALSE_ALARM
        spread = ((lengths[client] - size * rate) ** 2).sum() / (size * rate * (1 - rate))
        assert within(
            spread, 2000, math.sqrt(2000 * (2 + 1 / (size * rate * (1 - rate)))), deviations=8
        )  # it is skewed
        # Each record as often as any other.
        times = np.bincount(records[records // 1000 == client] - 1000 * client, minlength=size)
        fit = ((times - 2000 * rate) ** 2).sum() / (2000 * rate * (1 - rate))
        assert stats.chi2.sf(fit, size) >= FALSE_ALARM


# --- blocks

SETTINGS = {
    "plain": ("", []),
    "by steps": ("", ["algorithm.local.steps=3"]),
    "epochs": ("", ["algorithm.local.epochs=3", "algorithm.local.batch_size=20"]),
    "private": (EXAMPLE_PRIVACY, []),
    "adaptive": (EXAMPLE_PRIVACY, ['privacy.example.clipping={kind="adaptive"}']),
    "own noise": (EXAMPLE_PRIVACY.replace("noise_multiplier = 1.1", "target_epsilon = 2.0"), []),
}


@pytest.fixture(params=SETTINGS)
def block(request, federation):
    text, overrides = SETTINGS[request.param]
    return federation(*overrides, text=SMALL + text)


def same_work(first: Work, second: Work) -> None:
    assert first.clients.tolist() == second.clients.tolist()
    assert first.records.tolist() == second.records.tolist()
    assert first.lengths.tolist() == second.lengths.tolist()
    assert (first.keystream, first.denominator, first.per_layer) == (
        second.keystream,
        second.denominator,
        second.per_layer,
    )
    assert (first.noise is None) == (second.noise is None)
    if first.noise is not None and second.noise is not None:
        kinds = [[noise.events[kind] for kind in noise.kinds] for noise in (first.noise, second.noise)]
        assert kinds[0] == kinds[1]
        totals, counts = torch.zeros(len(first.clients), 9), torch.zeros(len(first.clients))
        releases = [noise.release(totals, counts, 1) for noise in (first.noise, second.noise)]
        assert torch.equal(releases[0].totals, releases[1].totals)
        counted = [None if release.counts is None else release.counts.tolist() for release in releases]
        assert counted[0] == counted[1]
        assert releases[0].spent == releases[1].spent


def test_rows_are_those_clients_alone(block):
    whole = work_of(block)
    assert sorted(whole.clients.tolist()) == list(range(6))
    assert (np.diff(whole.steps) <= 0).all()
    for start, stop in ((0, 6), (0, 2), (2, 5), (5, 6), (3, 3)):
        same_work(whole.rows(start, stop), work_of(block, whole.clients[start:stop]))
    same_work(whole.rows(1, 5).rows(1, 3), whole.rows(2, 4))


def test_a_client_s_batches_are_the_same_in_every_block(block):
    whole = work_of(block)
    for clients in ([0], [5, 1], [4, 3, 2, 1, 0], [2, 0, 5]):
        part = work_of(block, clients)
        assert sorted(part.clients.tolist()) == sorted(clients)
        for row, client in enumerate(part.clients):
            where = whole.clients.tolist().index(client)
            assert part.steps[row] == whole.steps[where]
            for step in range(int(part.steps[row])):
                batch = part.batch(row, step)
                assert batch.tolist() == whole.batch(where, step).tolist()
                assert set(batch.tolist()) <= set(block.population.records(client).tolist())


def test_a_block_without_clients(block):
    work = work_of(block, [])
    assert (len(work.clients), len(work.records), work.lengths.shape) == (0, 0, (0, 0))


def test_a_round_s_words_are_the_federation_s(block):
    """Work by block_work, from the slow loops and the population alone."""
    job = job_of(block)
    keystream = Keystream(KEY, job.round)
    work = block_work(block, job, job.clients, keystream)
    sizes, offsets = block.population.sizes[work.clients], block.population.offsets[work.clients]
    held = Held(block.population.indices, offsets, sizes)
    words = [
        np.frombuffer(slow_bytes(keystream, Stream.BATCHES, c, 0, 8 * int(size * (steps + 1))), "<u8")
        for c, size, steps in zip(work.clients.tolist(), sizes, work.steps, strict=True)
    ]
    plan = block.plan.example
    if plan is None:
        expected = slow_epochs(held, block.scenario.algorithm.local.batch_size, work.steps, words)
    else:
        expected = slow_poisson(held, plan.rates[work.clients], work.steps, words)
    check_batches((work.records, work.lengths), expected)


def test_a_step_gathers_the_examples_of_its_batches(block):
    work = work_of(block)
    for step in range(work.lengths.shape[1]):
        batch = make_batch(block.task, work, step, [], [])
        assert len(batch.mask) == work.active(step) == int((work.steps > step).sum())
        assert batch.counts == work.lengths[: len(batch.mask), step].tolist()
        for row, count in enumerate(batch.counts):
            records = work.batch(row, step)
            assert batch.mask[row].tolist() == [place < count for place in range(batch.mask.shape[1])]
            assert torch.equal(batch.features[row, :count], block.task.features[records])
            assert torch.equal(batch.labels[row, :count], block.task.labels[records])


def test_dropout_masks_are_those_of_the_place_in_the_batch():
    """By the slow words: place after place, and in each the first layer's values before the next one's."""
    layers, shapes = [Dropout(0.3), Dropout(0.75)], [(2, 3), (5,)]
    lengths = np.array([[2, 4], [1, 3], [5, -1]])  # the last client has finished
    work = Work(np.array([8, 3, 1]), np.arange(15), lengths, PLAIN, 4)
    first, second = dropout_masks(work, 1, 4, layers, shapes, torch.device("cpu"))
    assert (first.shape, second.shape) == ((2, 4, 2, 3), (2, 4, 5))
    for row, client in enumerate((8, 3)):
        words = struct.unpack("<44I", slow_bytes(PLAIN, Stream.DROPOUT, client, 1, 176))
        for place in range(lengths[row, 1]):
            own = words[11 * place : 11 * place + 11]
            assert first[row, place].reshape(-1).tolist() == pytest.approx(
                [(word / 2**32 >= 0.3) / 0.7 for word in own[:6]]
            )
            assert second[row, place].tolist() == [(word / 2**32 >= 0.75) / 0.25 for word in own[6:]]


# --- what is released


@pytest.mark.parametrize("count_noise", [None, 2.5])
@pytest.mark.parametrize("stream", [Stream.NOISE, Stream.LOCAL_NOISE])
def test_rows_are_noised_like_one_sum_after_the_other(count_noise, stream):
    """A row's noise is the deviation of its event times its client's own normals; its count's comes after them."""
    events = (Event(1.1, 0.3, "poisson"), Event(0.6, 1.0, "poisson"))
    kinds, clients = np.array([1, 0, 1, 1]), np.array([6, 2, 0, 9])
    sums = GaussianSums(clients, events, kinds, 0.7, count_noise, PLAIN, stream)
    totals, counts = (
        torch.arange(51, dtype=torch.float32).reshape(3, 17),
        torch.tensor([2.5, -1.0, 0.5], dtype=torch.float64),
    )
    released = sums.release(totals, counts, step=4)
    assert released.totals.dtype == torch.float32
    for row in range(3):
        one = GaussianSum(events[kinds[row]], 0.7, count_noise)
        noise = [slow_normal(PLAIN, stream, int(clients[row]), 4, position) for position in range(18)]
        expected = [float(total) + one.deviation * z for total, z in zip(totals[row], noise, strict=False)]
        assert released.totals[row].tolist() == pytest.approx(expected, rel=1e-6, abs=1e-6)
        if count_noise is not None:
            assert float(released.counts[row]) == pytest.approx(float(counts[row]) + count_noise * noise[17], rel=1e-12)
    assert (released.counts is None) == (count_noise is None)
    assert released.spent == {events[0]: 1, events[1]: 2}
    assert sums.spent(np.array([3, 0, 2])) == {events[1]: 5}
    assert sums.spent(np.array([0, 4, 0, 1])) == {events[0]: 4, events[1]: 1}
