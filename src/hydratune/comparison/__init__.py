"""Comparing runs: which is the best, what is tied with it, and what each setting did.

The path of a comparison: ``collect`` finds runs (``runs``, ``wandb_runs``); ``comparison`` groups
them into ``entries``, ranks these by a ``criterion``, checks the ``conditions``, and computes the
tests against the best (``ties``, ``seed_noise``), the ``effects`` of settings and the Pareto
``fronts``; ``verdict`` puts the result into sentences; ``terminal``, ``page``, ``exports``,
``pictures`` and ``publish`` show it, called by ``outputs``. ``gate`` checks one run against another
for scripts. Nothing here changes a run directory, except that pages and tables are written.
"""
