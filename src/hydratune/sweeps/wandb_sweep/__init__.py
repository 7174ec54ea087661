"""W&B sweeps whose trials are trained in packs.

A reader begins with ``run`` (the story of one driver). ``settings`` are those of the driver,
``definition`` reads the sweep's YAML, ``parameters`` what varies in it, ``check`` composes what
its trials can be; ``agents`` asks the server for trials, ``trials`` runs a batch of them.
"""
