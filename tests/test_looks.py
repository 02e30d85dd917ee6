"""What images look like, and how often each kind is drawn."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from medseg.looks import draw_order, look_of


@pytest.mark.parametrize(
    ("image", "label", "look"),
    [
        (np.array([[[1.0, 5.0, 1.0]]]), np.array([[0, 3, 0]]), "grey, bright objects"),
        (np.array([[[5, 1, 5]]] * 3), np.array([[0, 3, 0]]), "grey, dark objects"),
        (np.array([[[5, 1, 5]], [[5, 2, 5]], [[5, 1, 5]]]), np.array([[0, 3, 0]]), "coloured, dark objects"),
        (np.array([[[5, 1, 5]]]), np.zeros((1, 3), int), "grey"),
        (np.array([[[5, 1, 5]]]), np.ones((1, 3), int), "grey"),
    ],
)
def test_looks(image: np.ndarray, label: np.ndarray, look: str) -> None:
    assert look_of(image, label) == look


def counts(balance: float, rounds: int = 400) -> Counter[int]:
    looks = ["a"] * 60 + ["b"] * 15 + ["c"] * 5
    return Counter(i for r in range(rounds) for i in draw_order(looks, balance, [3, r]).tolist())


def test_without_balance_each_case_comes_once() -> None:
    assert set(counts(0.0).values()) == {400}


def test_half_a_balance_draws_looks_by_the_root_of_their_number() -> None:
    found = counts(0.5)
    share = [sum(found[i] for i in cases) for cases in (range(60), range(60, 75), range(75, 80))]
    expected = np.sqrt([60, 15, 5])
    np.testing.assert_allclose(np.array(share) / sum(share), expected / expected.sum(), atol=0.01)


def test_no_case_comes_more_than_four_times_as_often() -> None:
    found = counts(1.0)  # evenly it would be 12 times
    often = np.mean([found[i] for i in range(75, 80)]) / np.mean([found[i] for i in range(60)])
    assert often == pytest.approx(4, rel=0.05)


def test_cases_of_a_look_come_equally_often_in_a_round() -> None:
    for r in range(50):
        found = Counter(draw_order(["a"] * 40 + ["b"] * 10, 0.5, [r]).tolist())
        for cases in (range(40), range(40, 50)):
            assert max(found[i] for i in cases) - min(found[i] for i in cases) <= 1
        assert sum(found.values()) == 50


def test_a_round_is_a_function_of_its_seed() -> None:
    looks = ["a"] * 30 + ["b"] * 4
    np.testing.assert_array_equal(draw_order(looks, 0.5, [1, 2]), draw_order(looks, 0.5, [1, 2]))
    assert (draw_order(looks, 0.5, [1, 2]) != draw_order(looks, 0.5, [1, 3])).any()
