"""The optimizers: one module each, with its settings, its rules and its implementation.

``hydratune.settings.registry`` imports every module of this package, and none of them imports
torch, bitsandbytes or transformers before there is a model.
"""
