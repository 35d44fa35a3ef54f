"""PostgreSQL: does it answer, is it one that Bushel can use, and has it the schema of this code."""

import re
from collections.abc import Generator, Iterator

from cli.checkup.finding import Finding, info, ok, problem, warning
from cli.checkup.ledger import Ledger
from cli.checkup.scene import Kind, NoDatabase, Scene

_OLDEST = 150_000
_ENCODING = "UTF8"
# What a process of ours may hold.
_POOL = 8
NOT_ASKED = "cannot be told: the database does not answer"

# What the server, or libpq, says; and what one does about it.
_ADVICE = (
    ("password authentication failed", "correct the password in BUSHEL_DATABASE_URL, special characters as %XX"),
    ("no password supplied", "put the password into BUSHEL_DATABASE_URL"),
    (r"pg_hba\.conf", "the server lets nobody in from here: add a line to its pg_hba.conf"),
    ("too many clients", "raise max_connections, or lower BUSHEL_DATABASE_POOL"),
    ("remaining connection slots", "raise max_connections, or lower BUSHEL_DATABASE_POOL"),
    ("starting up", "it is starting: wait, and look again"),
    ("shutting down", "it is stopping: start it again"),
    (r'database "[^"]*" does not exist', "make it: createdb --owner=bushel NAME, then python -m migrations"),
    (r'role "[^"]*" does not exist', "make the user: CREATE ROLE bushel LOGIN PASSWORD '…'"),
    ("resolve", "its name is not known here: correct the host in BUSHEL_DATABASE_URL"),
    ("timeout", "nothing answers there: is the host right, is a firewall between"),
)


def database(scene: Scene) -> Iterator[Finding]:
    ledger = yield from _asked(scene)
    if ledger is None:
        return
    told = f"PostgreSQL {ledger.version}, database {ledger.database}, as {ledger.user}"
    if ledger.version_number < _OLDEST:
        yield problem(told, "Bushel needs PostgreSQL 15 or newer: move to one with pg_dump and pg_restore")
    else:
        yield ok(told)
    if ledger.encoding != _ENCODING:
        advice = f"make one with --encoding={_ENCODING}, and move to it with pg_dump and pg_restore"
        yield problem(f"the database is kept in {ledger.encoding}, in which not every text can be written", advice)
    if ledger.is_standby:
        yield problem("it is a standby, which cannot be written", "name the primary in BUSHEL_DATABASE_URL")
    if not ledger.is_durable:
        yield warning("fsync is off: a power failure can lose everything", "set fsync = on in postgresql.conf")
    yield from _connections(ledger)


def _connections(ledger: Ledger) -> Iterator[Finding]:
    left = ledger.most_connections - ledger.connections
    told = f"{left} of {ledger.most_connections} connections are left"
    if left < _POOL:
        advice = "raise max_connections, or lower BUSHEL_DATABASE_POOL; every process of Bushel may hold so many"
        yield warning(told, advice)
    else:
        yield ok(told)


def _asked(scene: Scene) -> Generator[Finding, None, Ledger | None]:
    """The ledger, or why there is none."""
    import psycopg

    try:
        return scene.ledger()
    except NoDatabase:
        yield _nowhere(scene)
    except psycopg.Error as exc:
        reason = str(exc).strip().splitlines()[0] if str(exc).strip() else type(exc).__name__
        yield problem(reason, _advice(scene, str(exc)))
    return None


def _nowhere(scene: Scene) -> Finding:
    if scene.unreadable:
        return info("where it is cannot be read: see `settings`")
    if scene.kind is Kind.DEPLOYMENT:
        return problem("BUSHEL_DATABASE_URL does not say where it is", "set it; see docs/configuration.md")
    return info("there is none yet; the first start of `bushel up` makes it")


def _advice(scene: Scene, said: str) -> str:
    if scene.kind is Kind.STACK and not any(word in said for word in ("FATAL", "Permission")):
        return scene.start_advice("postgres")
    if "Permission denied" in said:
        return "run this as the user who runs `bushel up`"
    fitting = (advice for pattern, advice in _ADVICE if re.search(pattern, said))
    return next(fitting, "is it started, and is BUSHEL_DATABASE_URL right")


def schema(scene: Scene) -> Iterator[Finding]:
    ledger = reached(scene)
    if ledger is None:
        yield info(NOT_ASKED)
        return
    known = _revisions()
    newest = known[-1]
    update = "run: python -m migrations" if scene.kind is Kind.DEPLOYMENT else "start `bushel up` again, which does it"
    if ledger.revision == newest:
        yield ok(f"at {newest}, as this code wants it")
    elif ledger.revision is None:
        yield problem("the database has no tables", update)
        return
    elif ledger.revision in known:
        behind = len(known) - known.index(ledger.revision) - 1
        yield problem(f"at {ledger.revision}, {behind} behind this code, which wants {newest}", update)
    else:
        advice = "install the version that made it, or a newer one; do not run migrations with this one"
        yield problem(f"at {ledger.revision}, which this code does not know: it is newer than {newest}", advice)
    yield from _walls(ledger)


def _walls(ledger: Ledger) -> Iterator[Finding]:
    """What keeps tenants apart in the database itself."""
    if not ledger.has_role:
        yield problem("there is no role bushel_tenant", "CREATE ROLE bushel_tenant NOLOGIN; docs/tenancy.md says more")
    elif not ledger.may_take_role:
        advice = f"GRANT bushel_tenant TO {ledger.user}"
        yield problem(f"{ledger.user} may not act as bushel_tenant, as the API does", advice)
    elif ledger.open_tables:
        advice = "somebody has changed the schema: restore it (docs/tenancy.md)"
        yield problem(f"{ledger.open_tables} tables have policies for tenants that are switched off", advice)
    else:
        yield ok("tenants are kept apart by the database, too")


def reached(scene: Scene) -> Ledger | None:
    """For checks of what is in it; None if it does not answer, which the check `database` tells."""
    if scene.database_url is None:
        return None
    import psycopg

    try:
        return scene.ledger()
    except (NoDatabase, psycopg.Error):
        return None


def _revisions() -> list[str]:
    """Those that this code has, oldest first."""
    from alembic.script import ScriptDirectory

    import migrations

    steps = ScriptDirectory.from_config(migrations.config("")).walk_revisions()
    return [step.revision for step in steps][::-1]
