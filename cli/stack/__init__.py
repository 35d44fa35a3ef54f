"""The one-machine stack: embedded PostgreSQL and Valkey, and the supervisor of everything `bushel up` runs.

Start reading at `supervisor.py`; `parts.py` says what Bushel's own parts are. POSIX only.
"""
