"""One figure a result kind, in matplotlib, fit for a paper."""
