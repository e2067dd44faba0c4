"""A plot shows each value where it belongs."""

from __future__ import annotations

import numpy as np
import pytest

from kinema.report.plot import BOTTOM, COLOURS, HEIGHT, LEFT, MARK, RIGHT, TOP, WIDTH, plot

PLACES = np.arange(11.0)


def rows(picture: np.ndarray, colour: tuple[int, int, int], column: int) -> np.ndarray:
    """Where a colour is, at a column of pixels within the axes."""
    near = np.abs(picture[TOP : HEIGHT - BOTTOM, column].astype(int) - colour).max(1) < 40
    return near.nonzero()[0]


def column(place: float) -> int:
    return round(LEFT + place / 10 * (WIDTH - LEFT - RIGHT))


def test_a_line_rises_from_corner_to_corner() -> None:
    picture = plot({"a": (PLACES, PLACES)}, title="t", x="x")
    assert picture.shape == (HEIGHT, WIDTH, 3)
    inside = HEIGHT - TOP - BOTTOM
    for place in (2.5, 5.5, 8.5):
        assert rows(picture, COLOURS[0], column(place)).mean() == pytest.approx(inside * (1 - place / 10), abs=2)


def test_it_stops_where_there_is_no_value() -> None:
    values = np.where(PLACES == 5, np.nan, PLACES)
    picture = plot({"a": (PLACES, values)}, title="t", x="x")
    assert not len(rows(picture, COLOURS[0], column(4.5))) and len(rows(picture, COLOURS[0], column(3.5)))
    with pytest.raises(ValueError, match="no values"):
        plot({"a": (PLACES, values * np.nan)}, title="t", x="x")


def test_what_is_above_the_level_is_marked() -> None:
    picture = plot({"a": (PLACES, PLACES)}, title="t", x="x", level=6.0)
    assert len(rows(picture, COLOURS[0], column(4.5))) and not len(rows(picture, COLOURS[0], column(8.5)))
    assert len(rows(picture, MARK, column(8.5)))


def test_curves_have_colours_of_their_own() -> None:
    picture = plot({"a": (PLACES, PLACES), "b": (PLACES, 10 - PLACES)}, title="t", x="x")
    up, down = (rows(picture, colour, column(2.5)).mean() for colour in COLOURS[:2])
    assert up > down


@pytest.mark.parametrize("values", [[5.0] * 11, [0.0] * 11, [1e-7] * 11, [-1e6] * 11])
def test_constants_can_be_drawn(values: list[float]) -> None:
    plot({"a": (PLACES, np.array(values))}, title="t", x="x")
