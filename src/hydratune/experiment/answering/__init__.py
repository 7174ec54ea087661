"""Answering with the model of a finished run: rows of a file, and conversations in the terminal.

``model.py`` loads the model without the training data; ``asking.py`` turns rows into answers and
``answer_file.py`` keeps them; ``conversation.py``, ``chat.py`` and ``terminal.py`` are the
conversation, its commands, and what is shown.
"""
