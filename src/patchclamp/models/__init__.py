"""Open a model and know its sites."""
