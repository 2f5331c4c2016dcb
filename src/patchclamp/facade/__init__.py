"""The methods of an open model, by what they are for: one call each."""
