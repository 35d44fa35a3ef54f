"""The Anthropic Messages API, alone and in batches."""
