"""Experiment files, each a lab note: the command, the expected time, and the numbers it gave."""
