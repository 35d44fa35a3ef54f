"""`python -m migrations` brings the database to this code's schema; `python -m migrations check` only compares."""

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
        migrations.upgrade(url)
    except LedgerError as exc:
        sys.stderr.write(f"{exc}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
