"""Encoding: from rows to tokens with a loss mask, by the tokenizer's own chat template.

``examples.py`` is the entry point. ``encoder.py`` encodes one row; its docstring names the steps.
"""
