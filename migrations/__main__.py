"""`python -m migrations` brings the database to this code's schema; `python -m migrations check` only compares.

`python -m migrations downgrade 0005` goes back to the schema as that migration left it.
"""

import sys

import migrations
from db.config import Settings
from db.errors import LedgerError


def main(words: list[str]) -> int:
    try:
        url = Settings.from_environment().database_url
        if words == ["check"]:
            missing = migrations.pending(url)
            sys.stdout.write("\n".join(missing) + "\n" if missing else "up to date\n")
            return 1 if missing else 0
        if words[:1] == ["downgrade"] and len(words) == 2:
            migrations.downgrade(url, words[1])
        elif words:
            sys.stderr.write("say nothing, check, or downgrade and the number of a migration\n")
            return 2
        else:
            migrations.upgrade(url)
    except LedgerError as exc:
        sys.stderr.write(f"{exc}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
