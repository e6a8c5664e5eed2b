"""The cryptographic generator: its key stream by the RFC, its distributions by statistics, its secrecy by trying.

False alarms: each of the 33 statistical comparisons below fails a right generator with probability at most 2e-8, by the
exact distribution, the inequality of Dvoretzky, Kiefer, Wolfowitz and Massart, or the central limit theorem at over 6
standard deviations; together at most 7e-7 a run.
"""

from __future__ import annotations

import copy
import math
import os
import pickle
from collections import Counter

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from scipy import stats
from scipy.special import ndtr

from fedsim.privacy import secure
from fedsim.privacy.mechanism import RandomSource
from fedsim.privacy.sampling import Fixed, Poisson
from fedsim.privacy.secure import SecureGenerator, key_stream, polar_normals

FALSE_ALARM = 1e-8
DEVIATIONS = 6.0  # a normal is further out with probability 2e-9

# RFC 8439, appendix A.1, test vectors 1 and 2: key, nonce 0, counter 0 and 1.
RFC_8439 = bytes.fromhex(
    "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"
    "da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586"
    "9f07e7be5551387a98ba977c732d080dcb0f29a048e3656912c6533e32ee7aed"
    "29b721769ce64e43d57133b074d839d531ed1f28510afb45ace10a1f4b794d6f"
)


@pytest.fixture(scope="module")
def normals():
    return SecureGenerator().standard_normal(20_000_000)


@pytest.fixture
def entropy(monkeypatch):
    """The system hands out these keys, one after the other."""
    keys = [bytes(32), *(bytes([number]) * 32 for number in range(1, 9))]
    left = iter(keys)
    monkeypatch.setattr(secure.os, "urandom", lambda size: next(left)[:size])
    return keys


def within(value, expected, deviation):
    return abs(value - expected) <= DEVIATIONS * deviation


def fits(counts, expected):
    """Chi-squared: whether the counts are those of the expected frequencies."""
    return stats.chisquare(counts, expected).pvalue >= FALSE_ALARM


# --- the key stream


def test_the_words_are_the_key_stream_of_rfc_8439(entropy):
    assert SecureGenerator()._words(len(RFC_8439) // 8).tobytes() == RFC_8439


def test_the_words_are_the_cipher_of_the_cryptography_package_in_pieces_of_any_size(entropy):
    generator, total = SecureGenerator(), 3 * secure.SLICE + 5
    words = np.concatenate([generator._words(n) for n in (1, 0, 7, secure.SLICE + 1, total - secure.SLICE - 9)])
    cipher = Cipher(algorithms.ChaCha20(entropy[0], nonce=bytes(16)), mode=None).encryptor()
    assert words.tobytes() == cipher.update(bytes(8 * total))


def test_a_key_serves_a_limited_number_of_bytes(entropy, monkeypatch):
    monkeypatch.setattr(secure, "KEY_BYTES", 1024)
    generator = SecureGenerator()
    blocks = [generator._words(64).tobytes() for _ in range(6)]
    for key, first, second in zip(entropy, blocks[::2], blocks[1::2], strict=False):
        assert first + second == key_stream(key).update(bytes(1024))


def test_a_new_generator_has_a_new_key_of_the_system(monkeypatch):
    sizes = []
    urandom = os.urandom
    monkeypatch.setattr(secure.os, "urandom", lambda size: sizes.append(size) or urandom(size))
    words = np.concatenate([SecureGenerator()._words(1000) for _ in range(3)])
    assert sizes == [32, 32, 32]
    assert len(set(words.tolist())) == 3000  # equal words by chance: 3e-13


# --- secrecy


@pytest.mark.parametrize("take", [pickle.dumps, copy.copy, copy.deepcopy])
def test_it_cannot_be_saved_or_copied(take):
    with pytest.raises(TypeError, match="cannot be pickled or copied"):
        take(SecureGenerator())


def test_it_takes_no_seed_and_shows_no_key(monkeypatch):
    with pytest.raises(TypeError):
        SecureGenerator(0)
    monkeypatch.setattr(secure.os, "urandom", lambda size: b"k" * size)
    generator = SecureGenerator()
    assert repr(generator) == str(generator) == "SecureGenerator(ChaCha20, keyed by the operating system)"
    assert not any(b"k" * 32 in str(getattr(generator, name)).encode() for name in SecureGenerator.__slots__)
    assert not hasattr(generator, "__dict__")


def in_child(compute):
    """The bytes that ``compute`` returns in a forked child."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, compute())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        answer = stream.read()
    os.waitpid(child, 0)
    assert answer
    return answer


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # other tests may have left threads
@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize("same_process_number", [False, True])
def test_a_forked_child_draws_something_else(used, same_process_number, monkeypatch):
    if same_process_number:
        monkeypatch.setattr(secure.os, "getpid", lambda: 4711)
    generator = SecureGenerator()
    if used:
        generator.random(10)
    answers = [in_child(lambda: generator._words(16).tobytes()) for _ in range(2)]
    answers.append(in_child(lambda: in_child(lambda: generator._words(16).tobytes())))
    answers.append(generator._words(16).tobytes())
    assert len(set(answers)) == 4


def test_a_process_number_of_its_own_is_enough_to_draw_something_else(entropy, monkeypatch):
    generator = SecureGenerator()
    monkeypatch.setattr(secure.os, "getpid", lambda: 4711)
    assert generator._words(2).tobytes() == key_stream(entropy[1]).update(bytes(16))


# --- normals


def test_moments(normals):
    n = len(normals)
    squares = normals * normals
    assert within(normals.mean(), 0, (1 / n) ** 0.5)
    assert within(squares.mean(), 1, (2 / n) ** 0.5)
    assert within((squares * normals).mean(), 0, (15 / n) ** 0.5)
    assert within((squares * squares).mean(), 3, (96 / n) ** 0.5)


def test_distribution(normals):
    ordered, n = ndtr(np.sort(normals)), len(normals)
    distance = max((np.arange(1, n + 1) / n - ordered).max(), (ordered - np.arange(n) / n).max())
    assert distance <= math.sqrt(math.log(2 / FALSE_ALARM) / (2 * n))


@pytest.mark.parametrize("deviations", [3, 4, 5])
def test_tails(normals, deviations):
    for count in ((normals > deviations).sum(), (normals < -deviations).sum()):
        assert stats.binomtest(int(count), len(normals), stats.norm.sf(deviations)).pvalue >= FALSE_ALARM


@pytest.mark.parametrize("lag", [1, 1000])
def test_draws_do_not_depend_on_each_other(normals, lag):
    first, second = normals[:-lag], normals[lag:]
    assert within((first * second).mean(), 0, len(first) ** -0.5)
    assert within(((first**2 - 1) * (second**2 - 1)).mean(), 0, 2 * len(first) ** -0.5)


def test_the_two_normals_of_a_point_do_not_depend_on_each_other():
    x, y = 2 * SecureGenerator().random((2, 2_000_000)) - 1
    first, second = polar_normals(x, y).reshape(2, -1)
    assert within(len(first), math.pi / 4 * len(x), (math.pi / 4 * (1 - math.pi / 4) * len(x)) ** 0.5)
    assert within((first * second).mean(), 0, len(first) ** -0.5)
    assert within(((first**2 - 1) * (second**2 - 1)).mean(), 0, 2 * len(first) ** -0.5)


def test_tails_reach_beyond_twelve_standard_deviations():
    # A point at distance exp(-r^2 / 4) of the centre is a pair of normals of length r (Marsaglia and Bray 1964).
    lengths = np.arange(1.0, 13.0)
    made = polar_normals(np.exp(-(lengths**2) / 4), np.zeros(len(lengths)))
    np.testing.assert_allclose(made[: len(lengths)], lengths, rtol=1e-9)
    # Words of 64 bits are fine enough to lie there: 8 standard deviations are 1e12 steps from the centre.
    steps = secure._signed(np.array([0, 1, 2, 2**63, 2**64 - 1], np.uint64)) * 2.0**63
    assert steps.tolist() == [0, 1, 2, -(2**63), -1]
    assert polar_normals(secure._signed(np.array([1], np.uint64)), np.zeros(1))[0] > 13


def test_points_at_the_centre_or_outside_the_circle_are_dropped():
    assert len(polar_normals(np.array([0.0, 1.0, -1.0, 0.9]), np.array([0.0, 0.0, 0.3, 0.9]))) == 0


def test_single_precision_is_double_precision_rounded_once(monkeypatch):
    monkeypatch.setattr(secure.os, "urandom", lambda size: b"\x05" * size)
    single = SecureGenerator().standard_normal((300, 401), dtype=np.float32)
    double = SecureGenerator().standard_normal((300, 401))
    assert (single.dtype, double.dtype, single.shape) == (np.float32, np.float64, (300, 401))
    assert np.array_equal(single, double.astype(np.float32))


@pytest.mark.parametrize("size", [0, 1, 2, 9, 1000, 2**15 + 1])
def test_sizes(size):
    generator = SecureGenerator()
    assert isinstance(generator, RandomSource)
    normals = generator.standard_normal(size)
    assert normals.shape == generator.random(size).shape == (size,)
    assert np.isfinite(normals).all()
    assert len(set(normals.tolist())) == size


# --- uniform, counts and subsets


def test_uniform():
    values = SecureGenerator().random((1000, 1000))
    assert 0 <= values.min() <= values.max() < 1
    assert np.array_equal(values * 2**53, np.floor(values * 2**53))
    assert fits(np.histogram(values, 100, (0, 1))[0], [10_000] * 100)
    assert fits(np.bincount((values.ravel() * 2**53).astype(np.int64) % 64, minlength=64), [1e6 / 64] * 64)


@pytest.mark.parametrize(("word", "value"), [(0, 0.0), (2**11 - 1, 0.0), (2**11, 2.0**-53), (2**64 - 1, 1 - 2.0**-53)])
def test_uniform_never_reaches_one(monkeypatch, word, value):
    monkeypatch.setattr(SecureGenerator, "_words", lambda self, count: np.full(count, word, np.uint64))
    assert SecureGenerator().random(3).tolist() == [value] * 3


def test_binomial():
    generator = SecureGenerator()
    counts = np.bincount([generator.binomial(6, 0.4) for _ in range(20_000)], minlength=7)
    assert fits(counts, stats.binom.pmf(range(7), 6, 0.4) * 20_000)
    large = generator.binomial(3_000_000, 0.25)
    assert stats.binomtest(large, 3_000_000, 0.25).pvalue >= FALSE_ALARM
    assert [generator.binomial(n, p) for n, p in ((0, 0.5), (70_000, 0.0), (70_000, 1.0))] == [0, 0, 70_000]


@pytest.mark.parametrize(("n", "p"), [(-1, 0.5), (3, -0.1), (3, 1.1), (3, math.nan)])
def test_binomial_refuses(n, p):
    with pytest.raises(ValueError, match="a binomial needs"):
        SecureGenerator().binomial(n, p)


def test_all_ordered_subsets_are_equally_likely():
    generator = SecureGenerator()
    counts = Counter(tuple(generator.choice(5, 2, replace=False).tolist()) for _ in range(10_000))
    assert len(counts) == 20
    assert fits(list(counts.values()), [500] * 20)
    orders = Counter(tuple(generator.permutation(4).tolist()) for _ in range(12_000))
    assert len(orders) == 24
    assert fits(list(orders.values()), [500] * 24)


@pytest.mark.parametrize("size", [0, 1, 700, 1000])
def test_subsets_hold_distinct_numbers(size):
    chosen = SecureGenerator().choice(1000, size, replace=False)
    assert chosen.dtype == np.int64
    assert len(set(chosen.tolist())) == len(chosen) == size
    assert all(0 <= number < 1000 for number in chosen)


@pytest.mark.parametrize(("size", "replace"), [(4, False), (-1, False), (2, True)])
def test_subsets_that_cannot_be_drawn_are_refused(size, replace):
    with pytest.raises(ValueError, match="only draws without replacement"):
        SecureGenerator().choice(3, size, replace=replace)


def test_equal_keys_are_drawn_anew(monkeypatch):
    keys = iter([[7, 7, 9, 9], [5, 1, 5, 9], [1, 2, 2, 3], [4, 3, 9, 9]])
    monkeypatch.setattr(SecureGenerator, "_words", lambda self, count: np.array(next(keys), np.uint64))
    assert SecureGenerator().choice(4, 2, replace=False).tolist() == [1, 0]
    assert next(keys, None) is None


def test_a_permutation_keeps_the_rows_of_an_array():
    rows = np.arange(30).reshape(10, 3)
    shuffled = SecureGenerator().permutation(rows)
    assert sorted(shuffled.tolist()) == rows.tolist()
    assert np.array_equal(rows, np.arange(30).reshape(10, 3))


# --- what the privacy plan samples


def times_drawn(sampling, rounds, clients):
    generator = SecureGenerator()
    return np.bincount(np.concatenate([sampling.draw(clients, 1, generator) for _ in range(rounds)]), minlength=clients)


def test_poisson_cohorts():
    rounds, clients, rate = 2000, 500, 0.1
    counts = times_drawn(Poisson(rate=rate), rounds, clients)
    deviation = (rounds * rate * (1 - rate)) ** 0.5
    assert stats.binomtest(int(counts.sum()), rounds * clients, rate).pvalue >= FALSE_ALARM
    assert stats.chi2.sf((((counts - rounds * rate) / deviation) ** 2).sum(), clients) >= FALSE_ALARM


def test_fixed_cohorts():
    counts = times_drawn(Fixed(size=20), 2000, 200)
    assert counts.sum() == 40_000
    # Each count is binomial and their sum is fixed, which leaves 199 degrees of freedom.
    assert stats.chi2.sf(((counts - 200) ** 2).sum() / 180 * 199 / 200, 199) >= FALSE_ALARM


def test_poisson_batches():
    chosen = SecureGenerator().random((4000, 50)) < 0.02
    assert stats.binomtest(int(chosen.sum()), chosen.size, 0.02).pvalue >= FALSE_ALARM
    sizes = np.bincount(np.minimum(chosen.sum(1), 4), minlength=5)
    expected = stats.binom.pmf(range(4), 50, 0.02) * 4000
    assert fits(sizes, [*expected, 4000 - expected.sum()])
