"""Data sets: from files to batches of tokens with a loss mask.

The way of a row, and the module to read for each step:

1. ``formats/files.py`` reads a file as records (JSONL, JSON, CSV, Parquet, text).
2. ``formats/reader.py`` converts records to rows: ``formats/layouts.py`` recognises the columns,
   ``formats/turns.py`` reads the turns, and ``rows.py`` defines the row.
3. ``prepared.py`` cleans, checks and splits the rows; ``sets.py`` samples the rows of one run.
4. ``encoding/examples.py`` makes examples of rows, and ``encoding/encoder.py`` encodes each as
   tokens with its loss mask; ``gate.py`` compares every mask with what inference sends.
5. ``datamodule.py`` deals the examples into batches, whose loss the training package computes.
"""
