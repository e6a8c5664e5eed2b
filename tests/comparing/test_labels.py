"""What tells scenarios apart: the settings that differ, a section that only some have once, and never too many."""

from __future__ import annotations

from typing import Any

import pytest

from fedsim.comparing.labels import flat, labels

UNIT = {"clip_norm": 1.0, "delta": 1e-4, "noise": "per_client", "clipping": {"kind": "fixed"}}
BASE = {"rounds": 15, "model": {"name": "logistic"}, "algorithm": {"local": {"learning_rate": 1.0}}}


def scenario(**changes: Any) -> dict[str, Any]:
    return flat(BASE | {"privacy": {"randomness": "reproducible"}} | changes)


def private(epsilon: float, **changes: Any) -> dict[str, Any]:
    return scenario(privacy={"randomness": "reproducible", "example": UNIT | {"target_epsilon": epsilon}}, **changes)


def rate(value: float) -> dict[str, Any]:
    return {"algorithm": {"local": {"learning_rate": value}}}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ([private(1.0), private(4.0), scenario()], ["target_epsilon=1", "target_epsilon=4", "no privacy"]),
        ([scenario(), private(4.0)], ["no privacy", "target_epsilon=4"]),
        (
            [private(0.5, **rate(4.0)), scenario(**rate(1.0))],
            ["target_epsilon=0.5, learning_rate=4", "no privacy, learning_rate=1"],
        ),
        (
            [scenario(), scenario(model={"name": "mlp", "hidden": [], "dropout": 0.0})],
            ["model=logistic", "model=mlp"],
        ),
        (
            [
                scenario(privacy={"client": {"noise_multiplier": 1.0}}),
                scenario(privacy={"client": {"noise_multiplier": 1.0}, "example": UNIT | {"target_epsilon": 2.0}}),
            ],
            ["no example privacy", "target_epsilon=2"],
        ),
        ([scenario(extra=True), scenario()], ["extra=true", "no extra"]),
        ([scenario()], ["a"]),
    ],
)
def test_labels_say_what_differs(settings, expected):
    assert labels(settings, ["a", "b", "c"][: len(settings)]) == expected


def test_where_much_differs_names_do_unless_they_are_the_same():
    many = [scenario(data={f"key_{number}": number * at for number in range(8)}) for at in (1, 2, 3)]
    assert labels(many, ["a", "b", "c"]) == ["a", "b", "c"]
    assert labels(many, ["a", "a", "a"])[1] == "key_1=2, key_2=4, key_3=6, key_4=8, key_5=10"
