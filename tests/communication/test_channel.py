"""Reports on their way: parts, sizes, random words of one's own, and error feedback."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedsim.communication import Channel, Communication, drawn_words
from fedsim.communication.fp16 import Fp16
from fedsim.communication.none import Uncompressed
from fedsim.communication.qsgd import Qsgd
from fedsim.communication.sign import Sign
from fedsim.communication.top_k import TopK
from fedsim.privacy.keystream import Keystream
from fedsim.seeding import Stream

NO_WORDS = torch.zeros(3, 0, dtype=torch.int32)


class Plain:
    """Makes words as the key stream does."""

    def words(self, keystream, stream, clients, counts):
        return keystream.words(stream, clients, counts)


def normals(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def channel(compression, params=10, report=10, error_feedback=False):
    return Channel(Communication(compression=compression, error_feedback=error_feedback), params, report)


def test_every_vector_is_compressed_by_itself_and_single_numbers_not_at_all():
    """A control variate a million times as large as the update, and a number of steps."""
    reports = torch.cat([normals(3, 10), 1e6 * normals(3, 10, seed=1), torch.tensor([[7.0], [8.0], [9.0]])], dim=1)
    whole = channel(Sign(), report=21)
    restored, _ = whole.carried(reports, torch.zeros(3, 0), NO_WORDS)
    assert torch.equal(restored[:, :10], Sign().restored(reports[:, :10], NO_WORDS))
    assert torch.equal(restored[:, 10:20], Sign().restored(reports[:, 10:20], NO_WORDS))
    assert restored[:, 20].tolist() == [7, 8, 9]
    assert whole.bytes_up == 2 * (4 + 2) + 4
    assert channel(Uncompressed(), report=21).bytes_up == 84
    assert channel(TopK(share=0.1)).bytes_up == 1 + 4


def test_each_vector_has_random_words_of_its_own():
    same = normals(1, 400).repeat(3, 2)
    both = channel(Qsgd(bits=2), params=400, report=800)
    words = drawn_words(Plain(), Keystream.of("reproducible", 0, 1), np.arange(3), both.words)
    restored, _ = both.carried(same, torch.zeros(3, 0), words)
    assert both.words == 800
    assert not torch.equal(restored[:, :400], restored[:, 400:])
    assert not torch.equal(restored[0], restored[1])


@pytest.mark.parametrize("count", [0, 1, 7, 40])
def test_words_belong_to_a_client_and_a_round(count):
    """They are the key stream's, so no order or block of clients shows in them."""
    keystream = Keystream.of("reproducible", 5, 3)
    words = drawn_words(Plain(), keystream, np.array([4, 1, 9]), count)
    assert words.shape == (3, count)
    assert torch.equal(words[[1]], drawn_words(Plain(), keystream, np.array([1]), count))
    raw = keystream.bits(Stream.COMPRESSION, torch.tensor([4, 1, 9]), 0, count)
    assert torch.equal(words, raw.bitwise_xor(-(2**31)))
    other = drawn_words(Plain(), Keystream.of("reproducible", 5, 4), np.array([4, 1, 9]), count)
    assert count == 0 or not torch.equal(words, other)


def test_error_feedback_is_that_of_the_paper():
    """Karimireddy et al. 2019, algorithm 2, value by value: p = g + e, send C(p), keep e = p - C(p)."""
    sends, lost = channel(Sign(), error_feedback=True), torch.zeros(3, 10)
    errors = np.zeros((3, 10))
    for step in range(20):
        updates = normals(3, 10, seed=step)
        restored, lost = sends.carried(updates, lost, NO_WORDS)
        for row in range(3):
            wanted = [float(u) + e for u, e in zip(updates[row], errors[row], strict=True)]
            scale = sum(map(abs, wanted)) / 10
            sent = [scale if value >= 0 else -scale for value in wanted]
            errors[row] = [w - s for w, s in zip(wanted, sent, strict=True)]
            torch.testing.assert_close(restored[row].double(), torch.tensor(sent).double(), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(lost.double(), torch.from_numpy(errors), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("compression", [TopK(share=0.1), Sign(), Fp16()])
def test_with_error_feedback_nothing_is_lost_for_good(compression):
    """What was sent in all rounds and what is still kept is the sum of the updates."""
    sends, lost = channel(compression, error_feedback=True), torch.zeros(3, 10)
    total, arrived = torch.zeros(3, 10), torch.zeros(3, 10)
    for step in range(30):
        updates = normals(3, 10, seed=step)
        total += updates
        restored, lost = sends.carried(updates, lost, NO_WORDS)
        arrived += restored
    torch.testing.assert_close(arrived + lost, total, rtol=1e-4, atol=1e-4)
    assert sends.state_size == 10
    assert channel(compression).state_size == 0


def test_a_client_with_an_invalid_report_keeps_what_it_had_lost():
    sends, before = channel(TopK(share=0.1), error_feedback=True), normals(3, 10, seed=1)
    updates = normals(3, 10)
    updates[1, 9] = torch.nan
    restored, lost = sends.carried(updates, before, NO_WORDS)
    assert torch.isfinite(restored).all(dim=1).tolist() == [True, False, True]
    assert torch.equal(lost[1], before[1])
    assert torch.isfinite(lost).all()
    assert not torch.equal(lost[0], before[0])
