"""Where packs run: as processes of this machine, jobs of Slurm or tasks of Ray.

``executor`` is the interface; one module is one executor. A new one is a class with the
methods of ``Executor``, its options in ``sweeps/executor_options.py``, and a line in
``pack_processes.create_executor``. The unit of work is the pack: a command, ``PackArguments``
says which, that is run with the sweep's folder on its file system. What became of the jobs of a
pack is in their run directories; an executor reports only that a pack has ended, and how.
"""
