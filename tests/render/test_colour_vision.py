"""Colours as people see them who lack a kind of cone: the two signs and the steps stay apart."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from tl_scopes.render.colours import colour, mix, turned
from tl_scopes.render.console import LOW, NEGATIVE, POSITIVE

# Machado, Oliveira and Fernandes (2009), severity 1, for linear RGB.
VISION = {
    "all cones": np.eye(3),
    "protanopia": np.array([
        [0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998],
    ]),
    "deuteranopia": np.array([
        [0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881],
    ]),
    "tritanopia": np.array([
        [1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900],
    ]),
}  # fmt: skip
# Linear RGB to XYZ, and white, both under D65 (IEC 61966-2-1).
TO_XYZ = np.array([
    [0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505],
])  # fmt: skip
# In CIELAB, where 2.3 between two fields side by side is what full vision just notices.
STEP, SIGNS = 3.0, 70.0
STEPS = np.linspace(0, 1, 9)
GROUNDS = {"paper": colour, "dark": lambda value: turned(colour(value))}
TERMINAL = {"terminal": lambda value: mix(LOW, POSITIVE if value > 0 else NEGATIVE, abs(value))}


def lab(rgb, vision) -> np.ndarray:
    """CIELAB of a colour as it looks to `vision`."""
    c = np.array(rgb) / 255
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    seen = np.clip(VISION[vision] @ linear, 0, 1)
    share = TO_XYZ @ seen / (TO_XYZ @ np.ones(3))
    f = np.where(share > (6 / 29) ** 3, np.cbrt(share), share * (29 / 6) ** 2 / 3 + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def apart(a, b, vision) -> float:
    return float(np.linalg.norm(lab(a, vision) - lab(b, vision)))


def test_the_measure_itself():
    """White has no hue in any vision; red and olive are nearly one where red has no cones."""
    for vision in VISION:
        assert lab((255, 255, 255), vision) == pytest.approx([100, 0, 0], abs=0.05)
    red, olive = (255, 0, 0), (110, 90, 0)
    assert apart(red, olive, "protanopia") < 5 < 80 < apart(red, olive, "all cones")
    # As tables of sRGB have pure blue.
    assert lab((0, 0, 255), "all cones") == pytest.approx([32.3, 79.2, -107.9], abs=0.1)


@pytest.mark.parametrize("ground", GROUNDS | TERMINAL)
@pytest.mark.parametrize("vision", VISION)
def test_blue_and_red_stay_apart(vision, ground):
    shade = (GROUNDS | TERMINAL)[ground]
    for size in (0.25, 0.5, 0.75, 1.0):
        assert apart(shade(size), shade(-size), vision) > SIGNS * size


@pytest.mark.parametrize("ground", GROUNDS)
@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("sign", [1, -1])
def test_neighbouring_steps_stay_apart_and_their_lightness_keeps_its_order(vision, ground, sign):
    shades = [GROUNDS[ground](sign * size) for size in STEPS]
    assert min(apart(a, b, vision) for a, b in pairwise(shades)) > STEP
    light = [lab(shade, vision)[0] for shade in shades]
    assert light == sorted(light, reverse=ground == "paper")
