"""Tables of runs from files, DataFrames and records: readers, selection, data quality, the seal."""
