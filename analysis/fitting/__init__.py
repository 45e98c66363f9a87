"""``fit`` turns a table of runs and a law into a card with intervals that hold everything a reader needs."""

from analysis.fitting.fitted import Fit, Prediction, check_fit, load_fit, read_card
from analysis.fitting.make import fit

__all__ = ["Fit", "Prediction", "check_fit", "fit", "load_fit", "read_card"]
