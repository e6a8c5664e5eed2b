"""Texts as next-character data: every character once, none seen before its time, owners kept."""

from __future__ import annotations

import gzip
import json
import lzma
import os
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.data.dataset import Dataset, Examples
from fedsim.data.shakespeare import Shakespeare
from fedsim.data.text import Text
from fedsim.data.tokens import ALPHABET, NAMES, NONE, UNKNOWN, Stretches, encode, stretches
from fedsim.errors import BadInput

PACK = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress}


def of_owner(split: Examples, owner: int) -> tuple[str, str]:
    """An owner's text as the features spell it, and as the labels do."""
    rows = split.owners == owner
    features, labels = split.features[rows].ravel(), split.labels[rows].ravel()
    return "".join(NAMES[token] for token in features[labels != NONE]), "".join(
        NAMES[token] for token in labels[labels != NONE]
    )


# The alphabet and the stretches


def test_the_alphabet_is_the_printable_characters_and_the_end_of_a_line():
    assert len(NAMES) == 97
    assert [name for name in NAMES[1:] if not name.isprintable()] == ["\n"]
    assert UNKNOWN not in ALPHABET
    assert len(set(NAMES)) == 97


@given(st.text(max_size=50))
def test_a_character_is_the_token_of_its_name_or_unknown(text):
    slowly = [NAMES.index(character) if character in NAMES[1:] else 0 for character in text]
    assert encode(text).tolist() == slowly


@given(st.lists(st.integers(1, 96), max_size=60), st.integers(1, 20))
def test_every_pair_of_neighbours_is_an_example_once(tokens, length):
    features, labels = stretches(np.array(tokens, np.int64), length)
    assert features.shape == labels.shape == (-(-max(0, len(tokens) - 1) // length), length)
    real = labels.ravel() != NONE
    assert list(zip(features.ravel()[real], labels.ravel()[real], strict=True)) == list(pairwise(tokens))
    assert (features.ravel()[~real] == 0).all()
    assert real[: max(0, len(tokens) - 1)].all(), "padding is at the end alone"


@settings(max_examples=100)
@given(
    st.lists(st.text(st.sampled_from(ALPHABET + "é"), max_size=40), min_size=1, max_size=5),
    st.integers(1, 15),
    st.floats(0.05, 0.95),
)
def test_the_last_part_of_every_text_is_for_tests_and_no_other(texts, length, fraction):
    named = [(f"owner {number}", text) for number, text in enumerate(texts)]
    cuts = [len(text) - round(fraction * len(text)) for text in texts]
    kept = [number for number, cut in enumerate(cuts) if cut >= 2]
    if not any(len(texts[number]) - cuts[number] >= 2 for number in kept):
        with pytest.raises(BadInput, match="long enough"):
            Stretches(length, fraction).dataset("text", named)
        return
    data = Stretches(length, fraction).dataset("text", named)
    assert data.owners == tuple(f"owner {number}" for number in kept)
    for owner, number in enumerate(kept):
        text, cut = texts[number].replace("é", UNKNOWN), cuts[number]
        assert of_owner(data.train, owner) == (text[:cut][:-1], text[:cut][1:])
        assert of_owner(data.test, owner) == (text[cut:][:-1], text[cut:][1:])


def test_the_data_set_is_of_tokens_and_says_what_was_left_out():
    data = Stretches(4, 0.5).dataset("text", [("a", "abcdefgh"), ("b", "x"), ("c", "naïve naïve")])
    assert data.kind == "tokens"
    assert data.vocabulary == len(data.names) == 97
    assert data.train.features.dtype == data.train.labels.dtype == np.int64
    assert data.owners == ("a", "c")
    assert data.notes == (
        "1 owners left out: their texts are too short.",
        "2 characters are outside the fixed alphabet and stand as unknown.",
    )


# Files of text


@pytest.mark.parametrize("suffix", PACK)
def test_a_folder_has_one_owner_a_file(tmp_path, suffix):
    for name, text in (("b", "second\r\ntext\r"), ("a", "the first text")):
        (tmp_path / f"{name}.txt{suffix}").write_bytes(PACK[suffix](text.encode()))
    (tmp_path / ".hidden").write_bytes(b"\xff")
    data = Text(path=str(tmp_path), length=5, test_fraction=0.25).load(0)
    assert data.owners == ("a", "b")
    assert of_owner(data.train, 0)[0] == "the first "[:9]
    assert of_owner(data.train, 1)[0] == "second\nt"
    alone = Text(path=str(tmp_path / f"b.txt{suffix}"), length=5, test_fraction=0.25).load(0)
    assert alone.owners == ("b",)
    assert of_owner(alone.train, 0) == of_owner(data.train, 1)


def test_texts_that_cannot_be_read_are_refused_by_name(tmp_path):
    for name, content, words in [
        ("x.txt", b"caf\xe9 au lait", "x.txt is not UTF-8 text (byte 3)"),
        ("x.gz", b"not packed at all", "x.gz cannot be read"),
        ("x.xz", lzma.compress(b"torn in two" * 9)[:-20], "x.xz cannot be read"),
        ("x.txt", b"", "no text is long enough"),
        ("x.txt", b"ab", "no text is long enough"),
    ]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BadInput, match=re.escape(words)):
            Text(path=str(tmp_path / name)).load(0)
    with pytest.raises(BadInput, match="no such text file"):
        Text(path=str(tmp_path / "absent")).load(0)
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="has no files"):
        Text(path=str(tmp_path / "empty")).load(0)


# Shakespeare


def speech(play: str, role: str, *lines: str) -> str:
    return json.dumps({"play": play, "role": role, "lines": lines})


def write_plays(folder: Path, lines: list[str], suffix: str = ".xz") -> str:
    (folder / f"plays_by_role.jsonl{suffix}").write_bytes(PACK[suffix]("\n".join(lines).encode()))
    return str(folder)


@pytest.mark.parametrize("suffix", PACK)
def test_owners_are_the_roles_of_each_play_with_enough_speeches(tmp_path, suffix):
    lines = [
        speech("hamlet", "KING", "It likes us well;", "And at our"),
        speech("lear", "KING", "Meantime we shall express"),
        speech("hamlet", "FOOL", "Once only"),
        "",
        speech("hamlet", "KING", "Thanks."),
        speech("lear", "KING", "Give me the map there."),
    ]
    path = write_plays(tmp_path, lines, suffix)
    data = Shakespeare(path=path, length=7, test_fraction=0.25).load(0)
    assert data.owners == ("hamlet: KING", "lear: KING")
    whole = "It likes us well;\nAnd at our\nThanks."
    cut = len(whole) - round(0.25 * len(whole))
    assert of_owner(data.train, 0) == (whole[: cut - 1], whole[1:cut])
    assert of_owner(data.test, 0)[1] == whole[cut + 1 :]
    assert data.notes == ("1 roles left out: they have fewer than 2 speeches.",)
    assert len(Shakespeare(path=path, min_speeches=1).load(0).owners) == 3
    with pytest.raises(BadInput, match="long enough"):
        Shakespeare(path=path, min_speeches=3).load(0)


def test_tinyshakespeare_is_read_in_blocks(tmp_path):
    text = (
        "First Citizen:\nBefore we proceed\nany further.\n\nAll:\nSpeak.\n\nFirst Citizen:\nYou are all\n\nresolved?\n"
    )
    (tmp_path / "tinyshakespeare.txt").write_text(text)
    settings = {"path": str(tmp_path), "edition": "tinyshakespeare"}
    data = Shakespeare(**settings, min_speeches=1, test_fraction=0.1).load(0)
    assert data.owners == ("First Citizen", "All")
    whole = "Before we proceed\nany further.\nYou are all\nresolved?"
    assert of_owner(data.train, 0)[0] == whole[: len(whole) - round(0.1 * len(whole)) - 1]
    assert Shakespeare(**settings).load(0).owners == ("First Citizen",)
    (tmp_path / "tinyshakespeare.txt").write_text("no role\n\nat all")
    with pytest.raises(BadInput, match="does not begin with a role"):
        Shakespeare(**settings).load(0)


GOOD = [speech("hamlet", "KING", "It likes us well;"), speech("hamlet", "KING", "Thanks.")]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"play": "x"', "line 3, is not JSON"),
        ("[" * 100_000, "line 3, is not JSON"),
        ("[1]", "line 3, is no speech"),
        ('{"play": "x", "role": "y"}', "line 3, is no speech"),
        ('{"play": "x", "role": "y", "lines": "z"}', "line 3, is no speech"),
        ('{"play": "x", "role": "y", "lines": [1]}', "line 3, is no speech"),
        ('{"play": 1, "role": "y", "lines": ["z"]}', "line 3, is no speech"),
    ],
)
def test_a_line_that_is_no_speech_is_refused_with_its_number(tmp_path, line, words):
    with pytest.raises(BadInput, match=words):
        Shakespeare(path=write_plays(tmp_path, [*GOOD, line], "")).load(0)


RAW = "\n".join(GOOD).encode()


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(PACK)), st.integers(0, 200), st.binary(max_size=3), st.integers(0, 3))
def test_corrupted_bytes_are_read_or_refused_never_more(tmp_path_factory, suffix, place, put, taken):
    folder = tmp_path_factory.mktemp("plays")
    raw = PACK[suffix](RAW)
    place = min(place, len(raw))
    (folder / f"plays_by_role.jsonl{suffix}").write_bytes(raw[:place] + put + raw[place + taken :])
    try:
        data = Shakespeare(path=str(folder)).load(0)
    except BadInput:
        return
    assert isinstance(data, Dataset)


def test_a_missing_shakespeare_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDSIM_DATA", str(tmp_path))
    with pytest.raises(BadInput, match=r"plays_by_role\.jsonl") as caught:
        Shakespeare().load(0)
    assert str(tmp_path / "shakespeare") in str(caught.value)
    assert "gutenberg.org" in str(caught.value)


@pytest.mark.skipif(not os.environ.get("FEDSIM_DATA"), reason="FEDSIM_DATA is not set: no real data here")
def test_the_real_plays_have_1117_roles_with_two_speeches():
    data = Shakespeare().load(0)
    assert len(data.owners) == 1117
    assert len(np.unique(data.train.owners)) == 1117
    characters = int((data.train.labels != NONE).sum() + (data.test.labels != NONE).sum())
    assert 4_100_000 < characters < 4_300_000
    assert (data.train.features != 0).sum() == (data.train.labels != NONE).sum(), "no character is unknown"
    spoken, following = of_owner(data.train, data.owners.index("1henryiv: KING HENRY IV"))
    assert spoken.startswith("So shaken as we are, so wan with care,\nFind we a time")
    assert following[:-1] == spoken[1:]
