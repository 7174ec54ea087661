"""The training step: exact, lean, one objective for every model."""
