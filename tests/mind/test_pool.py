"""Nodes of the buffer for pools: good enough, as many needs as can be met, the best kept for those who ask for them."""

from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepvideo.mind.pool import Pool, match

VIDEO, TEXT, ANY = Pool("video", 0.97), Pool("text", 0.8), Pool("any")
scores = st.lists(st.floats(0, 1, exclude_max=True), max_size=4)


def test_the_least_good_node_that_is_good_enough() -> None:
    found = match([TEXT, VIDEO], {"a": 0.99, "b": 0.98, "c": 0.9, "d": 0.5})
    assert found.placed == (("video", "b"), ("text", "c")) and not found.unmet


def test_a_pool_goes_without_rather_than_with_a_node_that_is_not_good_enough() -> None:
    found = match([VIDEO, VIDEO], {"a": 0.97, "b": 0.9699})
    assert found.placed == (("video", "a"),) and found.unmet == ("video",)


def served(order: tuple[str | None, ...], pools: list[Pool], buffer: dict[str, float]) -> tuple[int, ...] | None:
    """How many needs an assignment meets, the demanding first; None: it gives what is not good enough."""
    met = []
    for pool, node in zip(pools, order):
        if node is not None and buffer[node] < pool.least_score:
            return None
        met.append(int(node is not None))
    return tuple(met)


@given(st.lists(st.sampled_from([VIDEO, TEXT, ANY]), max_size=3), scores)
def test_no_other_choice_serves_more_or_the_demanding_better(needs: list[Pool], values: list[float]) -> None:
    buffer = {f"n{i}": v for i, v in enumerate(values)}
    pools = sorted(needs, key=lambda p: -p.least_score)
    found = match(needs, buffer)
    assert all(buffer[node] >= next(p for p in pools if p.name == pool).least_score for pool, node in found.placed)
    assert len({node for _, node in found.placed}) == len(found.placed)
    choices = permutations([*buffer, *[None] * len(pools)], len(pools))
    others = [s for order in set(choices) if (s := served(order, pools, buffer)) is not None]
    given_names = [pool for pool, _ in found.placed]
    assert len(given_names) + len(found.unmet) == len(pools)
    assert len(given_names) == max((sum(s) for s in others), default=0)
    most_video = max((sum(m for p, m in zip(pools, s) if p == VIDEO) for s in others), default=0)
    assert given_names.count("video") == most_video


@given(st.sampled_from([VIDEO, TEXT, ANY]), st.lists(st.sampled_from([VIDEO, TEXT, ANY]), max_size=3), scores)
def test_what_is_left_serves_later_needs_at_least_as_well(first: Pool, later: list[Pool], values: list[float]) -> None:
    buffer = {f"n{i}": v for i, v in enumerate(values)}
    placed = match([first], buffer).placed
    for node in [n for n, v in buffer.items() if v >= first.least_score]:
        ours = {n: v for n, v in buffer.items() if n != placed[0][1]}
        theirs = {n: v for n, v in buffer.items() if n != node}
        assert len(match(later, ours).placed) >= len(match(later, theirs).placed)


def test_a_tier_is_a_probability() -> None:
    with pytest.raises(ValueError, match="least_score"):
        Pool("video", 1.0)
