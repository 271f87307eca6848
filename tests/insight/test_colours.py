"""Captions name the colours that are drawn: words of a page against the colours in its pictures."""

import base64
import colorsys
import io
import re
from html import unescape

import numpy as np
import pytest
from matplotlib import image
from matplotlib.colors import to_rgb

from home_dist.insight import plots, prepared_page
from home_dist.insight.report import report
from home_dist.insight.run_record import RunRecord
from tests.insight.heads import record_two_steps

HUES = {"orange": (15, 45), "green": (120, 170), "blue": (195, 240)}
"""Degrees on the circle of colours."""


def name_of(colour) -> str:
    """What a person calls it: a hue of HUES, or grey."""
    hue, saturation, _ = colorsys.rgb_to_hsv(*to_rgb(colour))
    if saturation < 0.2:
        return "grey"
    return next(name for name, (low, high) in HUES.items() if low <= 360 * hue <= high)


def svg_of(uri: str) -> str:
    return base64.b64decode(uri.partition("base64,")[2]).decode()


def pictures(html: str) -> list[tuple[str, str]]:
    """What each picture of a page is, and its SVG."""
    shown = re.findall(r'<img src="(data:image/svg[^"]+)" alt="([^"]+)"', html)
    return [(unescape(alt), svg_of(uri)) for uri, alt in shown]


def strokes_of_curves(svg: str) -> list[tuple[str, str]]:
    """Colour and dashes of each curve, in the order in which they are drawn; a legend's samples are not clipped."""
    styles = re.findall(r'<path [^>]*clip-path="[^"]*" style="(fill: none; [^"]*stroke-width: 1\.4[^"]*)"', svg)
    return [(re.search(r"stroke: (#\w+)", s)[1], "".join(re.findall(r"stroke-dasharray: ([\d.,]+)", s))) for s in styles]


def cells(svg: str) -> np.ndarray:
    """RGB of a map's pixels."""
    inside = re.search(r'xlink:href="data:image/png;base64,([^"]+)"', svg)[1]
    return image.imread(io.BytesIO(base64.b64decode(inside)))[..., :3]


@pytest.fixture(scope="module", params=["home", "ple", "adatt"])
def page(request, tmp_path_factory):
    """Of a run that has recorded two steps, and its parts."""
    folder = tmp_path_factory.mktemp(request.param)
    record_two_steps(folder, request.param)
    run = RunRecord.open(folder)
    return report([run]), run.names.parts


def about(html: str, anchor: str) -> str:
    return unescape(re.search(rf'<section id="{anchor}"><h2>[^<]*</h2><p class="soft">([^<]*)</p>', html)[1])


def test_curves_of_experts_have_the_colours_of_their_kinds(page):
    html, parts = page
    told = re.search(r"shared experts (\w+), those of groups (\w+), those of tasks (\w+)\.", about(html, "experts"))
    words = dict(zip(("shared", "group", "task"), told.groups(), strict=True))
    for figure in ("deviation of outputs", "norm of the gradient"):
        curves = [svg for alt, svg in pictures(html) if alt == f"{figure} over steps"]
        assert len(curves) == len(parts)
        for svg, part in zip(curves, parts, strict=True):
            strokes = strokes_of_curves(svg)
            assert [name_of(colour) for colour, _ in strokes] == [words[kind] for kind in part.kinds]
            if 1 < len(strokes) <= 10 and max(part.kinds.count(kind) for kind in part.kinds) <= 4:
                assert len(set(strokes)) == len(strokes)  # The legend tells experts of a kind apart by their dashes.


def test_bars_have_the_same_colours(page):
    html, parts = page
    used = {kind for part in parts for kind in part.kinds}
    bars = [svg for alt, svg in pictures(html) if alt == "norm of each task's gradient by kind of expert"]
    filled = {name_of(c) for svg in bars for c in re.findall(r'<path [^>]*clip-path="[^"]*" style="fill: (#\w+)"', svg)}
    assert filled == {plots.KIND_NAMES[kind] for kind in used}


def test_the_maps(page):
    html, parts = page
    assert "(blue: they pull against each other)" in about(html, "gradients")
    against = plots.signed_map("", np.array([[-1.0]]), ["a"])
    assert name_of(cells(svg_of(against))[0, 0]) == "blue"
    if any(part.gates for part in parts):
        assert "Grey: what the gate may not see" in about(html, "gates")
    unseen = plots.heat_map("", np.array([[0.7, 0.7]]), ["gate"], ["a", "b"], np.array([[True, False]]))
    pixels = cells(svg_of(unseen))
    assert (name_of(pixels[0, 0]), name_of(pixels[0, -1])) == ("blue", "grey")


def test_days_of_a_preparation():
    days = [
        {"day": f"2024-01-0{n}", "rows": 10 * n, "split": split, "known": {"like": 10}, "happened": {"like": 3}}
        for n, split in enumerate((None, "train", "validation", "test"), 1)
    ]
    counts = {"rows_in": 100, "rows_before_the_training_days": 10, "rows_without_a_row_in": {}, "splits": {}}
    section = prepared_page._rows({**counts, "days": days})
    told = re.search(r"training days are (\w+), validation days (\w+), test days (\w+), and older ones (\w+)\.", section.about)
    (_, svg), *_ = pictures(section.body)
    bars = [name_of(c) for c in re.findall(r'<path [^>]*clip-path="[^"]*" style="fill: (#\w+)"', svg)]
    assert bars == [told[4], told[1], told[2], told[3]]
