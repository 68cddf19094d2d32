"""Balanced packs: nothing lost or doubled, the same however they are asked for, within ratio and memory, and even."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from stepvideo.data.balance import Pack, Plan
from stepvideo.data.balance_config import METHODS, BalanceConfig, check_ranks
from stepvideo.data.balance_sizes import eq12, mean_size, solve_alpha
from stepvideo.errors import ConfigError

IMAGE = "1x64x64"
FLOPS = {"34x64x64": 7.9, "17x64x64": 3.1, "17x48x80": 2.9, IMAGE: 0.4}
SIZES = {"34x64x64": 5, "17x64x64": 23, "17x48x80": 11}
TOKENS = {"34x64x64": 96, "17x64x64": 48, "17x48x80": 45, IMAGE: 16}
COMMON = settings(max_examples=50, deadline=None)


@st.composite
def wishes(draw, methods=METHODS):
    """Anything that can be asked of a plan: few or many samples, any costs, with and without images."""
    names = [f"{n}x64x64" for n in range(2, 2 + draw(st.integers(1, 4)))]
    sizes = {b: draw(st.integers(1, 30)) for b in names}
    cost = st.floats(0.01, 100)
    images = draw(st.integers(1, 50))
    cfg = BalanceConfig(
        method=draw(st.sampled_from(methods)),
        packs=draw(st.integers(1, 9)),
        batch_size=draw(st.integers(1, 6)),
        image_batch_size=draw(st.integers(1, 6)),
        video_to_image=draw(st.sampled_from([0.0, 0.1, 0.3, 1.0, 2.7, 40.0])),
        alpha=draw(st.sampled_from([0.0, 1.0, 1.7])),
        spread=draw(st.booleans()),
    )
    flops = {b: draw(cost) for b in names} | {IMAGE: draw(st.floats(0.5, 10))}
    return {"flops": flops, "sizes": sizes, "images": images, "cfg": cfg, "seed": draw(st.integers(0, 99))}


def walk(plan: Plan, epochs: int) -> list[Pack]:
    """Packs of at least so many epochs of the videos."""
    packs, step = [], 0
    while sum(bool(p.videos) for p in packs) < epochs * plan.epoch_packs:
        packs += plan.packs(step)
        step += 1
    return packs


def rows(packs: list[Pack]) -> Counter[tuple[str, int]]:
    return Counter((p.bucket, row) for p in packs for row in p.videos)


@COMMON
@given(wishes())
def test_an_epoch_has_every_video_once(wish):
    plan = Plan(**wish)
    videos = [p for p in walk(plan, 3) if p.videos]
    once = Counter({(b, row): 1 for b, n in plan.sizes.items() for row in range(n)})
    for epoch in range(3):
        assert rows(videos[epoch * plan.epoch_packs : (epoch + 1) * plan.epoch_packs]) == once


@COMMON
@given(wishes())
def test_images_go_through_epochs_of_their_own(wish):
    seen = Counter(image for p in walk(Plan(**wish), 2) for image in p.images)
    whole = seen.total() // wish["images"]
    assert set(seen) <= set(range(wish["images"]))
    assert all(whole <= seen[image] <= whole + 1 for image in range(wish["images"]))


@COMMON
@given(wishes(), st.lists(st.integers(0, 60), min_size=1, max_size=8), st.integers(0, 10**9))
def test_any_order_of_asking_gives_the_same(wish, steps, far):
    shuffled = Plan(**wish | {"sizes": dict(reversed(wish["sizes"].items()))})
    shuffled.packs(far)
    in_order = Plan(**wish)
    walked = [in_order.packs(step) for step in range(61)]
    assert [shuffled.packs(step) for step in steps] == [walked[step] for step in steps]


@COMMON
@given(wishes(), st.integers(0, 60))
def test_samples_are_counted_without_going_through_steps(wish, steps):
    plan = Plan(**wish)
    packs = [p for step in range(steps) for p in plan.packs(step)]
    assert len(packs) == steps * plan.cfg.packs
    assert plan.samples(steps) == sum(len(p.videos) + len(p.images) for p in packs)


@given(st.integers(1, 500), st.integers(1, 64))
def test_packs_that_ranks_cannot_share_are_an_error_with_the_way_out(packs, ranks):
    if packs % ranks == 0:
        check_ranks(packs, ranks)
        return
    with pytest.raises(ConfigError, match=f"balance.packs={packs}: .* {ranks} data-parallel ranks") as e:
        check_ranks(packs, ranks)
    check_ranks(int(str(e.value).split("balance.packs to ")[1].split(",")[0]), ranks)


@COMMON
@given(wishes())
def test_the_ratio_of_videos_to_images_holds(wish):
    """However long the run, to within the images of one step."""
    plan = Plan(**wish)
    beta, videos, images, packs = plan.cfg.video_to_image, 0, 0, 0
    for pack in walk(plan, 5):
        videos, images, packs = videos + len(pack.videos), images + len(pack.images), packs + bool(pack.videos)
        if packs == 5 * plan.epoch_packs:
            break
    if not beta:
        assert images == 0
        return
    mean = mean_size(plan.sizes, plan.batch_sizes)
    assert abs(images - videos / beta) <= plan.image_batch + 1 + plan.cfg.packs * mean / beta


@COMMON
@given(wishes(["hybrid"]), st.integers(0, 40))
def test_greedy_padding_is_never_worse_than_uniform(wish, step):
    greedy, uniform = Plan(**wish), Plan(**wish | {"cfg": replace(wish["cfg"], method="uniform")})
    ours, theirs = greedy.packs(step), uniform.packs(step)
    assert [(p.bucket, p.videos) for p in ours] == [(p.bucket, p.videos) for p in theirs]
    assert sorted(i for p in ours for i in p.images) == sorted(i for p in theirs for i in p.images)
    assert max(map(greedy.cost, ours)) <= max(map(uniform.cost, theirs)) * (1 + 1e-9)


@COMMON
@given(wishes(), st.integers(20, 400), st.data())
def test_no_pack_exceeds_memory(wish, limit, data):
    tokens = {b: data.draw(st.integers(1, 60)) for b in wish["flops"]}
    try:
        plan = Plan(**wish | {"cfg": replace(wish["cfg"], max_tokens=limit)}, tokens=tokens)
    except ConfigError as e:
        assert f"balance.max_tokens={limit}" in str(e)
        return
    for pack in walk(plan, 1):
        assert len(pack.videos) * tokens[pack.bucket] + len(pack.images) * tokens[IMAGE] <= limit


@COMMON
@given(wishes(["coarse", "hybrid"]))
def test_eq_12_fills_packs_up_to_the_target(wish):
    assume(wish["cfg"].alpha == 1.0)
    plan = Plan(**wish)
    target = plan.cfg.batch_size * max(plan.flops[b] for b in plan.sizes)
    for bucket, size in plan.batch_sizes.items():
        assert size * plan.flops[bucket] <= target * (1 + 1e-8) < (size + 1) * plan.flops[bucket] * (1 + 1e-7)


@COMMON
@given(wishes(), st.integers(1, 6))
def test_alpha_keeps_the_mean_as_well_as_any(wish, mean):
    sizes, flops = wish["sizes"], {b: wish["flops"][b] for b in wish["sizes"]}
    target = mean * max(flops.values())

    def missed(alpha: float) -> float:
        return abs(mean_size(sizes, eq12(flops, target, alpha)) - mean)

    best = missed(solve_alpha(flops, target, sizes, mean))
    assert all(best <= missed(1 + i / 20) + 1e-9 for i in range(100))


def test_batch_sizes_of_table_3():
    """Eq. 12 with one longest video a pack: three of 68 frames cost about as much."""
    flops = dict(zip("abcdef", (1717.20, 1592.61, 1079.85, 1004.89, 509.31, 475.87)))
    assert list(eq12(flops, 1717.20, 1.0).values()) == [1, 1, 1, 1, 3, 3]
    assert list(eq12(flops, 4 * 1717.20, 1.0).values()) == [4, 4, 6, 6, 13, 14]


def test_buckets_are_spread_over_an_epoch():
    """Any tenth of an epoch has a tenth of every bucket's packs, give or take the one at each end."""
    sizes = {"34x64x64": 400, "17x64x64": 200, "17x48x80": 100}
    plan = Plan(FLOPS, sizes, 0, BalanceConfig("none", packs=70, batch_size=1), 0)
    orders = [[p.bucket for p in plan.packs(step)] for step in range(20)]
    for step in orders:
        assert all(abs(step.count(b) - n / 10) <= 1 for b, n in sizes.items())
    assert len({tuple(step) for step in orders}) == 20


def test_only_images():
    """T2I: packs of images, every image once an epoch."""
    plan = Plan({IMAGE: 0.4}, {}, 30, BalanceConfig(packs=4, image_batch_size=3), 0)
    packs = [p for step in range(5) for p in plan.packs(step)]
    assert {(p.bucket, len(p.videos), len(p.images)) for p in packs} == {(IMAGE, 0, 3)}
    assert Counter(i for p in packs for i in p.images) == Counter({i: 2 for i in range(30)})
    assert plan.samples(5) == 60


def test_only_videos_of_one_bucket():
    """SFT at `micro`: batches of the size asked for, whatever the method."""
    for method in METHODS:
        plan = Plan({"17x64x64": 3.1}, {"17x64x64": 24}, 0, BalanceConfig(method, packs=2, batch_size=4), 0)
        assert [len(p.videos) for step in range(6) for p in plan.packs(step)] == [4] * 12
        assert not any(p.images for p in plan.packs(0))


def test_seeds_and_epochs_differ():
    a, b = (
        Plan(FLOPS, SIZES, 9, BalanceConfig(packs=39, batch_size=1, alpha=1.0, video_to_image=2), s) for s in (0, 1)
    )
    assert a.packs(0) != b.packs(0) and a.packs(0) != a.packs(1)


def test_images_apart_where_nothing_is_padded():
    """Methods none and coarse segregate images: a pack has videos or images, never both."""
    for method, size in (("none", 5), ("coarse", 39)):  # 39: floor(2 x 7.9 / 0.4)
        plan = Plan(FLOPS, SIZES, 9, BalanceConfig(method, 2, batch_size=2, image_batch_size=5, video_to_image=0.5), 0)
        packs = walk(plan, 3)
        assert all(bool(p.videos) != bool(p.images) for p in packs)
        assert {len(p.images) for p in packs if p.images} == {size}


def test_a_far_step_is_found_at_once():
    sizes = {"34x64x64": 200_000, "17x64x64": 800_000}
    plan = Plan(FLOPS, sizes, 0, BalanceConfig(packs=8, batch_size=1), 0)
    start = time.process_time()
    plan.packs(400_000)
    assert time.process_time() - start < 1
    start = time.process_time()
    for step in range(400_001, 401_001):
        plan.packs(step)
    assert time.process_time() - start < 1


def test_an_empty_bucket_is_named():
    with pytest.raises(
        ConfigError, match="no clip is in bucket 17x48x80 .*34x64x64: 5.* leave that length or size out"
    ):
        Plan(FLOPS, SIZES | {"17x48x80": 0}, 9, BalanceConfig(), 0)


@pytest.mark.parametrize(
    ("flops", "sizes", "images", "message"),
    [
        (FLOPS, {}, 0, "nothing to train on"),
        (FLOPS, SIZES, 0, "video_to_image=2.0 asks for images"),
        (FLOPS, SIZES | {"9x9x9": 3}, 5, "cost of a sample of bucket 9x9x9"),
        (FLOPS | {"1x48x80": 0.3}, SIZES, 5, "one bucket beside"),
    ],
)
def test_what_cannot_be_planned_is_an_error(flops, sizes, images, message):
    with pytest.raises(ConfigError, match=message):
        Plan(flops, sizes, images, BalanceConfig(video_to_image=2.0), 0)


def test_a_batch_that_cannot_fit_is_an_error_with_the_way_out():
    cfg = BalanceConfig(packs=2, batch_size=4, video_to_image=2.0, max_tokens=300)
    with pytest.raises(ConfigError, match="34x64x64 .96 tokens.* lower the batch size to 2, .* max_tokens to 432") as e:
        Plan(FLOPS, SIZES, 9, cfg, 0, TOKENS)
    needed = int(str(e.value).split("max_tokens to ")[1].split()[0])
    assert Plan(FLOPS, SIZES, 9, replace(cfg, max_tokens=needed), 0, TOKENS).batch_sizes["34x64x64"] == 4
    with pytest.raises(ConfigError, match="0 fit in a pack .* share samples among ranks"):
        Plan(FLOPS, SIZES, 9, replace(cfg, max_tokens=90), 0, TOKENS)
    with pytest.raises(ConfigError, match="needs the tokens of a sample of 17x48x80"):
        Plan(FLOPS, SIZES, 9, cfg, 0, {b: n for b, n in TOKENS.items() if b != "17x48x80"})


def test_notes_say_what_was_changed():
    heavy = Plan(FLOPS, SIZES, 9, BalanceConfig(batch_size=1, alpha=2.0), 0)
    assert heavy.notes == ["34x64x64: one sample costs 2.00 times the target of a pack; its packs take longest"]
    solved = Plan(FLOPS, SIZES, 9, BalanceConfig(batch_size=4, alpha=0.0), 0)
    assert solved.notes[0].startswith("alpha=1.8") and "4 asked for" in solved.notes[0]
    cut = Plan(FLOPS, SIZES, 9, BalanceConfig(batch_size=2, max_tokens=200), 0, TOKENS)
    assert cut.notes == [
        "17x48x80: 4 samples a pack instead of 5, to stay within 200 tokens",
        "17x64x64: 4 samples a pack instead of 5, to stay within 200 tokens",
    ]


@pytest.mark.parametrize(
    "wrong", [{"method": "best"}, {"packs": 0}, {"batch_size": 0}, {"video_to_image": -1}, {"alpha": 0.5}]
)
def test_a_wrong_balance_is_an_error(wrong):
    name, value = next(iter(wrong.items()))
    with pytest.raises(ValueError, match=f"balance.{name}={value!r}"):
        BalanceConfig(**wrong)
