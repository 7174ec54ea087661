"""LLM-as-a-judge: a model scores answers by a rubric, compares pairs, or checks facts.

``questions`` are asked of a client (``clients``: a ``server`` or a ``local`` model) by ``ask``,
which keeps replies in a cache. ``judging`` judges the answers that ``inputs`` reads, ``summary``
and ``agreement`` compute the numbers of judge.json, ``report`` and ``terminal`` show them.
``facts`` checks training answers for ``hydratune prepare``.
"""
