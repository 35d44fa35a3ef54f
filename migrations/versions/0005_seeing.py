"""What is shown of the work: events, usage by day, estimates with what became of them, sign-ins of browsers.

Everything is added. Code of the fourth migration goes on working on it: new columns have defaults, and what it does not
write is missing from events and usage only.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

ROLE = "bushel_tenant"
_MINE = "tenant_id = current_setting('bushel.tenant', true)"
_MY_JOBS = "EXISTS (SELECT FROM jobs owner WHERE owner.id = job_id)"
# table -> what makes a row the tenant's, and what the role may do there. Sign-ins are seen by the keyring alone.
WALLED = {
    "job_events": (_MINE, "SELECT, INSERT"),
    "usage_days": (_MINE, "SELECT"),
    "estimates": (_MY_JOBS, "SELECT"),
    "sign_ins": ("false", "SELECT"),
}
# How good estimates were, of all tenants together and without whose.
_TRACK_RECORD = """
    SELECT model, ended_at, made_at, progress, low_seconds, eta_seconds, high_seconds,
        extract(epoch FROM ended_at - made_at)::float8 AS actual_seconds
    FROM estimates WHERE ended_at IS NOT NULL
"""
# What waits for each model, and what workers hold: the same.
_QUEUED_WORK = """
    SELECT chunk.model, job.paused, count(*) AS chunks, count(DISTINCT job.id) AS jobs, sum(chunk.items)::bigint AS items,
        sum(chunk.tokens)::bigint AS tokens, min(job.in_progress_at) AS oldest_at
    FROM chunks chunk JOIN jobs job ON job.id = chunk.job_id
    WHERE chunk.state = 'ready' AND job.status = 'in_progress' GROUP BY chunk.model, job.paused
"""
_LEASED_WORK = "SELECT id, model, items, progress, lease_owner FROM chunks WHERE state = 'leased'"
# Ids of events are in the order of their commits: drawn again as a transaction commits, one transaction at a time. With
# the owner's rights, because a tenant may add to the log and not change it.
_IN_ORDER = (
    """
    CREATE FUNCTION order_job_event() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
    AS $$ BEGIN
        PERFORM pg_advisory_xact_lock(7205759406);
        UPDATE job_events SET id = DEFAULT WHERE id = NEW.id;
        RETURN NULL;
    END $$
    """,
    """
    CREATE CONSTRAINT TRIGGER job_events_in_order AFTER INSERT ON job_events DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION order_job_event()
    """,
)
VIEWS = {"track_record": _TRACK_RECORD, "queued_work": _QUEUED_WORK, "leased_work": _LEASED_WORK}


def upgrade() -> None:
    op.add_column("jobs", sa.Column("device_seconds", sa.Float(), server_default="0", nullable=False))
    op.add_column("jobs", sa.Column("joules", sa.Float(), nullable=True))
    op.add_column("jobs", sa.Column("traceparent", sa.Text(), nullable=True))
    op.add_column("workers", sa.Column("activity", postgresql.JSONB(), server_default="{}", nullable=False))
    # How far chunks were off what the rate said of them, and how far estimates were: what bands are made of.
    op.add_column("model_rates", sa.Column("log_variance", sa.Float(), server_default="0.16", nullable=False))
    op.add_column("model_rates", sa.Column("low_factor", sa.Float(), nullable=True))
    op.add_column("model_rates", sa.Column("high_factor", sa.Float(), nullable=True))
    _add_job_events()
    _add_usage_days()
    _add_estimates()
    _add_sign_ins()
    for view, query in VIEWS.items():
        op.execute(f"CREATE VIEW {view} AS {query}")
    for table, (condition, rights) in WALLED.items():
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY tenant_wall ON {table} TO {ROLE} USING ({condition}) WITH CHECK ({condition})")
        op.execute(f"GRANT {rights} ON {table} TO {ROLE}")
    for view in VIEWS:
        op.execute(f"GRANT SELECT ON {view} TO {ROLE}")


def downgrade() -> None:
    for view in VIEWS:
        op.execute(f"DROP VIEW {view}")
    for table in reversed(WALLED):
        op.drop_table(table)
    op.execute("DROP FUNCTION order_job_event()")
    for column in ("high_factor", "low_factor", "log_variance"):
        op.drop_column("model_rates", column)
    op.drop_column("workers", "activity")
    for column in ("traceparent", "joules", "device_seconds"):
        op.drop_column("jobs", column)


def _add_job_events() -> None:
    op.create_table(
        "job_events",
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("detail", postgresql.JSONB(), server_default="{}", nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_job_events_job_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_job_events")),
    )
    op.create_index("ix_job_events_job_id", "job_events", ["job_id", "id"])
    op.create_index("ix_job_events_tenant_id", "job_events", ["tenant_id", "id"])
    for statement in _IN_ORDER:
        op.execute(statement)


def _add_usage_days() -> None:
    counts = ("succeeded", "failed", "input_tokens", "output_tokens")
    op.create_table(
        "usage_days",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        *(sa.Column(count, sa.BigInteger(), server_default="0", nullable=False) for count in counts),
        sa.Column("device_seconds", sa.Float(), server_default="0", nullable=False),
        sa.Column("joules", sa.Float(), nullable=True),
        sa.ForeignKeyConstraint(
            ["tenant_id"], ["tenants.id"], name=op.f("fk_usage_days_tenant_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("tenant_id", "day", "model", "task", name=op.f("pk_usage_days")),
    )


def _add_estimates() -> None:
    op.create_table(
        "estimates",
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("made_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("model", sa.Text(), nullable=True),
        sa.Column("progress", sa.Float(), nullable=False),
        sa.Column("low_seconds", sa.Float(), nullable=False),
        sa.Column("eta_seconds", sa.Float(), nullable=False),
        sa.Column("high_seconds", sa.Float(), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_estimates_job_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "made_at", name=op.f("pk_estimates")),
    )
    op.create_index(
        "ix_estimates_ended_at", "estimates", ["ended_at"], postgresql_where=sa.text("ended_at IS NOT NULL")
    )
    op.create_index("ix_estimates_open", "estimates", ["job_id"], postgresql_where=sa.text("ended_at IS NULL"))


def _add_sign_ins() -> None:
    op.create_table(
        "sign_ins",
        # Of the secret in the browser's cookie only a hash.
        sa.Column("secret_hash", sa.Text(), nullable=False),
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["key_id"], ["api_keys.id"], name=op.f("fk_sign_ins_key_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("secret_hash", name=op.f("pk_sign_ins")),
    )
    op.create_index("ix_sign_ins_key_id", "sign_ins", ["key_id"])
