"""Requests answered with a fine-tuned model, by a server that others wrote.

Where to read: ``target`` (what is served), ``servers`` (which program, with which arguments),
``process`` (started, waited for, ended).
"""
