"""Sweeps: many runs of one command. How a sweep of four jobs runs, file by file:

1. ``hydra_plugins.hydratune_launcher``: Hydra hands over the overrides of the jobs (``-m a=1,2``).
2. ``launch``: composes and checks all jobs, runs those that are not finished, ranks all.
3. ``in_packs`` and ``planning``: divide the jobs into packs that share a base model, and jobs that
   run alone.
4. ``pack_processes``: has an executor run the packs (``executors.local``: a process each), and
   waits; ``retries`` if one was killed.
5. ``pack``: the process of a pack; its threads run one job after the other.
6. ``pack_job``: one job in its thread, from its run directory to its end or a pause.
7. ``experiment.run``: the run, as ``hydratune train`` does it, with a context of the pack
   (``pack_context``) in place of its own: shared weights, one worker pool, halving.

With halving, ``halving`` decides which job runs next, ``rounds`` where the jobs are in several
packs; ``search`` lets Optuna choose the jobs.
"""
