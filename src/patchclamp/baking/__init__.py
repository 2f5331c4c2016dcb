"""Edits as weights: a checkpoint that needs no hooks, and control vectors for llama.cpp."""
