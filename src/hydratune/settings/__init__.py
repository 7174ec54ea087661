"""Every setting: its type, unit and one-line meaning.

Values live in ``conf/``. Imports no torch.
"""
