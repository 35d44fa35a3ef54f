"""What was computed already: chunks of items that are equal to others of their job, and a cache of results a tenant.

Everything is added, and one index is made anew. Code of the fifth migration goes on working on it, by itself. Beside
newer code its workers give chunks of equal items back as they were, again and again, until a newer one takes them: where
not all are replaced at once, workers that run models come before those that read input, and who goes back to the older
code while jobs run goes down to the fifth migration too.
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

ROLE = "bushel_tenant"
_MINE = "tenant_id = current_setting('bushel.tenant', true)"
_READY = sa.text("state = 'ready'")


def upgrade() -> None:
    op.add_column("jobs", sa.Column("cache", sa.Boolean(), server_default=sa.text("false"), nullable=False))
    for count in ("same_items", "cached_items"):
        op.add_column("jobs", sa.Column(count, sa.Integer(), server_default="0", nullable=False))
    for count in ("saved_input_tokens", "saved_output_tokens"):
        op.add_column("jobs", sa.Column(count, sa.BigInteger(), server_default="0", nullable=False))
    op.add_column("chunks", sa.Column("of_twins", sa.Boolean(), server_default=sa.text("false"), nullable=False))
    op.drop_index("ix_chunks_ready", "chunks")
    op.create_index("ix_chunks_ready", "chunks", ["job_id", "model", "of_twins", "id"], postgresql_where=_READY)
    op.create_table(
        "cached_results",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("key", sa.LargeBinary(), nullable=False),
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("idx", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant_id"], ["tenants.id"], name=op.f("fk_cached_results_tenant_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_cached_results_job_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("tenant_id", "key", name=op.f("pk_cached_results")),
    )
    op.create_index("ix_cached_results_job_id", "cached_results", ["job_id"])
    op.execute("ALTER TABLE cached_results ENABLE ROW LEVEL SECURITY")
    op.execute(f"CREATE POLICY tenant_wall ON cached_results TO {ROLE} USING ({_MINE}) WITH CHECK ({_MINE})")
    # What goes in, workers alone decide.
    op.execute(f"GRANT SELECT, DELETE ON cached_results TO {ROLE}")


def downgrade() -> None:
    op.drop_table("cached_results")
    # The fifth migration's workers know of no results of other chunks: what is left of these is computed.
    op.execute("""
        UPDATE items SET same_as = NULL FROM chunks
        WHERE items.chunk_id = chunks.id AND chunks.of_twins AND chunks.state IN ('ready', 'leased')
    """)
    op.drop_index("ix_chunks_ready", "chunks")
    op.create_index("ix_chunks_ready", "chunks", ["job_id", "model", "id"], postgresql_where=_READY)
    op.drop_column("chunks", "of_twins")
    for column in ("saved_output_tokens", "saved_input_tokens", "cached_items", "same_items", "cache"):
        op.drop_column("jobs", column)
