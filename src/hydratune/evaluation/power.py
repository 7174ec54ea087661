"""The power of a comparison: which differences a number of rows can show."""

import math
from statistics import NormalDist


def least_difference(rows: int, disagreeing: float, confidence: float, power: float = 0.8) -> float:
    """Return the smallest difference of two rates that a test would find.

    The rates are on the same ``rows``, and it is found with probability ``power``. ``disagreeing``
    is the share of rows on which one system is right and the other is wrong (Connor 1987). The
    result is 1 if the rows are too few for any difference.
    """
    if rows == 0 or disagreeing <= 0:
        return 1.0
    normal = NormalDist()
    alpha, beta = normal.inv_cdf(0.5 + confidence / 2), normal.inv_cdf(power)
    low, high = 0.0, disagreeing
    if alpha * math.sqrt(disagreeing) + beta * math.sqrt(
        disagreeing - high * high
    ) > high * math.sqrt(rows):
        return 1.0
    for _ in range(60):
        middle = (low + high) / 2
        needed = alpha * math.sqrt(disagreeing) + beta * math.sqrt(disagreeing - middle * middle)
        low, high = (middle, high) if needed > middle * math.sqrt(rows) else (low, middle)
    return high


def rows_needed(difference: float, disagreeing: float, confidence: float) -> int:
    """Return the number of rows at which ``least_difference`` falls to ``difference``."""
    low, high = 1, 2
    while least_difference(high, disagreeing, confidence) > difference:
        low, high = high, high * 2
    while low < high:
        middle = (low + high) // 2
        if least_difference(middle, disagreeing, confidence) > difference:
            low = middle + 1
        else:
            high = middle
    return low
