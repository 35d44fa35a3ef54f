"""What the exit codes of every `bushel` command mean."""

from enum import IntEnum


class Exit(IntEnum):
    OK = 0
    FAILED = 1  # the job or some of its items failed, were cancelled or expired
    USAGE = 2  # the command or the request cannot be carried out as written
    UNREACHABLE = 3  # no server, or one that cannot answer now
    INTERRUPTED = 130  # Ctrl-C; a job that was submitted goes on


HELP = """\b
Exit codes:
  0    done
  1    the job or some of its items failed, were cancelled or expired
  2    wrong usage, or the server refused the request
  3    the server cannot be reached, or cannot answer now
  130  interrupted by Ctrl-C; a submitted job goes on
"""
