"""One module for each option of ``adapter=``: its settings, its rules, its PEFT config, its traits.

Every module of this package is found by ``hydratune.settings.registry``. To add a method, add a
module with a dataclass under ``@variant("adapter", NAME)`` and ``conf/adapter/NAME.yaml``.
"""
