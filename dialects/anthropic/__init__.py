"""Anthropic's requests and answers. Pure."""
