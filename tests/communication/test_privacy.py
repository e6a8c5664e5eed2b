"""Compression leaves guarantees as they are; each way to get that wrong must turn a check red, as in test_mutations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

import fedsim
import fedsim.checks
import fedsim.updates
from fedsim.client import train_clients
from fedsim.client_store import ClientStore
from fedsim.communication import base, random_k, transport
from fedsim.errors import FedsimError
from fedsim.federation import build_federation
from fedsim.privacy.clipping import clip_rows
from fedsim.privacy.keystream import Keystream
from fedsim.seeding import Stream
from fedsim.training.trainer import Trainer
from tests.conftest import CLIENT_PRIVACY, EXAMPLE_PRIVACY, SMALL, job_of

LOCAL_PRIVACY = CLIENT_PRIVACY + 'placement = "client"\n'
KINDS = {
    "random_k": 'communication.compression={kind="random_k", share=0.05}',
    "top_k": 'communication.compression={kind="top_k", share=0.05}',
    "qsgd": 'communication.compression={kind="qsgd", bits=2}',
    "sign": 'communication.compression={kind="sign"}',
}
FEEDBACK = "communication.error_feedback=true"
STILL = "algorithm.local.learning_rate=1e-12"


def build(text, *overrides):
    return build_federation(fedsim.parse_scenario(SMALL + text, "small", (*overrides, "engine.trainer=vectorised")))


# --- checks


def one_client_moves_the_sum_by_at_most_the_clip_norm(folder):
    """Whatever compression makes of its update: places that are sent alone count twenty times, levels are few."""
    for kind in ("random_k", "qsgd"):
        made = build(CLIENT_PRIVACY, KINDS[kind], "privacy.client.clip_norm=0.01")
        whole = train_clients(made, job_of(made)).total
        for client in range(6):
            without = train_clients(made, job_of(made, [c for c in range(6) if c != client])).total
            assert 0 < np.linalg.norm(whole - without) <= 0.01 * (1 + 1e-6)


def no_state_lets_a_client_contribute_more(folder):
    """A client that keeps a million times as much as it may send."""
    made = build(CLIENT_PRIVACY, KINDS["top_k"], FEEDBACK, "privacy.client.clip_norm=0.01")
    store = ClientStore(folder / "state", 6, made.state_size)
    store.write(1, np.arange(6), np.full((6, made.state_size), 1e4, np.float32))
    assert np.linalg.norm(train_clients(made, job_of(made, [2]), store).total) <= 0.01 * (1 + 1e-6)


def what_leaves_the_device_is_made_of_noise(folder):
    """An update of nothing but local noise arrives as its signs, and what is kept beside them is noise as well.

    610 values of deviation 1.2 x 0.4, whose mean magnitude is known to 3 %: within 15 %, 5 standard errors.
    """
    made = build(LOCAL_PRIVACY, KINDS["sign"], FEEDBACK, STILL)
    store = ClientStore(folder / "state", 6, made.state_size)
    sent = train_clients(made, job_of(made, [0]), store).total
    magnitude = 1.2 * 0.4 * np.sqrt(2 / np.pi)
    assert len(np.unique(np.abs(sent))) == 1
    assert abs(sent[0]) == pytest.approx(magnitude, rel=0.15)
    noised = sent + store.read(np.array([0]))[0]
    assert np.abs(noised).mean() == pytest.approx(magnitude, rel=0.15)


def messages_hold_no_word_that_noise_is_made_of(folder):
    """Random places are sent as the word that they follow from, which must tell nothing of batches and noise."""
    drawn = {}
    chacha = Keystream._chacha

    def watched(self, stream, step, *where):
        made = chacha(self, stream, step, *where)
        if self.key != random_k.PUBLIC.key:
            drawn.setdefault(stream, []).append(made.t().contiguous().numpy().view(np.uint64).reshape(-1))
        return made

    made = build(EXAMPLE_PRIVACY + LOCAL_PRIVACY, KINDS["random_k"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Keystream, "_chacha", watched)
        train_clients(made, job_of(made))
    assert drawn.keys() == {Stream.BATCHES, Stream.NOISE, Stream.LOCAL_NOISE, Stream.COMPRESSION}
    words = np.concatenate([part for parts in drawn.values() for part in parts])
    assert len(np.unique(words)) == len(words)


def a_cohort_of_fixed_size_keeps_its_secret(folder):
    fixed = ('cohort.sampling={kind="fixed", size=2}', KINDS["top_k"], FEEDBACK)
    fedsim.parse_scenario(SMALL + CLIENT_PRIVACY, "small", fixed)
    with pytest.raises(FedsimError, match="error_feedback = true: what a client has lost tells in which rounds"):
        fedsim.parse_scenario(SMALL + CLIENT_PRIVACY, "small", (*fixed, "privacy.client.relation=replace-one"))


def a_message_s_length_tells_nothing(folder):
    """Clients with 3 and with hundreds of records, one of them without any update, send as many bytes."""
    for kind in KINDS.values():
        made = build("", kind)
        compression, size = made.scenario.communication.compression, made.start.numel()
        words = torch.zeros(compression.words(size), dtype=torch.int32)
        rows = torch.stack([torch.zeros(size), torch.ones(size), torch.arange(size) / 7, torch.full((size,), 1e-30)])
        assert {len(compression.encode(row, words)) for row in rows} == {made.channel.bytes_up}


# --- mutations


@dataclass(frozen=True)
class Mutation:
    """A pitfall, the check that must notice, and what to patch."""

    pitfall: str
    check: Callable[[Any], None]
    patch: Callable[[pytest.MonkeyPatch], None]


def _clipped_before(patch):
    send = fedsim.updates._send

    def wrong(federation, work, reports, kept):
        reports[:] = clip_rows(reports, federation.plan.client.clip_norm)[0]
        send(federation, work, reports, kept)

    add = Trainer.add_clipped
    patch.setattr(fedsim.updates, "_send", wrong)
    patch.setattr(Trainer, "add_clipped", lambda self, total, rows, norm, weights: add(self, total, rows, 1e9, weights))


def _noised_after(patch):
    send, noise = fedsim.updates._send, fedsim.updates._noise_each

    def wrong(federation, clip_norm, work, trained):
        send(federation, work, trained.updates, np.zeros((len(trained.updates), federation.state_size), np.float32))
        return noise(federation, clip_norm, work, trained)

    patch.setattr(fedsim.updates, "_noise_each", wrong)
    patch.setattr(fedsim.updates, "_send", lambda *_: None)


def _keeps_what_was_not_noised(patch):
    send, noise = fedsim.updates._send, fedsim.updates._noise_each
    raw = []

    def noted(federation, clip_norm, work, trained):
        raw.append(clip_rows(trained.updates, clip_norm)[0].clone())
        return noise(federation, clip_norm, work, trained)

    def wrong(federation, work, reports, kept):
        send(federation, work, reports, kept)
        kept[:] = (raw.pop() - reports).numpy()

    patch.setattr(fedsim.updates, "_noise_each", noted)
    patch.setattr(fedsim.updates, "_send", wrong)


def _words_of_the_noise(patch):
    class Other:
        COMPRESSION = Stream.LOCAL_NOISE

    patch.setattr(transport, "Stream", Other)


def _adds_state_after_clipping(patch):
    add = fedsim.updates.train_one_block

    def wrong(federation, job, work, store, total):
        reply = add(federation, job, work, store, total)
        reply.updates.total += torch.from_numpy(store.read(work.clients)).double().sum(dim=0)
        return reply

    patch.setattr(fedsim.client, "train_one_block", wrong)


def _no_zeros_sent(patch):
    pack = base.pack
    patch.setattr(base, "pack", lambda fields, values: pack(fields, values).rstrip(b"\0"))


MUTATIONS = [
    Mutation("clipping before compression", one_client_moves_the_sum_by_at_most_the_clip_norm, _clipped_before),
    Mutation(
        "state that is added to what was clipped", no_state_lets_a_client_contribute_more, _adds_state_after_clipping
    ),
    Mutation("local noise on what was compressed", what_leaves_the_device_is_made_of_noise, _noised_after),
    Mutation(
        "error feedback of what was not noised", what_leaves_the_device_is_made_of_noise, _keeps_what_was_not_noised
    ),
    Mutation("noise and places of the same words", messages_hold_no_word_that_noise_is_made_of, _words_of_the_noise),
    Mutation(
        "state under the amplification of fixed cohorts",
        a_cohort_of_fixed_size_keeps_its_secret,
        lambda patch: patch.setattr(fedsim.checks, "check_communication", lambda scenario: ()),
    ),
    Mutation("messages that are shorter where there is less to say", a_message_s_length_tells_nothing, _no_zeros_sent),
]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.pitfall)
def test_the_pitfall_is_caught(mutation, tmp_path, monkeypatch):
    for folder in ("right", "wrong"):
        (tmp_path / folder).mkdir()
    mutation.check(tmp_path / "right")
    mutation.patch(monkeypatch)
    with pytest.raises((AssertionError, FedsimError, pytest.fail.Exception)):
        mutation.check(tmp_path / "wrong")
