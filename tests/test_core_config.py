"""Typed configs: round trips, hashes, and errors that name the key."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepvideo.config import Runtime, StageConfig, canonical, digest, dump, load, result_part
from stepvideo.errors import ConfigError


@dataclass
class Inner:
    width: int = 8
    names: list[str] = field(default_factory=lambda: ["a"])


@dataclass
class Outer(StageConfig):
    lr: float = 0.1
    inner: Inner = field(default_factory=Inner)
    mix: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise ValueError(f"lr is {self.lr}; give more than 0")


def test_round_trip() -> None:
    config = Outer(seed=3, lr=0.5, inner=Inner(4, ["x", "y"]), mix={"short": 1.0}, runtime=Runtime(nproc=2))
    assert load(Outer, dump(config)) == config
    assert load(Outer, None) == Outer() and load(Outer, {"inner": {"width": 2}}).inner == Inner(2)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"lrr": 1}, "lrr: .*did you mean lr"),
        ({"inner": {"widht": 1}}, "inner.widht: .*did you mean width"),
        ({"inner": {"zzz": 1}}, "known keys: width, names"),
        ({"lr": "fast"}, "lr: .*'fast'"),
        ({"inner": {"width": 1.5}}, "inner.width: .*1.5"),
        ({"lr": -1}, "give more than 0"),
        ({"runtime": {"threads": "many"}}, "runtime.threads"),
    ],
)
def test_mistakes_name_the_key(data: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load(Outer, data, "stages.x")


def test_only_runtime_is_left_out_of_the_hash() -> None:
    config = dump(Outer())
    assert set(config) - set(result_part(config)) == {"runtime"}
    assert digest(result_part(config)) == digest(result_part(dump(Outer(runtime=Runtime(nproc=4)))))
    assert digest(result_part(config)) != digest(result_part(dump(Outer(seed=1))))


@given(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5) | st.floats(allow_nan=False)))
def test_the_digest_forgets_the_order_of_keys(data: dict) -> None:
    backwards = dict(reversed(data.items()))
    assert canonical(data) == canonical(backwards) and digest(data) == digest(backwards)
