"""Models and adapters: where they come from, what is trained, what the machine can do."""
