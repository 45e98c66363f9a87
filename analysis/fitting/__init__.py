"""``fit``: a table of runs and a law in, a card with honest intervals out. The card holds all that a reader needs."""

from analysis.fitting.fitted import Fit, Prediction, load_fit, read_card
from analysis.fitting.make import fit

__all__ = ["Fit", "Prediction", "fit", "load_fit", "read_card"]
