"""Comparing runs: what run directories say, ranked, tested and shown.

Reads run directories, and writes only pages and tables.
"""
