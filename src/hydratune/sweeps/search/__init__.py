"""Search: the trials of an Optuna study, each an ordinary job of the launcher.

A reader begins with ``run`` (the story of one search). ``space`` reads what varies, ``objectives``
what is optimised, ``samplers`` makes the sampler, ``study`` opens the study and ``journal`` keeps
its file; ``trials`` takes, runs and reports the trials of a batch, ``report`` prints the ranking.
"""
