"""Formats: from the files and hub data sets of users to rows.

``reader.py`` is the entry point. It reads records (``files.py``), recognises their columns
(``layouts.py``, ``columns.py``), and reads conversations turn by turn (``turns.py``).
"""
