"""What charts share: colours and line styles that can be told apart, figures as PNG."""

import io
from collections.abc import Iterable
from itertools import cycle

from matplotlib.figure import Figure  # without pyplot: no window, no global state

# Okabe & Ito's colours, which the colour-blind can tell apart; the line styles go on where they end.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINE_STYLES = ("-", "--", ":", "-.")


def line_looks(names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """A colour and a line style for each name, the same in every chart that shows these names."""
    looks = cycle([(colour, style) for style in LINE_STYLES for colour in COLOURS])
    return dict(zip(names, looks, strict=False))


def png(figure: Figure) -> bytes:
    """The figure as a picture file."""
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()
