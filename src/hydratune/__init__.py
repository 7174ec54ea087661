"""Config-driven fine-tuning experiments: honest, cheap, tracked."""

__version__ = "0.1.0"
