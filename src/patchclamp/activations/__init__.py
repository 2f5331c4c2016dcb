"""Activations as data: a corpus of texts, and streams of rows from which dictionaries are trained."""
