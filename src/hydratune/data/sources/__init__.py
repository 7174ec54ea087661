"""The data sources: one module each with its settings, its rules and its reader.

To add a source, add a module here (or to ``hydratune.data.cases``) with a dataclass derived from
``base.SourceConfig`` and decorated with ``@variant("data", NAME)``, and ``conf/data/NAME.yaml``.
Importing these modules must stay fast, because they are imported before the settings are checked:
what is slow to import is imported in ``open``.
"""
