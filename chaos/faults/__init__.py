"""Ways to hurt a running stack."""
