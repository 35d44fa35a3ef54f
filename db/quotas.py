"""What a tenant may have at once, what it has, and the one place where the two are compared.

What is used is never kept: it is counted from the rows of open jobs and stored files whenever it is asked for. So
whatever ends, is cancelled, is deleted or expires gives back what it took by doing so, and nothing can drift.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from enum import StrEnum

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from db import audit_log
from db.audit_log import OPERATOR, Act
from db.errors import NotFound, QuotaExceeded
from db.models import Tenant

# Kept for "no limit, whatever the settings say". None is "as the settings say".
UNLIMITED = 2**63 - 1


class Quota(StrEnum):
    """What is limited. Single requests somebody waits for are not: their seats are (BUSHEL_SYNC_REQUESTS)."""

    OPEN_JOBS = "open_jobs"
    QUEUED_ITEMS = "queued_items"
    QUEUED_TOKENS = "queued_tokens"
    STORED_BYTES = "stored_bytes"
    REQUESTS_PER_SECOND = "requests_per_second"


_QUEUE = (Quota.OPEN_JOBS, Quota.QUEUED_ITEMS, Quota.QUEUED_TOKENS)
REMEDY = {
    Quota.OPEN_JOBS: "wait until jobs have ended, or cancel some",
    Quota.QUEUED_ITEMS: "wait until jobs have got on, cancel some, or submit less at once",
    Quota.QUEUED_TOKENS: "wait until jobs have got on, cancel some, or submit less at once",
    Quota.STORED_BYTES: "delete files, or jobs with their results, and try again",
}


@dataclass(frozen=True, slots=True)
class Limits:
    """The most of each quota. None: nothing is said - in a tenant's row that the default holds, else no limit."""

    open_jobs: int | None = None
    queued_items: int | None = None
    queued_tokens: int | None = None
    stored_bytes: int | None = None
    requests_per_second: int | None = None

    def of(self, quota: Quota) -> int | None:
        value: int | None = getattr(self, quota.value)
        return value

    def over(self, defaults: "Limits") -> "Limits":
        """These, with the defaults where they say nothing; what is unlimited becomes None."""
        chosen = {quota.value: effective(self.of(quota), defaults.of(quota)) for quota in Quota}
        return Limits(**chosen)


@dataclass(frozen=True, slots=True)
class Amounts:
    """How much of each quota is used, or wanted."""

    open_jobs: int = 0
    queued_items: int = 0
    queued_tokens: int = 0
    stored_bytes: int = 0

    def of(self, quota: Quota) -> int:
        value: int = getattr(self, quota.value)
        return value


COUNTED = tuple(Quota(field.name) for field in fields(Amounts))


def effective(own: int | None, default: int | None) -> int | None:
    """What holds for a tenant; None for no limit.

    >>> effective(None, 5), effective(3, 5), effective(UNLIMITED, 5)
    (5, 3, None)
    """
    found = default if own is None else own
    return None if found == UNLIMITED else found


def limits(session: Session, tenant_id: str, defaults: Limits) -> Limits:
    """What holds for the tenant."""
    columns = [getattr(Tenant, quota.value) for quota in Quota]
    row = session.execute(select(*columns).where(Tenant.id == tenant_id)).one()
    return Limits(*row).over(defaults)


def admit(session: Session, tenant_id: str, wanted: Amounts, defaults: Limits) -> None:
    """Let in what is wanted, or raise QuotaExceeded. The caller inserts it in the same transaction.

    Other admissions of the tenant wait for the end of that transaction, so that no two of them see the same room.
    """
    held = limits(session, tenant_id, defaults)
    asked = [quota for quota in COUNTED if wanted.of(quota) and held.of(quota) is not None]
    if asked:
        _compare(session, tenant_id, held, asked, wanted)


def ensure_queue_within(session: Session, tenant_id: str, defaults: Limits) -> None:
    """Raise QuotaExceeded if what this transaction has queued, with all the rest, is more than may be."""
    held = limits(session, tenant_id, defaults)
    asked = [quota for quota in (Quota.QUEUED_ITEMS, Quota.QUEUED_TOKENS) if held.of(quota) is not None]
    if asked:
        _compare(session, tenant_id, held, asked, Amounts())


def ensure_stored_within(session: Session, tenant_id: str, defaults: Limits) -> None:
    """Raise QuotaExceeded if the bytes that this transaction has noted, with all the rest, are more than may be."""
    held = limits(session, tenant_id, defaults)
    if held.stored_bytes is not None:
        _compare(session, tenant_id, held, [Quota.STORED_BYTES], Amounts())


@dataclass(frozen=True, slots=True)
class Room:
    """How many bytes a tenant has stored, of how many it may; `most` None for any number."""

    used: int
    most: int | None

    def ensure_takes(self, wanted: int) -> None:
        """Raise QuotaExceeded if so many bytes more are too many."""
        if self.most is not None and self.used + wanted > self.most:
            quota = Quota.STORED_BYTES
            raise QuotaExceeded(quota.value, self.used, wanted, self.most, REMEDY[quota], ends_by_itself=False)


def room(session: Session, tenant_id: str, defaults: Limits) -> Room:
    """What the tenant may store now. Nothing is kept for it: `admit` is asked again for what was stored."""
    most = limits(session, tenant_id, defaults).stored_bytes
    return Room(0 if most is None else used(session, tenant_id, [Quota.STORED_BYTES]).stored_bytes, most)


def _compare(session: Session, tenant_id: str, held: Limits, asked: Iterable[Quota], wanted: Amounts) -> None:
    session.execute(text("SELECT pg_advisory_xact_lock(hashtextextended('quotas ' || :id, 0))"), {"id": tenant_id})
    have = used(session, tenant_id, asked)
    for quota in asked:
        most = held.of(quota)
        assert most is not None
        if have.of(quota) + wanted.of(quota) > most:
            raise QuotaExceeded(
                quota.value,
                have.of(quota),
                wanted.of(quota),
                most,
                REMEDY[quota],
                ends_by_itself=quota is not Quota.STORED_BYTES,
            )


def used(session: Session, tenant_id: str, asked: Iterable[Quota] = COUNTED) -> Amounts:
    """What the tenant has now, of the quotas that are asked for; the others are told as 0."""
    asked = set(asked)
    amounts: dict[str, int] = {}
    if asked & set(_QUEUE):
        amounts |= session.execute(_QUEUED, {"tenant": tenant_id}).mappings().one()
    if Quota.STORED_BYTES in asked:
        amounts["stored_bytes"] = session.execute(_STORED, {"tenant": tenant_id}).scalar_one()
    return Amounts(**{name: int(amount) for name, amount in amounts.items()})


# A job being validated has what it announced until more than that is counted in. A dry run never queues anything.
_QUEUED = text("""
    SELECT count(*) AS open_jobs,
        coalesce(sum(CASE WHEN dry_run THEN 0 WHEN status = 'validating' THEN greatest(queued, announced_items)
            ELSE queued END), 0) AS queued_items,
        coalesce(sum(CASE WHEN dry_run THEN 0 WHEN status = 'validating' THEN greatest(queued_tokens, announced_tokens)
            ELSE queued_tokens END), 0) AS queued_tokens
    FROM jobs
    WHERE tenant_id = :tenant AND NOT interactive
        AND status IN ('validating', 'in_progress', 'finalizing', 'cancelling')
""")
# A deleted file that an open job still reads takes room as before: else one could have any number of them.
# An upload takes what it announced, or what its parts have if that is more; complete, it is a file.
_STORED = text("""
    SELECT (
        SELECT coalesce(sum(bytes), 0) FROM files
        WHERE tenant_id = :tenant AND bytes_removed_at IS NULL
            AND ((deleted_at IS NULL AND (expires_at IS NULL OR expires_at > now()))
                OR EXISTS (SELECT FROM jobs WHERE jobs.input_file_id = files.id
                    AND jobs.status IN ('validating', 'in_progress', 'finalizing', 'cancelling')))
    ) + (
        SELECT coalesce(sum(inputs_bytes), 0) FROM jobs WHERE tenant_id = :tenant AND inputs_bytes > 0
    ) + (
        SELECT coalesce(sum(greatest(upload.bytes, (
            SELECT sum(part.bytes) FROM upload_parts part WHERE part.upload_id = upload.id))), 0)
        FROM uploads upload
        WHERE upload.tenant_id = :tenant AND upload.status = 'pending' AND upload.expires_at > now()
    )
""")


def of_tenant(session: Session, tenant_name: str) -> tuple[Limits, Amounts]:
    """What the tenant's row says, and what it uses; for the operator. NotFound for a name nobody has."""
    tenant = _tenant(session, tenant_name)
    return Limits(*(getattr(tenant, quota.value) for quota in Quota)), used(session, tenant.id)


def set_limits(session: Session, tenant_name: str, wanted: dict[Quota, int | None]) -> None:
    """Change what the tenant's row says: a number, UNLIMITED, or None for the service's default."""
    tenant = _tenant(session, tenant_name)
    for quota, most in wanted.items():
        before = getattr(tenant, quota.value)
        setattr(tenant, quota.value, most)
        audit_log.note(session, tenant.id, OPERATOR, Act.QUOTA_SET, quota.value, before=before, now=most)


def _tenant(session: Session, name: str) -> Tenant:
    tenant = session.scalar(select(Tenant).where(Tenant.name == name)) if "\0" not in name else None
    if tenant is None:
        raise NotFound("tenant", name)
    return tenant
