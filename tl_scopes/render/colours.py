"""From scores to colour values and colours: one rule for page, terminal and figure."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

RGB = tuple[int, int, int]

WHITE: RGB = (255, 255, 255)
BLACK: RGB = (0, 0, 0)
# circuitsvis paints its tokens in these two (its multi-site component takes no others), so
# everything beside them does too. Red and blue stay apart for every kind of colour blindness.
POSITIVE: RGB = (0, 0, 255)
NEGATIVE: RGB = (255, 0, 0)

MAX_DECADES = 4
# What white and black become on a dark ground, as lightness in CIELAB: neither glares.
DARKEST, LIGHTEST = 6.0, 96.0


@dataclass(frozen=True)
class Scale:
    """How one set of scores becomes colour values in [-1, 1] (at or above 0 for usual scores).

    `limit`: the largest magnitude in the scale; it and everything beyond gets full colour.
    `decades`: 0 for a linear scale; else a logarithmic one, colourless at `limit / 10**decades`.
    `signed`: some score is negative, so the scale runs to both sides of zero.
    """

    limit: float
    decades: int = 0
    signed: bool = False

    @classmethod
    def fit(cls, scores: np.ndarray, kind: str, signed: bool = False) -> Scale:
        """The scale that `scores` fill. A logarithmic one spans 1 to 4 whole decades.

        `signed`: both sides of zero, whatever the scores are.
        """
        size = np.abs(scores[scores != 0])
        limit = float(size.max()) if size.size else 0.0
        signed = signed or bool((scores < 0).any())
        if kind == "linear" or not limit:
            return cls(limit, 0, signed)
        decades = math.ceil(math.log10(limit) - math.log10(float(size.min())) + 1e-9)
        return cls(limit, min(max(decades, 1), MAX_DECADES), signed)

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        """Colour values of `scores`, same shape; all zero for a scale that nothing fills."""
        if not self.limit:
            return np.zeros_like(scores, dtype=float)
        share = np.clip(np.abs(scores) / self.limit, 0.0, 1.0)
        if self.decades:
            small = share <= 10.0**-self.decades
            share = 1 + np.log10(np.where(small, 1.0, share)) / self.decades
            share = np.where(small, 0.0, share)
        return np.copysign(share, scores)

    @property
    def low(self) -> float:
        """The least colour value: -1 or 0."""
        return -1.0 if self.signed else 0.0

    def ticks(self) -> list[tuple[float, float]]:
        """`(colour value, score)` pairs to label a legend with, from the lowest."""
        if not self.limit:
            return [(0.0, 0.0)]
        if self.decades:
            up = [(1 - i / self.decades, self.limit / 10.0**i) for i in range(self.decades, -1, -1)]
        else:
            up = [(x, x * self.limit) for x in (0.0, 0.5, 1.0)]
        down = [(-x, -score) for x, score in reversed(up) if x > 0] if self.signed else []
        return down + up

    def labels(self) -> list[tuple[float, str]]:
        """`ticks` written out: where a logarithmic scale has no colour, what it hides."""
        hides = "±" if self.signed else "≤ "
        return [
            (at, f"{hides if self.decades and at == 0 else ''}{number(score)}")
            for at, score in self.ticks()
        ]


def fitting(labels: list[tuple[float, str]], width: int) -> list[tuple[float, str]]:
    """As many of `labels` (place from 0 to 1, text) as `width` characters hold side by side.

    The ends, which are written inwards, and what stands in the middle (zero) always stay.
    """
    last = len(labels) - 1
    middle = next((i for i, (at, _) in enumerate(labels) if at == 0.5), 0)
    kept = range(last + 1)
    for step in range(1, last + 1):
        kept = [i for i in range(last + 1) if i in (0, last) or (i - middle) % step == 0]
        starts, ends = [], []
        for i in kept:
            at, text = labels[i]
            share = 0.0 if i == 0 else 1.0 if i == last else 0.5
            starts.append(at * width - share * len(text))
            ends.append(starts[-1] + len(text) + 2)
        if all(end <= start for end, start in zip(ends, starts[1:])):
            break
    return [labels[i] for i in kept]


def number(value: float) -> str:
    """Three significant digits, short: 0.0123, 1.2e-5, 48200. What is no number: nan, ∞ or -∞."""
    if not math.isfinite(value):
        return "nan" if math.isnan(value) else "∞" if value > 0 else "-∞"
    if not value:
        return "0"  # never -0
    if not 1e-3 <= abs(value) < 1e5:
        mantissa, _, exponent = f"{value:.2e}".partition("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    digits = 2 - math.floor(math.log10(abs(value)))
    text = f"{value:.{max(digits, 0)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def percent(share: float) -> str:
    """A share of 1 as a percentage that never rounds something to nothing."""
    if 0 < share < 0.001:
        return "<0.1%"
    return f"{100 * share:.1f}%"


def colour(value: float) -> RGB:
    """The colour of a colour value in [-1, 1]: white mixed with blue or red in CIELAB."""
    end = POSITIVE if value >= 0 else NEGATIVE
    return mix(WHITE, end, min(abs(value), 1.0))


def mix(start: RGB, end: RGB, share: float) -> RGB:
    """`share` of the way from `start` to `end` in CIELAB (D50, as the colord library mixes)."""
    if share <= 0 or share >= 1:
        return start if share <= 0 else end
    a, b = _to_lab(start), _to_lab(end)
    return _from_lab(a + (b - a) * share)


def hexed(rgb: RGB) -> str:
    """As pages, terminals and matplotlib take it: `#rrggbb`."""
    return "#{:02x}{:02x}{:02x}".format(*rgb)


def ink(paper: RGB) -> RGB:
    """For text on `paper`: white or black, whichever has more contrast, 4.5 at least."""
    return max((WHITE, BLACK), key=lambda each: contrast(each, paper))


def contrast(a: RGB, b: RGB) -> float:
    """The contrast ratio of WCAG 2.2, from 1 to 21; text should have 4.5."""
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def luminance(rgb: RGB) -> float:
    """The relative luminance of WCAG 2.2: 0 for black, 1 for white."""
    return float(_LUMINANCE @ _linear(rgb))


def turned(colour: RGB) -> RGB:
    """For a dark ground: as light as `colour` is dark, and of its hue. White becomes near black."""
    light, *hue = _to_lab(colour)
    return _from_lab(np.array([DARKEST + (100 - light) * (LIGHTEST - DARKEST) / 100, *hue]))


# sRGB (linear) to XYZ under D65, Bradford-adapted to D50, and back.
_D50 = np.array([0.96422, 1.0, 0.82521])
_TO_XYZ = np.array(
    [
        [0.4360747, 0.3850649, 0.1430804],
        [0.2225045, 0.7168786, 0.0606169],
        [0.0139322, 0.0971045, 0.7141733],
    ]
)
_FROM_XYZ = np.linalg.inv(_TO_XYZ)
_LUMINANCE = np.array([0.2126, 0.7152, 0.0722])
_EPSILON, _KAPPA = 216 / 24389, 24389 / 27


def _to_lab(rgb: RGB) -> np.ndarray:
    f = _TO_XYZ @ _linear(rgb) / _D50
    f = np.where(f > _EPSILON, np.cbrt(f), (_KAPPA * f + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def _linear(rgb: RGB) -> np.ndarray:
    c = np.array(rgb) / 255
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def _from_lab(lab: np.ndarray) -> RGB:
    y = (lab[0] + 16) / 116
    f = np.array([y + lab[1] / 500, y, y - lab[2] / 200])
    xyz = np.where(f**3 > _EPSILON, f**3, (116 * f - 16) / _KAPPA) * _D50
    linear = np.clip(_FROM_XYZ @ xyz, 0, 1)
    c = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    r, g, b = (round(float(x) * 255) for x in np.clip(c, 0, 1))
    return r, g, b
