"""The model catalogue: facts on open models and on accelerators, as tables with their sources.

``models.csv`` has a row for each ``model=NAME``, ``structures.csv`` the sizes of those whose sizes
are known from a named source, ``devices.csv`` accelerators. What is ``unknown`` there is ``None``
here, and nothing fills it in. Needs no torch.
"""
