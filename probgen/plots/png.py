"""A figure as the bytes of a PNG."""

import io

from matplotlib.figure import Figure


def figure_png(figure: Figure) -> bytes:
    """A matplotlib figure as PNG; the bytes depend on the figure alone."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120, bbox_inches="tight", metadata={"Software": None})
    return buffer.getvalue()
