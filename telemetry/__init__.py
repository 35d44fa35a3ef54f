"""How the service tells of itself: logs, metrics and traces, the same way in every process."""
