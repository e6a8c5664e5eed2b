"""What clients keep: only their own rows are touched, and every round can be undone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from fedsim.client_store import ClientStore
from fedsim.errors import FedsimError

CLIENTS, SIZE = 8, 5


def rows(seed, count):
    return np.random.default_rng(seed).normal(size=(count, SIZE)).astype(np.float32)


def all_of(store):
    return store.read(np.arange(CLIENTS))


@pytest.fixture
def history(tmp_path):
    """A store after four rounds, and what it held after each (0: before the first)."""
    store, states = ClientStore(tmp_path / "state", CLIENTS, SIZE), [np.zeros((CLIENTS, SIZE), np.float32)]
    for round_, clients in enumerate(([0, 3], [3, 4, 7], [0, 1, 2, 3], [7, 3]), 1):
        state = states[-1].copy()
        for block in np.array_split(np.array(clients), 2):
            state[block] = rows(round_ * 10 + block[0], len(block))
            store.write(round_, block, state[block])
        states.append(state)
        np.testing.assert_array_equal(all_of(store), state)
    return store, states


@pytest.mark.parametrize("round_", range(5))
def test_a_rewound_store_is_as_after_that_round(history, tmp_path, round_):
    store, states = history
    store.rewind(round_)
    np.testing.assert_array_equal(all_of(store), states[round_])
    np.testing.assert_array_equal(all_of(ClientStore(tmp_path / "state", CLIENTS, SIZE)), states[round_])
    store.rewind(round_)  # nothing is left to undo
    np.testing.assert_array_equal(all_of(store), states[round_])


@pytest.mark.parametrize("most", [1, 4 * SIZE, 12 * SIZE, 1 << 30])
@pytest.mark.parametrize("clients", [[], [5], [0, 1, 2, 3, 4, 5, 6, 7], [0, 1, 3, 4, 5, 7], [6, 5, 4, 1, 2, 0]])
def test_neighbours_are_read_and_written_together_and_nobody_else(most, clients, tmp_path, monkeypatch):
    monkeypatch.setattr("fedsim.client_store.MOST_BYTES", most)
    store, state = ClientStore(tmp_path / "state", CLIENTS, SIZE), rows(0, CLIENTS)
    store.write(1, np.arange(CLIENTS), state)
    chosen = np.array(clients, np.int64)
    state[chosen] = rows(1, len(chosen))
    store.write(1, chosen, state[chosen])
    np.testing.assert_array_equal(all_of(store), state)
    np.testing.assert_array_equal(store.read(chosen), state[chosen])


def test_a_client_written_twice_in_a_round_goes_back_to_before_it(tmp_path):
    store, one = ClientStore(tmp_path / "state", CLIENTS, SIZE), np.array([2])
    store.write(1, one, rows(1, 1))
    store.write(2, one, rows(2, 1))
    store.write(2, one, rows(3, 1))
    store.rewind(1)
    np.testing.assert_array_equal(store.read(one), rows(1, 1))


def test_rounds_that_are_kept_are_forgotten_but_for_the_last_two(history, tmp_path):
    store, states = history
    store.keep(4)
    assert sorted(file.name for file in (tmp_path / "state").glob("undo-*")) == [
        "undo-00000003.bin",
        "undo-00000004.bin",
    ]
    store.rewind(2)
    np.testing.assert_array_equal(all_of(store), states[2])


@pytest.mark.parametrize("torn", [1, 4 * SIZE, 4 * SIZE + 8, 8 * SIZE + 20])
def test_an_entry_that_was_torn_had_not_been_written(history, tmp_path, torn):
    """The machine stopped while round 5 saved what it was about to overwrite: client 5's row, then client 6's."""
    store, states = history
    file = tmp_path / "state" / "undo-00000005.bin"
    store.write(5, np.array([5]), rows(50, 1))
    whole = len(file.read_bytes())
    store._save(5, np.array([6, 7]))
    data = file.read_bytes()
    file.write_bytes(data[: max(whole, len(data) - torn)])
    store.rewind(4)
    np.testing.assert_array_equal(all_of(store), states[4])


def test_a_torn_entry_of_the_right_length_is_not_believed(history, tmp_path):
    """Of a page that never reached the disk only the length is there."""
    store, states = history
    store.write(5, np.array([5]), rows(50, 1))
    file = tmp_path / "state" / "undo-00000005.bin"
    before = len(file.read_bytes())
    store._save(5, np.array([6]))
    data = file.read_bytes()
    file.write_bytes(data[: before + 20] + bytes(len(data) - before - 20))
    store.rewind(4)
    np.testing.assert_array_equal(all_of(store), states[4])


def test_threads_may_write_different_clients(tmp_path):
    store, expected = ClientStore(tmp_path / "state", CLIENTS, SIZE), rows(9, CLIENTS)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda c: store.write(1, np.array([c]), expected[c : c + 1]), range(CLIENTS)))
    np.testing.assert_array_equal(all_of(store), expected)
    store.rewind(0)
    assert (all_of(store) == 0).all()


def test_a_million_clients_take_the_room_of_those_that_were_drawn(tmp_path):
    store = ClientStore(tmp_path / "state", 1_000_000, 1000)
    clients = np.array([3, 500_000, 999_999])
    values = np.ones((3, 1000), np.float32)
    store.write(1, clients, values)
    store.keep(1)
    files = list((tmp_path / "state").iterdir())
    assert (tmp_path / "state/rows.f32").stat().st_size == 4_000_000_000
    assert sum(512 * file.stat().st_blocks for file in files) < 200_000
    np.testing.assert_array_equal(store.read(clients), values)
    assert (store.read(np.array([4, 999_998])) == 0).all()


def test_a_folder_that_cannot_be_opened_is_one_error(tmp_path):
    with pytest.raises(FedsimError, match="cannot be opened"):
        ClientStore(tmp_path / "missing" / "state", CLIENTS, SIZE)
    ClientStore(tmp_path / "state", CLIENTS, SIZE)
    with pytest.raises(FedsimError, match=r"cannot be opened: rows.f32 has 160 bytes, not 180\."):
        ClientStore(tmp_path / "state", CLIENTS + 1, SIZE)
    (tmp_path / "state/rows.f32").write_bytes(b"")  # as if stopped while it was made
    assert (all_of(ClientStore(tmp_path / "state", CLIENTS, SIZE)) == 0).all()
