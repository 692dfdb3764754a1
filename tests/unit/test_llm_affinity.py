"""Which replica: the prompt's own while it isn't busier than others; bounded, never a dead one."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.llm.routing.affinity import PIECE, PrefixAffinity, beginnings

LOADS = {"a": 0, "b": 0, "c": 0}


def body(text: str, **more: object) -> dict[str, object]:
    return {"model": "m", "messages": [{"role": "user", "content": text}], **more}


def affinity(**more: int) -> PrefixAffinity:
    return PrefixAffinity(rng=random.Random(1), **more)


def test_beginnings_are_shared_by_prompts_that_begin_alike() -> None:
    common = "x" * 3 * PIECE
    one, other = beginnings(body(common + "one")), beginnings(body(common + "another"))
    assert one[:3] == other[:3]
    assert len(set(one)) == len(one)
    assert beginnings(body("short")) == []
    assert beginnings(body(common))[0] != beginnings(body(common) | {"model": "n"})[0]
    parts = [{"type": "text", "text": common + "one"}]
    assert beginnings({"model": "m", "messages": [{"role": "user", "content": parts}]}) == one
    assert len(beginnings({"model": "m", "prompt": "y" * 100_000})) == 16
    assert beginnings({"model": "m", "prompt": "\ud800" * PIECE})


def test_a_known_beginning_goes_where_it_was_read() -> None:
    chooser = affinity()
    keys = beginnings(body("x" * 2_000))
    chooser.routed(keys, "b")
    longer = beginnings(body("x" * 2_000 + "and more " * 100))
    assert {chooser.choose(longer, LOADS) for _ in range(20)} == {"b"}
    assert chooser.statistics()["by_cache"] == 20


def test_load_comes_before_the_cache() -> None:
    chooser = affinity(imbalance=2)
    keys = beginnings(body("x" * 2_000))
    chooser.routed(keys, "b")
    assert chooser.choose(keys, {"a": 1, "b": 3, "c": 5}) == "b"
    assert chooser.choose(keys, {"a": 1, "b": 4, "c": 5}) == "a"


def test_the_dead_and_the_avoided_are_not_chosen() -> None:
    chooser = affinity()
    keys = beginnings(body("x" * 2_000))
    chooser.routed(keys, "b")
    assert chooser.choose(keys, {"a": 0, "c": 0}) in {"a", "c"}
    assert chooser.choose(keys, LOADS, avoid="b") in {"a", "c"}
    assert chooser.choose(keys, {"b": 9}, avoid="b") == "b", "there is nobody else"
    with pytest.raises(ValueError, match="no replica"):
        chooser.choose(keys, {})


def test_unknown_prompts_spread_by_two_choices() -> None:
    chooser, loads = affinity(), dict(LOADS)
    for _ in range(300):
        loads[chooser.choose([], loads)] += 1
    assert max(loads.values()) - min(loads.values()) <= 3


def test_what_is_remembered_is_bounded() -> None:
    chooser = affinity(kept=50)
    for number in range(100):
        chooser.routed(beginnings(body(f"{number}" * 600)), "a")
    assert chooser.statistics()["known"] == 50


@given(st.lists(st.integers(0, 5), min_size=20, max_size=200), st.integers(0, 1_000))
def test_a_hot_prompt_never_makes_a_hot_spot(prompts: list[int], seed: int) -> None:
    """Whatever comes, nobody gets further ahead of the least busy than the allowance and one."""
    chooser = PrefixAffinity(imbalance=3, rng=random.Random(seed))
    loads: Counter[str] = Counter(LOADS)
    for prompt in prompts:
        keys = beginnings(body(f"{prompt}" * 1_000))
        name = chooser.choose(keys, loads)
        chooser.routed(keys, name)
        loads[name] += 1
    assert max(loads.values()) - min(loads.values()) <= 3 + 2
