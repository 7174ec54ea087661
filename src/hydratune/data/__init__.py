"""Data sets: from files to batches of tokens with a loss mask.

The way of a row, and the module to read for each step:

1. A module of ``sources`` or ``cases`` has the settings of a data source, its rules and its reader;
   for files, ``formats/files.py`` reads records (JSONL, JSON, CSV, Parquet, text).
2. ``formats/reader.py`` converts records to rows: ``formats/layouts.py`` recognises the columns,
   ``formats/turns.py`` reads the turns, and ``rows.py`` defines the row.
3. ``preparation.py`` cleans, checks (``quality``) and splits the rows, ``prepared.py`` stores them,
   and ``sets.py`` samples the rows of one run.
4. ``encoding/examples.py`` makes examples of rows, and ``encoding/encoder.py`` encodes each as
   tokens with its loss mask; ``mask_check.py`` compares every mask with what inference sends.
5. ``datamodule.py`` deals the examples into batches, whose loss the training package computes.
"""
