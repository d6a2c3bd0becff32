"""A figure as the bytes of a PNG."""

import io

from matplotlib.figure import Figure


def figure_png(figure: Figure, *, dpi: int = 120, tight: bool = True) -> bytes:
    """A matplotlib figure as PNG; the bytes depend on the figure alone.

    tight: cut to what is drawn; otherwise all figures of one size give pictures of one size.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, bbox_inches="tight" if tight else None, metadata={"Software": None})
    return buffer.getvalue()
