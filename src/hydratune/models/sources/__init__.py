"""One module for each option of ``model=``: its settings, its rules, and the way to its weights.

Every module of this package is found by ``hydratune.settings.registry``. To add a source, add a
module with a dataclass under ``@variant("model", NAME)`` and a file in ``conf/model``. Neither
torch nor transformers is imported before a model is located.
"""
