"""Edits, positions, gates and reads; and the engine that runs them on the model's own modules."""
