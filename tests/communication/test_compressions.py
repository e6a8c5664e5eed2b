"""Every compression against a slow one, its messages against what they are said to be, and the papers' bounds."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from fedsim.communication import COMPRESSIONS
from fedsim.communication.fp16 import Fp16
from fedsim.communication.int8 import Int8
from fedsim.communication.none import Uncompressed
from fedsim.communication.qsgd import Qsgd
from fedsim.communication.random_k import RandomK
from fedsim.communication.sign import Sign
from fedsim.communication.top_k import TopK
from fedsim.privacy.keystream import Keystream
from fedsim.seeding import Stream
from tests.communication import oracle

CASES = [
    Uncompressed(),
    TopK(share=0.05),
    TopK(share=0.4),
    RandomK(share=0.1),
    RandomK(share=0.1, unbiased=False),
    Qsgd(bits=2),
    Qsgd(bits=4),
    Qsgd(bits=16),
    Sign(),
    Fp16(),
    Int8(),
    Int8(rounding="nearest"),
]
UNBIASED = [RandomK(share=0.25), Qsgd(bits=2), Qsgd(bits=5), Int8()]
SIZES = [1, 2, 3, 8, 9, 257]


def normals(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def words_of(compression, rows, size, seed=1):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.integers(-(2**31), 2**31, (rows, compression.words(size))).astype(np.int32))


def named(compression):
    return "-".join(str(value) for value in dataclasses.asdict(compression).values())


every = pytest.mark.parametrize("compression", CASES, ids=named)


def test_every_entry_of_the_table_is_tested():
    assert {type(case) for case in CASES} == set(COMPRESSIONS.values())


@every
@pytest.mark.parametrize("size", SIZES)
def test_it_does_what_it_does_value_by_value(compression, size):
    """Rows of very different lengths, one with ties, and one of zeros; equal to a few parts in ten million."""
    rows = normals(7, size) * torch.tensor([1.0, 1e-4, 1e-30, 30.0, 1e3, 1.0, 0.0])[:, None]
    rows[5] = rows[5].round()
    words = words_of(compression, 7, size)
    settings = dataclasses.asdict(compression)
    slow = getattr(oracle, settings.pop("kind"))
    expected = [slow(row, own, **settings) for row, own in zip(rows.tolist(), words.tolist(), strict=True)]
    restored = compression.restored(rows, words)
    assert restored.dtype == torch.float32
    torch.testing.assert_close(restored, torch.tensor(expected, dtype=torch.float32), rtol=4e-7, atol=0)


@every
@pytest.mark.parametrize("size", SIZES)
def test_a_message_has_the_bytes_that_it_claims_and_says_what_the_server_makes_of_it(compression, size):
    rows = normals(4, size) * torch.tensor([1.0, 1e-3, 0.0, torch.nan])[:, None]
    words = words_of(compression, 4, size)
    restored = compression.restored(rows, words)
    for row, own, expected in zip(rows, words, restored, strict=True):
        message = compression.encode(row, own)
        assert isinstance(message, bytes)
        assert len(message) == compression.bytes_of(size)
        torch.testing.assert_close(compression.decode(message, size), expected, rtol=0, atol=0, equal_nan=True)


def test_the_sizes_by_hand():
    """A thousand values: positions below 1000 take 10 bits, or a mark each where that is shorter."""
    sizes = {
        Uncompressed(): 4000,
        TopK(share=0.01): 13 + 40,  # ten positions are 100 bits
        TopK(share=0.2): 125 + 800,
        RandomK(share=0.01): 4 + 40,
        Qsgd(bits=2): 4 + 250,
        Qsgd(bits=5): 4 + 625,
        Sign(): 4 + 125,
        Fp16(): 2000,
        Int8(): 4 + 1000,
    }
    assert {compression: compression.bytes_of(1000) for compression in sizes} == sizes


@every
def test_no_result_depends_on_the_block(compression):
    rows, words = normals(6, 100), words_of(compression, 6, 100)
    whole = compression.restored(rows, words)
    parts = [compression.restored(rows[part], words[part]) for part in (slice(0, 1), slice(1, 4), slice(4, 6))]
    assert torch.equal(whole, torch.cat(parts))


@every
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_row_that_is_not_finite_arrives_as_one_and_touches_no_other(compression, bad):
    """Wherever the value stands: also where it would not have been sent."""
    rows, words = normals(40, 40), words_of(compression, 40, 40)
    expected = compression.restored(rows, words)
    broken = rows.clone()
    broken[torch.arange(39), torch.arange(39)] = bad
    restored = compression.restored(broken, words)
    assert not torch.isfinite(restored).all(dim=1)[:39].any()
    assert torch.equal(restored[39], expected[39])


@every
def test_zeros_stay_zeros(compression):
    zeros = torch.zeros(3, 50)
    assert torch.equal(compression.restored(zeros, words_of(compression, 3, 50)).abs(), zeros)


@every
def test_what_is_given_is_not_changed(compression):
    rows, words = normals(3, 50), words_of(compression, 3, 50)
    before = rows.clone(), words.clone()
    compression.restored(rows, words)
    assert torch.equal(rows, before[0])
    assert torch.equal(words, before[1])


@every
@pytest.mark.parametrize("scale", [1e-44, 1e-38, 1e30])
def test_extreme_lengths_stay_finite(compression, scale):
    """Down to the smallest numbers that there are, and up to where the scaling of random places is still finite."""
    rows = (normals(3, 50).double() * scale).float()
    assert torch.isfinite(compression.restored(rows, words_of(compression, 3, 50))).all()


@pytest.mark.parametrize("compression", UNBIASED, ids=named)
def test_it_is_unbiased(compression):
    """The mean of 20,000 messages: each of 12 values within 5 standard errors; a false alarm once in 100,000 runs.

    The deviation is known to a percent, so 5 of them are 4.95 at worst: 12 values x 7e-7, for one of four compressions.
    """
    row = normals(1, 12)
    draws = 20_000
    restored = compression.restored(row.repeat(draws, 1), words_of(compression, draws, 12)).double()
    errors = restored.std(dim=0) / math.sqrt(draws)
    assert ((restored.mean(dim=0) - row[0]).abs() <= 5 * errors + 1e-6).all()
    assert (restored.std(dim=0) > 0).any()


@pytest.mark.parametrize("bits", [2, 3, 5])
def test_the_variance_of_qsgd_is_within_the_paper_s_bound(bits):
    """Alistarh et al. 2017, lemma 3.1: at most min(n / s^2, sqrt(n) / s) |v|^2; the mean of 2,000, 5 % allowed."""
    size, levels = 60, 2 ** (bits - 1) - 1
    row = normals(1, size)
    restored = Qsgd(bits=bits).restored(row.repeat(2000, 1), words_of(Qsgd(bits=bits), 2000, size))
    error = float((restored - row).square().sum(dim=1).mean() / row.square().sum())
    assert 0 < error <= 1.05 * min(size / levels**2, math.sqrt(size) / levels)


def test_the_error_of_top_k_is_within_the_paper_s_bound():
    """Stich et al. 2018, lemma A.1: at most (1 - k / n) |v|^2, reached where all values are equal."""
    rows = torch.cat([normals(50, 64), torch.ones(1, 64)])
    lost = (TopK(share=0.25).restored(rows, torch.empty(51, 0, dtype=torch.int32)) - rows).square().sum(dim=1)
    bound = 0.75 * rows.square().sum(dim=1)
    assert (lost <= bound).all()
    assert lost[50] == bound[50]
    assert (lost[:50] < 0.5 * bound[:50]).all()


def test_the_error_of_signs_is_what_the_paper_says():
    """Karimireddy et al. 2019, lemma 8: (1 - |v|_1^2 / (n |v|_2^2)) |v|^2, zeros among the values or not."""
    rows = normals(50, 64)
    rows[:, :3] = 0
    lost = (Sign().restored(rows, torch.empty(50, 0, dtype=torch.int32)) - rows).double().square().sum(dim=1)
    squares, sums = rows.double().square().sum(dim=1), rows.double().abs().sum(dim=1)
    torch.testing.assert_close(lost, squares - sums**2 / 64, rtol=1e-5, atol=0)


def test_the_error_of_unscaled_random_places_is_the_paper_s_on_average():
    """Stich et al. 2018, lemma A.1: (1 - k / n) |v|^2; the mean of 4,000 within 5 standard errors (once in 10^6)."""
    row = normals(1, 40)
    compression = RandomK(share=0.25, unbiased=False)
    lost = (compression.restored(row.repeat(4000, 1), words_of(compression, 4000, 40)) - row).square().sum(dim=1)
    share = lost / row.square().sum()
    assert float(share.mean()) == pytest.approx(0.75, abs=5 * float(share.std()) / math.sqrt(4000))


@pytest.mark.parametrize("compression", [case for case in CASES if case.contracts], ids=named)
def test_what_contracts_loses_less_than_the_whole(compression):
    """On average over random places, always for the others."""
    rows = torch.cat([normals(30, 50), normals(30, 50, seed=2) ** 5, torch.ones(1, 50)])
    lost = (compression.restored(rows, words_of(compression, 61, 50)) - rows).norm(dim=1)
    if isinstance(compression, RandomK):
        assert lost.square().sum() < rows.square().sum()
    else:
        assert (lost < rows.norm(dim=1)).all()


def test_a_number_off_a_grid_of_16_bits_is_cut_and_stays_finite():
    row = torch.tensor([[1e5, -1e30, 65504.0, 1e-9]])
    assert Fp16().restored(row, torch.empty(1, 0, dtype=torch.int32)).tolist() == [[65504.0, -65504.0, 65504.0, 0.0]]


def test_places_are_uniform():
    """Chi-squared of 3,000 draws of 3 out of 12 places, 9 degrees of freedom fewer variance: below 40 (once in 10^4).

    Without replacement the counts vary by (1 - 3/12) as much, so the statistic's mean is 11 x 0.75.
    """
    compression = RandomK(share=0.25, unbiased=False)
    sent = compression.restored(torch.ones(3000, 12), words_of(compression, 3000, 12))
    assert (sent.sum(dim=1) == 3).all()
    counts = sent.sum(dim=0)
    assert float(((counts - 750) ** 2 / 750).sum()) < 40 * 0.75


def test_the_words_of_a_client_s_key_stream_will_do():
    """The int32 words that clients draw: as uniform as any."""
    clients = torch.arange(2000, dtype=torch.int32)
    words = Keystream.of("reproducible", 0, 1).bits(Stream.COMPRESSION, clients, 0, 12)
    row = normals(1, 12)
    restored = Qsgd(bits=3).restored(row.repeat(2000, 1), words).double()
    assert ((restored.mean(dim=0) - row[0]).abs() <= 5 * restored.std(dim=0) / math.sqrt(2000) + 1e-6).all()


def test_messages_that_no_client_can_have_sent_are_refused():
    sent = TopK(share=0.05).encode(normals(257), torch.empty(0, dtype=torch.int32))
    for compression, message, size, reason in (
        (Sign(), b"\0" * 9, 32, "has 9 bytes; 8 are expected"),
        (Int8(), b"\0\0\x80\x3f\xff", 1, "a code is above 254"),
        (Qsgd(bits=4), b"\0\0\x80\x3f\x0f", 1, "a code is above 14"),
        (TopK(share=0.5), b"\x07" + b"\0" * 16, 8, "more or fewer marks"),
        (TopK(share=0.05), b"\xff" * len(sent), 257, "positions do not ascend"),
        (TopK(share=0.05), b"\0" * len(sent), 257, "positions do not ascend"),
    ):
        with pytest.raises(ValueError, match=reason):
            compression.decode(message, size)
