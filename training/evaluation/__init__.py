"""How good, how fast and how large models are, and a report that says so."""
