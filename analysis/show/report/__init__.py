"""The report of a work directory: one HTML file that a reader can keep, print or send, and its summary as text."""

from analysis.show.report.page import FILE, write
from analysis.show.report.summary import summary

__all__ = ["FILE", "summary", "write"]
