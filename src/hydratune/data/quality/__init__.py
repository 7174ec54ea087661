"""What is checked in a data set, and how rows are compared.

``inspection.Inspection`` sees every row once: ``row_checks`` look at one row, ``fingerprints`` and
``leak_keys`` hash what rows are compared by (``equality`` and ``variants`` say which texts are
equal, ``duplicates`` and ``spelling`` which are nearly equal). Then it divides the rows into
splits, and ``set_checks.run_checks`` turns everything into ``findings``.
"""
