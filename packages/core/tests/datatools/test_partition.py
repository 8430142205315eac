"""Dividing groups of images: a partition, groups whole, numbers as asked, classes everywhere."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stdet.datatools.partition import joined, partition


@st.composite
def divisions(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Groups, strata, wanted numbers, seed."""
    count = draw(st.integers(3, 60))
    raw = draw(st.lists(st.integers(0, draw(st.integers(0, count))), min_size=count, max_size=count))
    groups = np.unique(raw, return_inverse=True)[1]
    classes = draw(st.integers(1, 4))
    flat = draw(st.lists(st.integers(0, 3), min_size=count * classes, max_size=count * classes))
    val, test = draw(st.integers(1, count - 1)), draw(st.integers(0, count - 1))
    wanted = [count - val, val] if val + test >= count else [count - val - test, val, test]
    return groups, np.array(flat).reshape(count, classes), np.array(wanted), draw(st.integers(0, 5))


@given(divisions())
def test_groups_stay_whole_and_the_numbers_are_met_as_far_as_groups_allow(
    drawn: tuple[np.ndarray, np.ndarray, np.ndarray, int],
) -> None:
    groups, strata, wanted, seed = drawn
    side = partition(groups, strata, wanted, np.random.default_rng(seed))
    assert len(side) == len(groups)
    assert set(side) <= set(range(len(wanted)))
    for group in np.unique(groups):
        assert len(set(side[groups == group])) == 1
    counts = np.bincount(side, minlength=len(wanted))
    assert (counts - wanted <= np.bincount(groups).max() - 1).all()
    assert (side == partition(groups, strata, wanted, np.random.default_rng(seed))).all()


@given(st.lists(st.integers(3, 9), min_size=1, max_size=5), st.integers(0, 9), st.integers(0, 9), st.integers(0, 9))
def test_every_class_is_on_every_side_that_has_room(counts: list[int], train: int, val: int, seed: int) -> None:
    """One object an image: a side with room for one image of each class has them all."""
    labels = np.repeat(np.arange(len(counts)), counts)
    strata = np.eye(len(counts), dtype=np.int64)[labels]
    least, spare = len(counts), len(labels) - 3 * len(counts)
    train, val = min(train, spare), min(val, max(0, spare - train))
    wanted = np.array([least + train, least + val, least + spare - train - val])
    side = partition(np.arange(len(labels)), strata, wanted, np.random.default_rng(seed))
    assert np.bincount(side).tolist() == wanted.tolist()
    for number in range(3):
        assert set(labels[side == number]) == set(range(len(counts)))


def test_a_class_is_shared_out_as_the_images_are() -> None:
    rng = np.random.default_rng(0)
    strata = (rng.random((400, 6)) < [0.6, 0.3, 0.1, 0.05, 0.03, 0.02]).astype(np.int64)
    strata[0] = 1
    side = partition(np.arange(400), strata, np.array([280, 80, 40]), rng)
    for number, share in enumerate((0.7, 0.2, 0.1)):
        got = strata[side == number].sum(0)
        assert (np.abs(got - share * strata.sum(0)) <= np.maximum(2, 0.25 * share * strata.sum(0))).all()


def test_a_class_of_a_single_image_is_trained_on() -> None:
    strata = np.zeros((10, 2), np.int64)
    strata[7, 1] = 1
    strata[:, 0] = 1
    for seed in range(10):
        assert partition(np.arange(10), strata, np.array([6, 2, 2]), np.random.default_rng(seed))[7] == 0


@given(st.integers(1, 30), st.lists(st.tuples(st.integers(0, 29), st.integers(0, 29)), max_size=30))
def test_what_is_linked_through_others_is_one_group(count: int, pairs: list[tuple[int, int]]) -> None:
    links = np.array([pair for pair in pairs if max(pair) < count], np.int64).reshape(-1, 2)
    reach = np.eye(count, dtype=bool)
    reach[links[:, 0], links[:, 1]] = reach[links[:, 1], links[:, 0]] = True
    for middle in range(count):  # Warshall's transitive closure
        reach |= np.outer(reach[:, middle], reach[middle])
    groups = joined(count, links)
    assert ((groups[:, None] == groups) == reach).all()
    assert sorted(set(groups.tolist())) == list(range(groups.max() + 1))
