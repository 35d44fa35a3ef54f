"""The OpenAI API's own resources, so that its unmodified clients work."""
