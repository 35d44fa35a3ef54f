"""Smaller models of a model that is there: fewer tokens, layers, neurons or bits."""
