"""The HTML pages that people read: one template, one style sheet and common pictures.

Every page is one file: it loads nothing from elsewhere, and its texts are escaped.

- ``filled``: templates filled; they lie in ``templates/``, with the style sheet
- ``charts``: bars and curves
- ``spans``: texts cut where they differ, and invisible characters named
"""
