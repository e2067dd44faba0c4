"""AUROC by counting pairs, and its interval where it is known."""

from __future__ import annotations

import numpy as np
import pytest
from anomaly import auroc, auroc_interval


def test_it_is_the_share_of_pairs_in_order() -> None:
    rng = np.random.default_rng(0)
    high, low = rng.integers(0, 9, 40) + 2.0, rng.integers(0, 9, 30) + 0.0  # with many ties
    pairs = [1.0 if h > n else 0.5 if h == n else 0.0 for h in high for n in low]
    assert auroc(high, low) == pytest.approx(np.mean(pairs))
    assert auroc(low, high) == pytest.approx(1 - np.mean(pairs))


def test_extremes() -> None:
    assert auroc(np.array([3.0, 4.0]), np.array([1.0, 2.0])) == 1
    assert auroc(np.array([1.0, 1.0]), np.array([1.0])) == 0.5
    with pytest.raises(ValueError, match="one kind"):
        auroc(np.array([]), np.array([1.0]))


def test_the_interval_is_over_units_not_frames() -> None:
    rng = np.random.default_rng(0)
    units = [(rng.normal(1, 1, 1), rng.normal(0, 1, 1)) for _ in range(60)]
    value, low, high = auroc_interval(units)
    assert low < value < high
    assert value == pytest.approx(auroc(*(np.concatenate(side) for side in zip(*units, strict=True))))
    repeated = [(h.repeat(50), n.repeat(50)) for h, n in units]
    np.testing.assert_allclose(auroc_interval(repeated), (value, low, high))


def test_units_may_hold_one_kind_alone() -> None:
    none = np.array([])
    units = [(np.array([2.0, 3.0]), none), (np.array([4.0]), none), (none, np.array([1.0])), (none, np.array([0.0]))]
    assert auroc_interval(units) == (1, 1, 1)
    for few in (units[1:], units[:3], [(np.array([1.0]), np.array([0.0]))]):
        with pytest.raises(ValueError, match="2 units or more of each kind"):
            auroc_interval(few)
