"""From files, frames and records to a table of runs: readers, selection, the quality of data, the seal."""
