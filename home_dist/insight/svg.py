"""Style of pictures, and their embedding into a page: SVG in data URIs, so that the page needs no other file."""

import base64
import io

import matplotlib

matplotlib.use("svg")

from matplotlib import pyplot
from matplotlib.figure import Figure

__all__ = ["NAMED", "pyplot", "uri"]

NAMED = {"blue": "#2563a8", "orange": "#d9730d", "green": "#2a9d76", "grey": "#9aa3af"}
"""Colours by the names that captions use."""

matplotlib.rcParams.update(
    {
        "font.family": "DejaVu Sans",
        "font.size": 8,
        "axes.titlesize": 9,
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": "#9aa3af",
        "axes.labelcolor": "#4b5563",
        "axes.grid": True,
        "grid.color": "#e5e7eb",
        "grid.linewidth": 0.7,
        "axes.axisbelow": True,
        "xtick.color": "#4b5563",
        "ytick.color": "#4b5563",
        "legend.frameon": False,
        "svg.hashsalt": "home_dist",
        "figure.constrained_layout.use": True,
    }
)


def uri(figure: Figure) -> str:
    """The figure as a data URI; closes the figure."""
    content = io.BytesIO()
    figure.savefig(content, format="svg", metadata={"Date": None}, transparent=True)
    pyplot.close(figure)
    return "data:image/svg+xml;base64," + base64.b64encode(content.getvalue()).decode()
