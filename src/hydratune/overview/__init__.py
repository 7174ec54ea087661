"""``hydratune status`` and ``hydratune stop``: what runs where, and how it is ended.

They read records only, and import nothing heavy.
"""
