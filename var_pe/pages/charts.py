"""What charts share: colours that can be told apart, figures as PNG."""

import io

from matplotlib.figure import Figure  # without pyplot: no window, no global state

# Okabe & Ito's colours, which the colour-blind can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def png(figure: Figure) -> bytes:
    """The figure as a picture file."""
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()
