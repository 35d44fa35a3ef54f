"""Scopes and rotation of keys, quotas, an audit log, and row-level security as a second wall between tenants.

Everything is added; code of the third migration goes on working on it, because the owner of the tables is not
subject to their policies. Keys that exist may do everything, as they could before.

The API's transactions run as the role `bushel_tenant`, which sees rows of one tenant only. Roles belong to the whole
cluster: it is made if it is missing, and stays when this is taken back, since other databases may use it.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import DBAPIError

from db.errors import ConfigError

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

ROLE = "bushel_tenant"
QUOTAS = ("open_jobs", "queued_items", "queued_tokens", "stored_bytes", "requests_per_second")

_ME = "current_setting('bushel.tenant', true)"
_OF_TENANT = f"tenant_id = {_ME}"


# The subquery is subject to the policy of the table it asks, so the tenant need not be named in it again.
def _through(table: str, column: str) -> str:
    return f"EXISTS (SELECT FROM {table} owner WHERE owner.id = {column})"


_ALL = "SELECT, INSERT, UPDATE, DELETE"
# table -> what makes a row the tenant's, and what the role may do there.
WALLED = {
    "tenants": (f"id = {_ME}", "SELECT"),
    "api_keys": (_OF_TENANT, "SELECT, INSERT, UPDATE"),
    "audit_log": (_OF_TENANT, "SELECT, INSERT"),
    "files": (_OF_TENANT, _ALL),
    "jobs": (_OF_TENANT, _ALL),
    "items": (_through("jobs", "job_id"), _ALL),
    "chunks": (_through("jobs", "job_id"), _ALL),
    "results": (_through("jobs", "job_id"), _ALL),
    "idempotency_keys": (_OF_TENANT, _ALL),
    "uploads": (_OF_TENANT, _ALL),
    "upload_parts": (_through("uploads", "upload_id"), _ALL),
    "webhooks": (_OF_TENANT, _ALL),
    "deliveries": (_through("webhooks", "webhook_id"), _ALL),
}
# Nothing of any tenant's is in them.
SHARED = ("recipes", "workers", "model_rates")
# How much work there is for all, without whose: a view reads with the rights of its owner.
VIEWS = {
    "open_work": """
        SELECT job.id, job.model, job.status, job.paused, job.dry_run, job.priority, job.created_at, job.queued,
            job.queued_tokens, job.announced_tokens, file.bytes AS input_bytes
        FROM jobs job LEFT JOIN files file ON file.id = job.input_file_id
        WHERE job.status IN ('validating', 'in_progress', 'finalizing', 'cancelling')
    """,
    "ready_work": "SELECT job_id, model FROM chunks WHERE state = 'ready'",
}


def upgrade() -> None:
    _add_columns()
    _add_audit_log()
    _ensure_role()
    for name, query in VIEWS.items():
        op.execute(f"CREATE VIEW {name} AS {query}")
    _build_wall()


def downgrade() -> None:
    for name in VIEWS:
        op.execute(f"DROP VIEW {name}")
    for table in WALLED:
        op.execute(f"DROP POLICY tenant_wall ON {table}")
        op.execute(f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY")
    for table in (*WALLED, *SHARED):
        op.execute(f"REVOKE ALL ON {table} FROM {ROLE}")
    op.drop_table("audit_log")
    op.drop_index("ix_files_stored", table_name="files")
    op.drop_index("ix_jobs_spooled", table_name="jobs")
    op.drop_index("ix_jobs_tenant_open", table_name="jobs")
    for column in ("announced_tokens", "announced_items", "inputs_bytes"):
        op.drop_column("jobs", column)
    for column in ("previous_expires_at", "previous_hash", "previous_salt", "scopes"):
        op.drop_column("api_keys", column)
    for quota in reversed(QUOTAS):
        op.drop_column("tenants", quota)


def _add_columns() -> None:
    for quota in QUOTAS:
        op.add_column("tenants", sa.Column(quota, sa.BigInteger(), nullable=True))
    every = sa.text("""'["read", "submit", "admin"]'""")
    op.add_column("api_keys", sa.Column("scopes", postgresql.JSONB(), server_default=every, nullable=False))
    # For keys that the code before this one makes while it still runs.
    op.alter_column("api_keys", "scopes", server_default=sa.text("""'["read", "submit"]'"""))
    op.add_column("api_keys", sa.Column("previous_salt", sa.Text(), nullable=True))
    op.add_column("api_keys", sa.Column("previous_hash", sa.Text(), nullable=True))
    op.add_column("api_keys", sa.Column("previous_expires_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("jobs", sa.Column("inputs_bytes", sa.BigInteger(), server_default="0", nullable=False))
    op.add_column("jobs", sa.Column("announced_items", sa.Integer(), server_default="0", nullable=False))
    op.add_column("jobs", sa.Column("announced_tokens", sa.BigInteger(), server_default="0", nullable=False))
    op.create_index(
        "ix_jobs_tenant_open",
        "jobs",
        ["tenant_id"],
        postgresql_where=sa.text("status IN ('validating', 'in_progress', 'finalizing', 'cancelling')"),
    )
    op.create_index("ix_jobs_spooled", "jobs", ["tenant_id"], postgresql_where=sa.text("inputs_bytes > 0"))
    op.create_index("ix_files_stored", "files", ["tenant_id"], postgresql_where=sa.text("bytes_removed_at IS NULL"))


def _add_audit_log() -> None:
    op.create_table(
        "audit_log",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("object", sa.Text(), nullable=False),
        sa.Column("detail", postgresql.JSONB(), nullable=False),
        sa.Column("request_id", sa.Text(), nullable=True),
        sa.Column("address", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_audit_log_tenant_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_log")),
    )
    op.create_index("ix_audit_log_listing", "audit_log", ["tenant_id", sa.text("at DESC"), sa.text("id DESC")])


# Two databases of a cluster may be migrated at once. Whoever comes second is told so in one of these three ways.
_TOLERANT = """
    DO $$
    BEGIN
        IF NOT {condition} THEN
            {statement};
        END IF;
    EXCEPTION WHEN duplicate_object OR unique_violation OR internal_error THEN
        -- The other one's is as good, if it came through.
        IF NOT {condition} THEN
            RAISE;
        END IF;
    END $$
"""
_IS_THERE = f"EXISTS (SELECT FROM pg_roles WHERE rolname = '{ROLE}')"


def _ensure_role() -> None:
    me, version = (
        op.get_bind()
        .execute(sa.text("SELECT quote_ident(current_user), current_setting('server_version_num')::int"))
        .one()
    )
    # Since 16 who made a role is its member, but may not become it. A superuser may without any grant.
    may_become = f"pg_has_role(current_user, '{ROLE}', '{'SET' if version >= 160000 else 'MEMBER'}')"
    make, grant = f"CREATE ROLE {ROLE} NOLOGIN", f"GRANT {ROLE} TO {me}"
    try:
        with op.get_bind().begin_nested():
            op.execute(_TOLERANT.format(condition=_IS_THERE, statement=make))
            op.execute(_TOLERANT.format(condition=may_become, statement=grant))
    except DBAPIError as exc:
        raise ConfigError(
            f"the database's user {me} may not make the role that keeps tenants apart ({str(exc.orig).splitlines()[0]}); "
            f"let an administrator of the cluster run `{make};` (if there is none yet) and `{grant};`, "
            "then run the migrations again"
        ) from exc


def _build_wall() -> None:
    op.execute(f"""
        DO $$ BEGIN EXECUTE format('GRANT USAGE ON SCHEMA %I TO {ROLE}', current_schema()); END $$
    """)
    for table, (condition, rights) in WALLED.items():
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY tenant_wall ON {table} TO {ROLE} USING ({condition}) WITH CHECK ({condition})")
        op.execute(f"GRANT {rights} ON {table} TO {ROLE}")
    for name in (*SHARED, *VIEWS):
        op.execute(f"GRANT SELECT ON {name} TO {ROLE}")
