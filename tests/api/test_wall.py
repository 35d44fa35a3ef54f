"""The second wall between tenants: what a query that forgot its condition would still not see or write."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime

import httpx
import pytest
from flask import g
from sqlalchemy import Table, text
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.orm import Session

from api.services import EXTENSION
from db import sign_ins
from db.models import Base
from db.session import Sessions
from tests.conftest import LiveAPI
from tests.ledger import Ledger

Inside = Callable[[str], AbstractContextManager[Session]]
# Of no tenant: provenance that many share, and what workers say of themselves.
SHARED = {"recipes", "workers", "model_rates"}
# Of a tenant, and seen by none: only the check of who asks reads them.
UNSEEN = {"sign_ins"}
# How much work there is, of all, without whose.
VIEWS = {"open_work", "ready_work", "track_record", "queued_work", "leased_work"}


@pytest.fixture
def tenants(client: httpx.Client, stranger: httpx.Client, ledger: Ledger) -> dict[str, str]:
    """The ids of both tenants, by name; each has something in every table."""
    for each in (client, stranger):
        file_id = each.post("/v1/files", files={"file": ("a.txt", b"one\ntwo\n")}, data={"purpose": "batch"}).json()[
            "id"
        ]
        job = {"task": "translation", "input_file_id": file_id}
        job_id = each.post("/v1/jobs", json=job, headers={"Idempotency-Key": "same"}).json()["id"]
        ledger.ingest(job_id)
        claim = ledger.claim(job_id)
        assert claim is not None
        ledger.record(claim)
        ledger.run(
            "INSERT INTO estimates (job_id, model, progress, low_seconds, eta_seconds, high_seconds, ended_at)"
            " VALUES (:job, 'echo', 0, 1, 2, 3, now())",
            job=job_id,
        )
        ledger.run(
            "INSERT INTO cached_results (tenant_id, key, job_id, idx) SELECT tenant_id, 'same', id, 0 FROM jobs"
            " WHERE id = :job",
            job=job_id,
        )
        webhook_id = each.post("/v1/webhooks", json={"url": "https://hooks.example/"}).json()["id"]
        each.post(f"/v1/webhooks/{webhook_id}/test")
        announced = {"bytes": 5, "filename": "a", "mime_type": "text/plain", "purpose": "batch"}
        key = each.headers["Authorization"].removeprefix("Bearer ")
        with ledger.sessions.begin() as session:
            sign_ins.begin(session, key, datetime.now(UTC))
        upload_id = each.post("/v1/uploads", json=announced).json()["id"]
        each.post(f"/v1/uploads/{upload_id}/parts", files={"data": ("a", b"x")})
    return dict(tuple(row) for row in ledger.rows("SELECT name, id FROM tenants"))


@pytest.fixture
def inside(api: LiveAPI) -> Inside:
    """The API's own session, in a request of the tenant."""

    @contextmanager
    def begin(tenant_id: str) -> Iterator[Session]:
        with api.app.app_context():
            if tenant_id:
                g.tenant_id = tenant_id
            with api.app.extensions[EXTENSION].sessions.begin() as session:
                yield session

    return begin


def walled() -> list[Table]:
    return [table for table in Base.metadata.sorted_tables if table.name not in SHARED]


def count(session: Session, table: str) -> int:
    return session.execute(text(f"SELECT count(*) FROM {table}")).scalar_one()


def test_every_table_has_a_wall_or_is_nobodys(sessions: Sessions) -> None:
    with sessions() as session:
        found = session.execute(
            text("""
                SELECT table_.relname, table_.relrowsecurity, coalesce(array_agg(policy.polcmd::text)
                    FILTER (WHERE policy.polname IS NOT NULL), '{}') AS policies
                FROM pg_class table_ LEFT JOIN pg_policy policy ON policy.polrelid = table_.oid
                WHERE table_.relnamespace = current_schema()::regnamespace AND table_.relkind IN ('r', 'p')
                    AND table_.relname <> 'alembic_version'
                GROUP BY table_.relname, table_.relrowsecurity
            """)
        ).all()

    assert {row.relname for row in found} == {table.name for table in Base.metadata.sorted_tables}
    # One policy for every command, '*', and none anywhere else.
    assert {row.relname for row in found if row.relrowsecurity and row.policies == ["*"]} == {
        table.name for table in walled()
    }


def test_the_role_may_do_no_more_than_it_must(sessions: Sessions) -> None:
    with sessions() as session:
        rows = session.execute(
            text("""
                SELECT table_name, string_agg(privilege_type, ' ' ORDER BY privilege_type) FROM
                    information_schema.role_table_grants WHERE grantee = 'bushel_tenant' GROUP BY table_name
            """)
        )
        granted = {name: set(rights.split()) for name, rights in rows}
        role = session.execute(
            text(
                "SELECT rolcanlogin, rolsuper, rolbypassrls, rolcreaterole FROM pg_roles WHERE rolname LIKE 'bushel_t%'"
            )
        ).one()

    assert tuple(role) == (False, False, False, False)
    assert granted.keys() == {table.name for table in Base.metadata.sorted_tables} | VIEWS
    for name in SHARED | VIEWS | {"tenants", "usage_days", "estimates"}:
        assert granted[name] == {"SELECT"}
    # A log that its subjects could change would be none.
    assert granted["audit_log"] == {"SELECT", "INSERT"}
    assert granted["sign_ins"] == {"SELECT"}
    # What is in it, workers alone decide.
    assert granted["cached_results"] == {"SELECT", "DELETE"}
    assert "DELETE" not in granted["api_keys"]


def test_a_query_without_its_condition_sees_only_what_is_the_askers(
    tenants: dict[str, str], sessions: Sessions, inside: Inside
) -> None:
    with sessions() as session:
        everything = {table.name: count(session, table.name) for table in walled()}
    assert all(rows >= 2 for rows in everything.values()), everything

    seen = {}
    for name in ("default", "stranger"):
        with inside(tenants[name]) as session:
            seen[name] = {table.name: count(session, table.name) for table in walled()}
            owners = session.execute(text("SELECT DISTINCT tenant_id FROM jobs")).scalars().all()
            assert owners == [tenants[name]]
    with inside("") as session:
        assert {table.name: count(session, table.name) for table in walled()} == dict.fromkeys(everything, 0)

    for table in UNSEEN:
        assert seen["default"].pop(table) == seen["stranger"].pop(table) == 0
        del everything[table]
    assert all(seen["default"][table] > 0 for table in everything), seen
    assert {table: seen["default"][table] + seen["stranger"][table] for table in everything} == everything


def test_a_statement_without_its_condition_changes_nothing_of_others(
    tenants: dict[str, str], sessions: Sessions, inside: Inside
) -> None:
    with inside(tenants["stranger"]) as session:
        session.execute(text("UPDATE jobs SET priority = 7"))
        session.execute(text("UPDATE webhooks SET url = 'https://evil.example/'"))
        session.execute(text("UPDATE api_keys SET scopes = '[]'"))
        for table in ("cached_results", "results", "items", "chunks", "deliveries", "upload_parts", "idempotency_keys"):
            session.execute(text(f"DELETE FROM {table}"))

    with sessions() as session:
        own = {"tenant": tenants["default"]}
        ask = "SELECT priority FROM jobs WHERE tenant_id = :tenant"
        assert session.execute(text(ask), own).scalars().all() == [0]
        ask = "SELECT url FROM webhooks WHERE tenant_id = :tenant"
        assert session.execute(text(ask), own).scalars().all() == ["https://hooks.example/"]
        assert session.execute(text("SELECT count(*) FROM api_keys WHERE scopes <> '[]'")).scalar_one() == 1
        for table in ("cached_results", "results", "items", "chunks", "deliveries", "upload_parts", "idempotency_keys"):
            assert count(session, table) > 0, table


@pytest.mark.parametrize(
    "statement",
    [
        pytest.param("INSERT INTO tenants (id, name) VALUES ('ten_x', 'x')", id="a tenant"),
        pytest.param("UPDATE tenants SET open_jobs = 1000000", id="its own quota"),
        pytest.param("DELETE FROM audit_log", id="the log"),
        pytest.param("UPDATE jobs SET tenant_id = :other", id="a job given away"),
        pytest.param(
            "INSERT INTO files (id, tenant_id, purpose, filename, bytes, sha256, content_type, store_key)"
            " VALUES ('file-x', :other, 'batch', 'x', 1, '', '', 'files/x')",
            id="a file of another",
        ),
        pytest.param(
            "INSERT INTO audit_log (id, tenant_id, actor, action, object, detail)"
            " VALUES ('aud_x', :other, 'me', 'key.created', 'x', '{}')",
            id="an entry in another's log",
        ),
        pytest.param(
            "INSERT INTO cached_results (tenant_id, key, job_id, idx) VALUES ('ten', 'x', 'job_x', 0)",
            id="a result into the cache",
        ),
        pytest.param("UPDATE cached_results SET idx = 1", id="another result in the cache"),
        pytest.param("SELECT * FROM alembic_version", id="another table"),
        pytest.param("SET LOCAL session_replication_role = 'replica'", id="a right of superusers"),
        pytest.param("ALTER TABLE jobs DISABLE ROW LEVEL SECURITY", id="the wall itself"),
    ],
)
def test_what_the_role_may_not_do_is_refused(tenants: dict[str, str], inside: Inside, statement: str) -> None:
    values = {"other": tenants["default"]} if ":other" in statement else {}

    refusal = pytest.raises(ProgrammingError, match=r"permission denied|row-level security|must be owner")
    with refusal, inside(tenants["stranger"]) as session:
        session.execute(text(statement), values)


def test_the_wall_ends_with_the_transaction(tenants: dict[str, str], api: LiveAPI, inside: Inside) -> None:
    """A connection goes back to the pool as it was: the next one's tenant is the next request's."""
    for name in ("default", "stranger", "default"):
        with inside(tenants[name]) as session:
            assert session.execute(text("SELECT current_setting('bushel.tenant')")).scalar_one() == tenants[name]
            # Nor does a savepoint that is given up take it away.
            place = session.begin_nested()
            session.execute(text("SELECT 1"))
            place.rollback()
            assert session.execute(text("SELECT current_user")).scalar_one() == "bushel_tenant"
    with api.app.extensions[EXTENSION].keyring() as session:
        assert session.execute(text("SELECT current_user")).scalar_one() != "bushel_tenant"
        assert session.execute(text("SELECT current_setting('bushel.tenant', true)")).scalar_one() in (None, "")


def test_how_much_work_others_have_is_known_and_whose_is_not(
    tenants: dict[str, str], client: httpx.Client, ledger: Ledger, inside: Inside
) -> None:
    client.post("/v1/jobs", json={"task": "translation", "inputs": ["mine"]})

    with inside(tenants["stranger"]) as session:
        columns = session.execute(text("SELECT * FROM open_work")).keys()
        assert count(session, "open_work") == len(ledger.rows("SELECT 1 FROM open_work")) > 0
        assert count(session, "track_record") == len(ledger.rows("SELECT 1 FROM estimates")) == 2
        judged = session.execute(text("SELECT * FROM track_record")).keys()
        queued = session.execute(text("SELECT * FROM queued_work")).keys()
        leased = session.execute(text("SELECT * FROM leased_work")).keys()
    assert not {"tenant_id", "job_id"} & set(judged)
    assert not {"tenant_id", "job_id", "params"} & {*queued, *leased}
    assert not {"tenant_id", "params", "metadata", "input_file_id", "inputs_key", "fingerprint"} & set(columns)
