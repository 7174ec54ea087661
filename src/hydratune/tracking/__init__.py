"""Tracking: mirrors of a run directory on W&B or in TensorBoard, and W&B's files read again.

``start.start_tracker`` returns the ``tracker.Tracker`` that the settings ask for.
"""
