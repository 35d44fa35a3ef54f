"""OpenAI's lines, requests and answers, and our own endpoints in their manner. Pure."""
