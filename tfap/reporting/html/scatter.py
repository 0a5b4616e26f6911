"""A picture of scores against latencies, with intervals."""

import dataclasses
import math
from collections.abc import Sequence

from tfap.reporting.html.elements import Html, element, joined, svg
from tfap.reporting.html.style import color

_WIDTH, _HEIGHT = 340.0, 250.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 48.0, 14.0, 14.0, 40.0


@dataclasses.dataclass(frozen=True)
class Point:
    """Holds a point.

    Attributes:
        name: String. Name of the model.
        x: Tuple of three floats: lower limit, value and upper limit.
        y: Tuple of three floats: lower limit, value and upper limit.
    """

    name: str
    x: tuple[float, float, float]
    y: tuple[float, float, float]


def scatter(points: Sequence[Point], x_label: str, y_label: str, percent: bool, unit: str = "ms") -> Html:
    """Draws numbered points with whiskers, and a legend below them.

    Args:
        points: Sequence of `Point`s. The axes include all of their intervals.
        x_label: String. Label of the x axis, which begins at 0.
        y_label: String. Label of the y axis.
        percent: Boolean. Whether y is a fraction, to be shown in percent.
        unit: String. Unit of x.

    Returns:
        `Html`.
    """
    x_axis = _Axis.over([0.0, *(value for point in points for value in point.x)], _LEFT, _WIDTH - _RIGHT)
    y_axis = _Axis.over([value for point in points for value in point.y], _HEIGHT - _BOTTOM, _TOP)
    said = "; ".join(f"{point.name}: {point.x[1]:.3g}, {_text(point.y[1], percent)}" for point in points)
    picture = svg(
        _WIDTH,
        _HEIGHT,
        f"{y_label} against {x_label}. {said}",
        _grid(x_axis, y_axis, percent),
        _labels(x_label, y_label),
        [_whiskers(point, index, x_axis, y_axis) for index, point in enumerate(points)],
        [_marker(point, index, x_axis, y_axis) for index, point in enumerate(points)],
        class_="scatter",
    )
    legend = [
        element(
            "li",
            number_dot(index),
            f"{point.name}: {_number(point.x[1])} {unit}, ",
            _text(point.y[1], percent),
        )
        for index, point in enumerate(points)
    ]
    return joined([picture, element("ul", legend, class_="legend")])


def number_dot(index: int) -> Html:
    """Writes the number of a model on its color."""
    return element("span", index + 1, class_="dot", style=f"background:{color(index)}")


@dataclasses.dataclass(frozen=True)
class _Axis:
    """Maps values to positions, with ticks at round numbers."""

    low: float
    high: float
    start: float
    end: float
    step: float

    @classmethod
    def over(cls, values, start, end):
        low, high = min(values), max(values)
        span = high - low or abs(high) or 1.0
        step = _round_step(span / 4)
        return cls(
            step * math.floor(low / step + 1e-9), step * math.ceil(high / step - 1e-9), start, end, step
        )

    def at(self, value):
        return self.start + (self.end - self.start) * (value - self.low) / (self.high - self.low or 1.0)

    @property
    def ticks(self):
        return [
            self.low + number * self.step for number in range(round((self.high - self.low) / self.step) + 1)
        ]


def _round_step(least):
    """Returns the smallest of 1, 2, 5, 10, ... times a power of ten that is not smaller."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= least * (1 - 1e-9))


def _grid(x_axis, y_axis, percent):
    bottom, top = _HEIGHT - _BOTTOM, _TOP
    for tick in x_axis.ticks:
        x = f"{x_axis.at(tick):.1f}"
        yield element("line", x1=x, x2=x, y1=top, y2=bottom, class_="grid")
        yield element("text", _tick(tick), x=x, y=bottom + 14, text_anchor="middle")
    for tick in y_axis.ticks:
        y = y_axis.at(tick)
        yield element("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=f"{y:.1f}", y2=f"{y:.1f}", class_="grid")
        yield element("text", _text(tick, percent), x=_LEFT - 5, y=f"{y + 3.5:.1f}", text_anchor="end")


def _labels(x_label, y_label):
    yield element("text", x_label, x=(_LEFT + _WIDTH - _RIGHT) / 2, y=_HEIGHT - 6, text_anchor="middle")
    middle = (_TOP + _HEIGHT - _BOTTOM) / 2
    yield element(
        "text", y_label, x=11, y=middle, text_anchor="middle", transform=f"rotate(-90 11 {middle:g})"
    )


def _whiskers(point, index, x_axis, y_axis):
    (x_low, x, x_high), (y_low, y, y_high) = map(x_axis.at, point.x), map(y_axis.at, point.y)
    style = {"class_": "whisker", "stroke": color(index)}
    yield element("line", x1=f"{x_low:.1f}", x2=f"{x_high:.1f}", y1=f"{y:.1f}", y2=f"{y:.1f}", **style)
    yield element("line", x1=f"{x:.1f}", x2=f"{x:.1f}", y1=f"{y_low:.1f}", y2=f"{y_high:.1f}", **style)


def _marker(point, index, x_axis, y_axis):
    x, y = x_axis.at(point.x[1]), y_axis.at(point.y[1])
    yield element("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=8, fill=color(index))
    yield element("text", index + 1, x=f"{x:.1f}", y=f"{y + 3.5:.1f}", text_anchor="middle", class_="number")


def _tick(value):
    for power, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 10 * power:
            return f"{value / power:.4g}{letter}"
    return f"{value:.4g}"


def _number(value):
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _text(value, percent):
    return f"{100 * value:.4g}%" if percent else f"{value:.4g}"
