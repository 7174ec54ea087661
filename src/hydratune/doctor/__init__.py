"""``hydratune doctor``: is everything here that training needs, and what is the remedy if not?

It has to work where packages are missing or broken, so these modules import nothing but the
standard library at once, and every check is guarded. ``command.py`` runs the checks of the other
modules and prints what they found.
"""
