"""Measuring: generation and likelihood of answers, and metrics that are pure functions of stored
predictions.
"""
