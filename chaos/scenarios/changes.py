"""Workers of two versions side by side, and a schema that changes under running work."""

import threading
import time
from functools import partial

from chaos.arena import Arena, arena, lines
from chaos.faults import processes
from chaos.report import Row
from chaos.scenarios.scenario import Scenario, Terms
from chaos.stack import until
from migrations import downgrade, upgrade

LONGEST_LOCK_SECONDS = 2.0
_LOOK_SECONDS = 0.02
_NEXT = "99.0"


def rolling(terms: Terms) -> Row:
    """Old workers are asked to leave one by one, new ones take over, in the middle of a job.

    The new version is the same code under another version number and on a device of another name, so that presence
    and recipes of the two differ as those of two releases do.
    """
    count = terms.size(4, 2)
    with arena("rolling restart, two versions", terms.folder, workers=0, seconds_per_item=0.005) as here:
        named = here.stack.folder / "next"
        (named / f"bushel-{_NEXT}.dist-info").mkdir(parents=True)
        metadata = f"Metadata-Version: 2.1\nName: bushel\nVersion: {_NEXT}\n"
        (named / f"bushel-{_NEXT}.dist-info" / "METADATA").write_text(metadata)
        path = here.stack.python_path
        old = {f"old-{number}": here.stack.add_worker(f"old-{number}") for number in range(count)}
        here.client.submit("echo", lines(terms.size(20_000, 4_000)))
        here.until_settled(100)
        for number, (name, pid) in enumerate(old.items()):
            fresh = here.stack.add_worker(f"new-{number}", PYTHONPATH=f"{named}:{path}", BUSHEL_DEVICE="cpu-next")
            here.stack.await_worker(fresh)
            here.strike("rolling restart", partial(processes.ask_to_leave, pid))
            code = here.stack.reap(name)
            here.require(code == 0, f"{name} left with {code}")
        versions = {row["version"] for row in here.stack.rows("SELECT version FROM workers WHERE models <> '[]'")}
        here.require(versions == {_NEXT}, f"versions at work after the roll: {versions}")
        here.until_done(300)
        here.judge(allowed=0)
        recipes = here.stack.count("SELECT count(DISTINCT recipe_id) FROM chunks WHERE recipe_id IS NOT NULL")
        here.require(recipes == 2, f"{recipes} recipes, two versions worked")
        here.require(here.crashes() == 0, f"{here.crashes()} crashes were charged for asked-for ends")
        return here.row


def migrating(terms: Terms) -> Row:
    """The latest migration taken back and made again, and a column added, while a job runs."""
    with arena("migration under work", terms.folder, seconds_per_item=0.004) as here:
        total = terms.size(100_000, 5_000)
        here.client.submit("echo", lines(total))
        # All of them are to be there when the tables change.
        until(lambda: here.stack.count("SELECT count(*) FROM items") == total, 120, "the items")
        here.until_settled(300)
        live = total - here.settled()
        locks = _Locks(here)
        locks.start()
        url = here.stack.where.postgres.url
        downgrade(url, "-1")
        upgrade(url)
        here.strike("one migration back and again", tuple)
        with here.stack.administrator() as connection:
            connection.execute("SET lock_timeout = '2s'")
            connection.execute("ALTER TABLE jobs ADD COLUMN chaos integer")
        here.strike("a column added", tuple)
        here.until_done(900)
        worst = locks.stop()
        here.judge(allowed=None)
        here.row.notes.append(f"{live} items were live; longest that a table was locked or waited for {worst:.2f} s")
        here.require(worst <= LONGEST_LOCK_SECONDS, f"a lock of {worst:.1f} s, {LONGEST_LOCK_SECONDS:.0f} s is the bar")
        here.require(here.crashes() == 0, f"{here.crashes()} crashes were charged")
        return here.row


# Tables that somebody locks against readers or writers, and tables that somebody waits for. A wait counts too, because
# whoever comes later waits behind it.
_LOCKED = """
    SELECT pid, virtualtransaction, relation, mode, granted FROM pg_locks
    WHERE locktype = 'relation' AND relation IN (SELECT oid FROM pg_class WHERE relkind = 'r' AND oid >= 16384)
        AND (NOT granted OR mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock'))
"""


class _Locks(threading.Thread):
    """Looks at the locks of tables again and again; the longest that one was seen."""

    def __init__(self, here: Arena) -> None:
        super().__init__(daemon=True)
        self._here, self._over, self._worst = here, threading.Event(), 0.0

    def run(self) -> None:
        since: dict[tuple[object, ...], float] = {}
        with self._here.stack.administrator() as connection:
            while not self._over.wait(_LOOK_SECONDS):
                found = connection.execute(_LOCKED).fetchall()
                now = time.monotonic()
                since = {lock: since.get(lock, now) for lock in found}
                # It may have been there since the look before.
                self._worst = max([self._worst, *(now - first + _LOOK_SECONDS for first in since.values())])

    def stop(self) -> float:
        self._here.require(self.is_alive(), "nobody looked at the locks to the end")
        self._over.set()
        self.join()
        return self._worst


SCENARIOS = (Scenario("versions", rolling), Scenario("migration", migrating))
