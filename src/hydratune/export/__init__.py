"""A fine-tuned model written for other programs, and compared with the run's own model.

Where to read: ``opened`` (the run's model and its test rows), ``merging`` (the adapter becomes part
of the weights), one module for each form (``merged``, ``adapter``, ``quantised``, ``gguf_form``,
``ollama``), ``parity`` (is it the same model?), ``output`` (the folder is whole or absent).
"""
