"""One output of a model, token by token."""
