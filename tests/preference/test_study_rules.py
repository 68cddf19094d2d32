"""Who is excluded, by which rule, and that no vote disappears."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepvideo.evaluation.votes import Vote
from stepvideo.preference.adjudicate import MAJORITY, UNDECIDED, adjudicate, counts, queue
from stepvideo.preference.chance import at_least, at_most, entropy, longest_run, run_at_least
from stepvideo.preference.quality import EXCLUDED, OK, Screened, judge, screen, shown_answer
from stepvideo.preference.rules import Rules, digest
from stepvideo.preference.simulated import Annotator, Pair, answers, crowd

RULES = Rules()


def study(items: int = 60, checks: int = 10) -> list[Pair]:
    """Pairs in which a is the better one by 0.3, gold ones by 0.6, and repeats of the first."""
    made = [Pair(0.8, 0.5, {"item": f"i{n}", "prompt_id": f"p{n}"}) for n in range(items)]
    made += [Pair(0.9, 0.3, {"item": f"g{n}", "prompt_id": "g", "role": "gold", "expected": 1}) for n in range(checks)]
    made += [Pair(0.6, 0.6, {"item": f"s{n}", "prompt_id": "s", "role": "aa", "expected": 0}) for n in range(checks)]
    for n in range(checks):
        made.append(Pair(0.8, 0.5, {"item": f"r{n}", "prompt_id": f"p{n}", "role": "repeat", "repeat_of": f"i{n}"}))
    return made


def vote(item: str, who: str, outcome: int | None = 1, **more: object) -> Vote:
    return Vote("s", "compare", item, item, who, outcome=outcome, **more)  # type: ignore[arg-type]


@given(st.integers(1, 9), st.floats(0.05, 0.95))
@settings(max_examples=20, deadline=None)
def test_chances_are_those_of_all_possible_records(n: int, p: float) -> None:
    def mass(record: tuple[bool, ...]) -> float:
        return p ** sum(record) * (1 - p) ** (n - sum(record))

    records = list(itertools.product((True, False), repeat=n))
    for k in range(n + 1):
        assert at_most(k, n, p) == pytest.approx(sum(mass(r) for r in records if sum(r) <= k))
        assert at_least(k, n, p) == pytest.approx(sum(mass(r) for r in records if sum(r) >= k))
        assert run_at_least(k, n, p) == pytest.approx(sum(mass(r) for r in records if longest_run(r) >= k))


def test_long_records_do_not_overflow() -> None:
    assert at_most(2000, 5000, 0.5) < 1e-40 and at_least(2500, 5000, 0.5) == pytest.approx(0.5, abs=0.01)
    assert entropy("llll") == 0 and entropy("lrlr") == pytest.approx(1)


def test_an_honest_annotator_stays_and_is_described() -> None:
    quality = judge("simulated", list(answers(study(), [Annotator("simulated")], "s")), RULES)
    assert quality.verdict == OK and quality.reasons == () and quality.votes == 60 and quality.asked == 90
    found = {c.rule: c for c in quality.checks}
    assert found["gold_right"].hits >= 9 and found["gold_right"].n == found["aa_tie"].n == found["repeat_same"].n == 10
    assert quality.left_share is not None and 0.3 < quality.left_share.value < 0.7 and quality.left_share.low < 0.5
    assert quality.median_dwell_s is not None and 5 < quality.median_dwell_s < 12


@pytest.mark.parametrize(
    ("careless", "rule"),
    [
        (Annotator("simulated", careless=1.0), "gold_right"),
        (Annotator("simulated", constant="tie"), "gold_right"),
        (Annotator("simulated", constant="left"), "side_run"),
        (Annotator("simulated", constant="right"), "side_rate"),
        (Annotator("simulated", dwell_s=0.3), "fast_share"),
    ],
)
def test_careless_annotators_are_excluded_by_the_rule_for_them(careless: Annotator, rule: str) -> None:
    quality = judge("simulated", list(answers(study(), [careless], "s", seed=3)), RULES)
    assert quality.verdict == EXCLUDED
    assert {c.rule: c.p for c in quality.checks}[rule] < RULES.alpha


def test_repeats_find_who_answers_by_side() -> None:
    """Sides are swapped in a repeat: who always takes the left one contradicts themselves every time."""
    rows = [vote(f"i{n}", "w", 1 if n % 2 else -1, shown_left="a" if n % 2 else "b") for n in range(12)]
    rows += [
        vote(f"r{n}", "w", -1 if n % 2 else 1, shown_left="b" if n % 2 else "a", role="repeat", repeat_of=f"i{n}")
        for n in range(12)
    ]
    assert {shown_answer(v) for v in rows} == {"left"}
    same = {c.rule: c for c in judge("w", rows, RULES).checks}["repeat_same"]
    assert (same.hits, same.n) == (0, 12) and same.p < RULES.alpha


def test_constant_scores_of_metric_2_are_found_and_changing_ones_stay() -> None:
    def rated(who: str, scores: list[int]) -> list[Vote]:
        said = ("instruction_following", "motion_smoothness", "physical_plausibility", "aesthetic_appeal")
        return [
            Vote("s", "rate", f"i{n}", "p", who, model="m", **dict.fromkeys(said, s))  # type: ignore[arg-type]
            for n, s in enumerate(scores)
        ]

    assert judge("w", rated("w", [3] * 30), RULES).verdict == EXCLUDED
    assert judge("w", rated("w", [3, 4, 2, 5, 3, 1, 4, 4, 2, 3] * 3), RULES).verdict == OK
    gold = [
        Vote("s", "rate", "g", "p", "w", role="gold", expected=-1, model="m", instruction_following=1,
             motion_smoothness=2, physical_plausibility=1, aesthetic_appeal=2)
    ]  # fmt: skip
    assert {c.rule: c.hits for c in judge("w", gold, RULES).checks}["gold_right"] == 1


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abc"), st.sampled_from([1, 0, -1, None]), st.sampled_from(["vote", "gold", "practice"]),
            st.floats(0, 9),
        )
    )
)  # fmt: skip
@settings(max_examples=20, deadline=None)
def test_every_row_is_in_one_place(rows: list[tuple[str, int | None, str, float]]) -> None:
    given_rows = [
        vote(f"i{n}", who, outcome, role=role, dwell_s=dwell, skipped="" if outcome is not None else "unsure")
        for n, (who, outcome, role, dwell) in enumerate(rows)
    ]
    found = screen(given_rows, RULES)
    again = [*found.included, *(v for v, _ in found.excluded), *found.checks, *found.skipped]
    assert sorted(v.item for v in again) == sorted(v.item for v in given_rows)
    assert all(reason for _, reason in found.excluded)
    assert all(v.dwell_s is not None and v.dwell_s >= RULES.min_dwell_s for v in found.included)


def test_excluding_somebody_says_why_on_every_vote() -> None:
    people = [*crowd(2), Annotator("simulated-left", constant="left")]
    found = screen(answers(study(), people, "s"), RULES)
    assert len(found.included) == 120 and {v.annotator for v, _ in found.excluded} == {"simulated-left"}
    assert all("one side in a row" in reason for _, reason in found.excluded)


def test_rules_name_their_mistakes_and_change_their_digest() -> None:
    with pytest.raises(ValueError, match=r"rules.gold_right=1.5"):
        Rules(gold_right=1.5)
    with pytest.raises(ValueError, match="watch"):
        Rules(alpha=0.1)
    assert digest(Rules()) == digest(Rules()) != digest(Rules(alpha=0.001))


def screened(*rows: Vote, excluded: tuple[Vote, ...] = ()) -> Screened:
    return Screened(list(rows), [(v, "careless") for v in excluded], [], [], {})


def test_majorities_decide_and_the_rest_is_queued() -> None:
    rows = [vote("clear", w, 1) for w in "abc"] + [vote("split", w, o) for w, o in zip("abc", (1, 1, -1), strict=True)]
    rows += [vote("open", w, o) for w, o in zip("abc", (1, 0, -1), strict=True)] + [vote("few", "a", 1)]
    lost = (vote("clear", "d", -1), vote("gone", "d", 1), vote("most", "d", 1))
    rows += [vote("most", w, o) for w, o in zip("abc", (1, 1, 0), strict=True)]
    found = {d.item: d for d in adjudicate(screened(*rows, excluded=lost), least=2)}
    assert (found["clear"].outcome, found["clear"].by, found["clear"].why) == (1, MAJORITY, "")
    assert (found["split"].outcome, found["split"].why) == (1, "votes both ways")
    assert found["open"].outcome is None and found["open"].why == "no majority; votes both ways"
    assert found["few"].by == UNDECIDED and found["few"].why == "1 of 2 votes"
    assert (found["most"].outcome, found["most"].why) == (1, "1 excluded")
    assert found["gone"].outcome is None and found["gone"].why == "0 of 2 votes; 1 excluded"
    assert [d.item for d in queue(found.values())] == ["few", "gone", "open", "most", "split"]


def test_an_adjudicator_decides_alone_even_against_all() -> None:
    rows = [vote("x", w, 1) for w in "abc"] + [vote("y", w, 1) for w in "abc"]
    last = (vote("x", "boss", -1), vote("y", "boss", 1), vote("y", "chief", 0))
    found = adjudicate(screened(*rows, *last), adjudicators={"boss", "chief"})
    assert [(d.outcome, d.by) for d in found] == [(-1, "adjudicated"), (None, "undecided")]
    assert found[1].why == "adjudicators differ" and len(found[0].votes) == 3
    assert counts(found) == {"majority": 0, "adjudicated": 1, "undecided": 1, "queued": 1}


def test_simulated_annotators_answer_alike_for_one_seed_and_say_what_they_are() -> None:
    rows = list(answers(study(5, 1), crowd(2), "s", seed=1))
    assert (
        rows == list(answers(study(5, 1), crowd(2), "s", seed=1)) != list(answers(study(5, 1), crowd(2), "s", seed=2))
    )
    assert all(v.simulated == "true" and v.annotator.startswith("simulated") for v in rows)
    biased = replace(crowd(1)[0], left=1.0, noise=0.0, flip=0.0)
    assert {shown_answer(v) for v in answers(study(9, 1), [biased], "s")} == {"left"}
    assert set(Annotator("simulated").rate(0.9, 1).values()) <= {4, 5}
    with pytest.raises(ValueError, match="flip=2"):
        Annotator("x", flip=2)
