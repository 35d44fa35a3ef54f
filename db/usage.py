"""What tenants used of which model on which day: added up as chunks are recorded, so that it outlives the jobs.

Lock order: chunk, job, day. A day's row is locked by nothing that goes on to lock a job or a chunk.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from enum import StrEnum

from sqlalchemy import text
from sqlalchemy.orm import Session

# What is told if nobody says of which days.
USUAL_DAYS = 30


@dataclass(frozen=True, slots=True)
class Spent:
    """What a chunk took: seconds of a device, and the joules of that device where they are measured."""

    device_seconds: float = 0.0
    joules: float | None = None


NOTHING = Spent()


class Dimension(StrEnum):
    """What usage can be told apart by. Only the operator sees more tenants than one."""

    TENANT = "tenant"
    DAY = "day"
    MODEL = "model"
    TASK = "task"


@dataclass(frozen=True, slots=True)
class Amounts:
    """`joules` is None where none of it was measured."""

    succeeded: int = 0
    failed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    device_seconds: float = 0.0
    joules: float | None = None

    def shown(self) -> dict[str, int | float | None]:
        """As objects show them."""
        return {
            "succeeded": self.succeeded,
            "failed": self.failed,
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "total_tokens": self.input_tokens + self.output_tokens,
            "device_seconds": round(self.device_seconds, 3),
            "joules": None if self.joules is None else round(self.joules, 1),
        }


@dataclass(frozen=True, slots=True)
class Used:
    """What was used, of one value of each dimension that was asked for; the others are None."""

    amounts: Amounts
    tenant: str | None = None
    day: date | None = None
    model: str | None = None
    task: str | None = None


def total(rows: Iterable[Used]) -> Amounts:
    """Of rows of one look: a second query would see what was recorded in between.

    >>> total([Used(Amounts(1, 0, 5, 6, 0.5)), Used(Amounts(2, 1, 1, 1, 0.25, 9.0))])
    Amounts(succeeded=3, failed=1, input_tokens=6, output_tokens=7, device_seconds=0.75, joules=9.0)
    """
    amounts = [row.amounts for row in rows]
    joules = [each.joules for each in amounts if each.joules is not None]
    return Amounts(
        sum(each.succeeded for each in amounts),
        sum(each.failed for each in amounts),
        sum(each.input_tokens for each in amounts),
        sum(each.output_tokens for each in amounts),
        sum(each.device_seconds for each in amounts),
        sum(joules) if joules else None,
    )


# What a statement that updates the job's row sets too.
SPEND = """
    device_seconds = device_seconds + :device_seconds,
    joules = CASE WHEN CAST(:joules AS float8) IS NULL THEN joules ELSE coalesce(joules, 0) + :joules END
"""
# What such a statement goes on with, as `counted` with the job's tenant and task.
ADD = """
    INSERT INTO usage_days AS held
        (tenant_id, day, model, task, succeeded, failed, input_tokens, output_tokens, device_seconds, joules)
    SELECT tenant_id, (now() AT TIME ZONE 'UTC')::date, :model, task,
        :succeeded, :failed, :input_tokens, :output_tokens, :device_seconds, CAST(:joules AS float8)
    FROM counted WHERE :succeeded + :failed > 0 OR :device_seconds > 0
    ON CONFLICT (tenant_id, day, model, task) DO UPDATE SET
        succeeded = held.succeeded + excluded.succeeded, failed = held.failed + excluded.failed,
        input_tokens = held.input_tokens + excluded.input_tokens,
        output_tokens = held.output_tokens + excluded.output_tokens,
        device_seconds = held.device_seconds + excluded.device_seconds,
        -- Null stays null until something was measured.
        joules = coalesce(held.joules + excluded.joules, held.joules, excluded.joules)
"""

_WASTE = text(f"""
    WITH counted AS (
        UPDATE jobs SET {SPEND} WHERE id = :job RETURNING tenant_id, task
    ), added AS ({ADD})
    SELECT count(*) FROM counted
""")


def waste(session: Session, job_id: str, model: str, spent: Spent) -> None:
    """Charge the job for work that was thrown away: its lease was lost while it ran. Nothing if the job is gone."""
    nothing = {"succeeded": 0, "failed": 0, "input_tokens": 0, "output_tokens": 0}
    session.execute(_WASTE, {"job": job_id, "model": model, **as_values(spent), **nothing})


def as_values(spent: Spent) -> Mapping[str, float | None]:
    """As SPEND and ADD name them."""
    return {"device_seconds": spent.device_seconds, "joules": spent.joules}


_COLUMNS = {
    Dimension.TENANT: "tenant.name",
    Dimension.DAY: "used.day",
    Dimension.MODEL: "used.model",
    Dimension.TASK: "used.task",
}


def used(
    session: Session, tenant_id: str | None, first: date, last: date, by: Collection[Dimension] = ()
) -> list[Used]:
    """What was used from the first day to the last, both included (UTC), in the order of Dimension.

    Of all tenants together if `tenant_id` is None. Without dimensions it is one row, which may be all zeros.
    """
    wanted = [each for each in Dimension if each in by]
    columns = ", ".join(_COLUMNS[each] for each in wanted)
    rows = session.execute(
        text(f"""
            SELECT {f"{columns}," if columns else ""}
                coalesce(sum(used.succeeded), 0)::bigint, coalesce(sum(used.failed), 0)::bigint,
                coalesce(sum(used.input_tokens), 0)::bigint, coalesce(sum(used.output_tokens), 0)::bigint,
                coalesce(sum(used.device_seconds), 0), sum(used.joules)
            FROM usage_days used JOIN tenants tenant ON tenant.id = used.tenant_id
            WHERE used.day BETWEEN :first AND :last AND (CAST(:tenant AS text) IS NULL OR used.tenant_id = :tenant)
            {f"GROUP BY {columns} ORDER BY {columns}" if columns else ""}
        """),
        {"first": first, "last": last, "tenant": tenant_id},
    )
    return [
        Used(Amounts(*row[len(wanted) :]), **dict(zip((each.value for each in wanted), row, strict=False)))
        for row in rows
    ]
