"""The log of jobs: every change of a life is in it, once, and no reader misses what is committed late."""

import random
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError

from db import children, events, interactive, jobs, keys, leases, passes, sign_ins, upkeep, watching
from db.audit_log import OPERATOR
from db.cursors import UnknownCursor
from db.jobs import Idempotency, NewJob
from db.keys import Scope
from db.models import JobEvent
from db.notices import Listener
from db.passes import Pass
from db.session import Sessions, confined
from db.states import EVENT_OF, JobEventType, JobStatus
from tests.ledger import Ledger
from tests.waiting import eventually


def log(ledger: Ledger, job_id: str | None = None, after: int = 0, limit: int = 1_000) -> list[JobEvent]:
    with ledger.sessions() as session:
        return list(events.listing(session, ledger.tenant, job_id, after, limit).rows)


def types(ledger: Ledger, job_id: str) -> list[str]:
    return [event.type for event in log(ledger, job_id)]


def finish(ledger: Ledger, job_id: str) -> None:
    while (claim := ledger.claim(job_id)) is not None:
        ledger.record(claim)
    assert ledger.finalize(job_id)


# --- what is noted ------------------------------------------------------------------------------


def test_a_life_is_noted_from_its_beginning_to_its_end(ledger: Ledger) -> None:
    job_id = ledger.started(4)
    claim = ledger.claim(job_id)
    assert claim is not None
    ledger.record(claim, fail=1)
    assert ledger.finalize(job_id)

    noted = log(ledger, job_id)

    assert [event.type for event in noted] == ["created", "started", "finalizing", "completed"]
    assert noted[0].detail == {"parent_id": None}
    assert noted[1].detail == {"items": 4, "problems": 0}
    assert noted[3].detail == {"succeeded": 3, "failed": 1, "cancelled": 0, "expired": 0}
    assert {event.job_id for event in noted} == {job_id}
    assert [event.id for event in noted] == sorted(event.id for event in noted)
    assert [event.created_at for event in noted] == sorted(event.created_at for event in noted)


def test_every_status_has_its_event() -> None:
    assert EVENT_OF.keys() == set(JobStatus)
    assert len(set(EVENT_OF.values())) == len(EVENT_OF)
    assert set(JobEventType) - set(EVENT_OF.values()) == {
        *(JobEventType.PAUSED, JobEventType.RESUMED, JobEventType.CHUNK_LOST),
        *(JobEventType.RETRIED, JobEventType.CLONED),
    }


def test_a_pause_is_noted_once_however_often_it_is_asked_for(ledger: Ledger) -> None:
    job_id = ledger.started(2)
    for is_paused in (True, True, False, False, True):
        with ledger.sessions.begin() as session:
            jobs.set_paused(session, ledger.tenant, job_id, is_paused)

    assert types(ledger, job_id) == ["created", "started", "paused", "resumed", "paused"]


def test_a_cancellation_is_noted_when_it_is_asked_for_and_when_it_is_done(ledger: Ledger) -> None:
    job_id = ledger.started(3)
    for _ in range(2):
        with ledger.sessions.begin() as session:
            jobs.cancel(session, ledger.tenant, job_id)
    assert types(ledger, job_id) == ["created", "started", "cancelling"]

    ledger.finalize(job_id)

    assert types(ledger, job_id)[3:] == ["cancelled"]
    assert log(ledger, job_id)[-1].detail["cancelled"] == 3


def test_an_input_that_is_refused_is_noted_with_how_much_is_wrong(ledger: Ledger) -> None:
    job_id = ledger.submit(b'{"text": 1}\n{"text": 2}\n', {"type": "jsonl"})
    ledger.ingest(job_id)

    assert types(ledger, job_id) == ["created", "failed"]
    assert log(ledger, job_id)[1].detail["problems"] == 2


def test_a_window_that_closes_is_noted_and_says_so(ledger: Ledger) -> None:
    job_id = ledger.started(2, expires_in=timedelta(hours=1))
    other = ledger.started(2)
    ledger.run("UPDATE jobs SET expires_at = now() - interval '1 s' WHERE id = :job", job=job_id)
    with ledger.sessions.begin() as session:
        assert upkeep.expire_jobs(session) == [job_id]
    ledger.finalize(job_id)

    assert types(ledger, job_id)[2:] == ["finalizing", "expired"]
    assert log(ledger, job_id)[2].detail == {"why": "the completion window has closed"}
    assert types(ledger, other) == ["created", "started"]


def test_a_dry_run_has_a_log_too(ledger: Ledger) -> None:
    job_id = ledger.submit(b"one\n", dry_run=True)
    ledger.ingest(job_id)
    ledger.finalize(job_id)

    assert types(ledger, job_id) == ["created", "finalizing", "completed"]


def test_a_chunk_that_is_taken_back_is_noted_with_what_became_of_it(ledger: Ledger) -> None:
    job_id = ledger.started(4)
    lost = []
    for _ in range(2):
        claim = ledger.claim(job_id)
        assert claim is not None
        ledger.lapse(claim)
        with ledger.sessions.begin() as session:
            assert leases.reclaim(session) is not None
        lost.append(claim.chunk_id)

    noted = [event.detail for event in log(ledger, job_id) if event.type == "chunk_lost"]

    assert [detail["chunk"] for detail in noted] == lost
    assert [(detail["items"], detail["became"], detail["crashes"]) for detail in noted] == [
        (4, "ready", 1),
        (4, "split", 2),
    ]
    assert "lease ran out" in noted[0]["why"]


def test_a_job_knows_what_was_made_of_it(ledger: Ledger) -> None:
    parent = ledger.started(2)
    claim = ledger.claim(parent)
    assert claim is not None
    ledger.record(claim, fail=1)
    ledger.finalize(parent)

    made = {}
    for make in (children.retry, children.clone):
        with ledger.sessions.begin() as session:
            made[make.__name__] = jobs.submit(session, ledger.tenant, make(session, ledger.tenant, parent)).job.id

    noted = {event.type: event.detail for event in log(ledger, parent)}
    assert noted["retried"] == {"child_id": made["retry"]}
    assert noted["cloned"] == {"child_id": made["clone"]}
    for child in made.values():
        assert log(ledger, child)[0].detail == {"parent_id": parent}


def test_what_did_not_happen_is_not_noted(ledger: Ledger) -> None:
    job_id = ledger.started(1)
    with ledger.sessions() as session:
        jobs.cancel(session, ledger.tenant, job_id)
        session.rollback()
    again = Idempotency("same", "0")
    for _ in range(2):
        with ledger.sessions.begin() as session:
            new = NewJob(jobs.new_job_id(), "translation", "echo", {}, {"type": "txt"}, input_file_id=None)
            made = jobs.submit(session, ledger.tenant, new, again).job.id

    assert types(ledger, job_id) == ["created", "started"]
    assert types(ledger, made) == ["created"]
    assert len(log(ledger)) == 3


def test_single_requests_have_no_log(ledger: Ledger) -> None:
    with ledger.sessions.begin() as session:
        new = NewJob(jobs.new_job_id(), "translation", "echo", {}, {"type": "jsonl"})
        job = interactive.submit(session, ledger.tenant, new, {"text": "hello"}, {})
    finish(ledger, job.id)

    assert ledger.job(job.id).status == "completed"
    assert ledger.rows("SELECT * FROM job_events") == []


def test_a_log_goes_with_its_job(ledger: Ledger) -> None:
    gone, kept = ledger.started(1), ledger.started(1)
    finish(ledger, gone)
    with ledger.sessions.begin() as session:
        jobs.delete(session, ledger.tenant, gone)

    assert log(ledger, gone) == []
    assert types(ledger, kept) == ["created", "started"]


@pytest.mark.parametrize("statement", ["UPDATE job_events SET type = 'failed'", "DELETE FROM job_events"])
def test_a_tenant_adds_to_its_log_and_changes_nothing_of_it(ledger: Ledger, statement: str) -> None:
    ledger.started(1)
    inside = confined(ledger.sessions.kw["bind"], lambda: ledger.tenant)

    with pytest.raises(ProgrammingError, match="permission denied"), inside.begin() as session:
        session.execute(text(statement))


# --- reading it ---------------------------------------------------------------------------------


def test_pages_follow_each_other_without_a_gap(ledger: Ledger) -> None:
    made = [ledger.submit(b"one\n") for _ in range(5)]
    read: list[JobEvent] = []
    sizes = []
    has_more = True
    while has_more:
        with ledger.sessions() as session:
            page = events.listing(session, ledger.tenant, None, read[-1].id if read else 0, 2)
        read += page.rows
        sizes.append(len(page.rows))
        has_more = page.has_more

    assert sizes == [2, 2, 1]
    assert [event.job_id for event in read] == made
    with ledger.sessions() as session:
        assert events.newest(session, ledger.tenant) == read[-1].id
        assert events.newest(session, "another") == 0
        assert [event.id for event in events.listing(session, ledger.tenant, None, 0, 9, read[2].id).rows] == [
            event.id for event in read[:3]
        ]
        assert not events.listing(session, "another", None, 0, 9).rows
        assert not events.listing(session, "another", made[0], 0, 9).rows


@pytest.mark.parametrize("after", ["", "-1", "1.5", "x", "٣", "²", "9" * 19, "1" * 40, "1\0"])
def test_what_is_no_position_is_told(after: str) -> None:
    with pytest.raises(UnknownCursor):
        events.position(after)


def test_an_event_that_is_committed_late_comes_behind_those_that_were_read(ledger: Ledger) -> None:
    """Its row was inserted before theirs. A reader that goes by ids drawn then would never see it."""
    early, late = ledger.started(1), ledger.started(1)
    start = log(ledger)[-1].id
    slow = ledger.sessions()
    events.note(slow, late, JobEventType.PAUSED)

    with ledger.sessions.begin() as session:
        events.note(session, early, JobEventType.PAUSED)
    first = log(ledger, after=start)
    assert [event.job_id for event in first] == [early]
    slow.commit()
    slow.close()

    assert [event.job_id for event in log(ledger, after=first[-1].id)] == [late]


def test_events_of_one_transaction_keep_their_order_across_savepoints(ledger: Ledger) -> None:
    job_id = ledger.started(1)
    start = log(ledger)[-1].id
    with ledger.sessions.begin() as session:
        events.note(session, job_id, JobEventType.PAUSED)
        place = session.begin_nested()
        events.note(session, job_id, JobEventType.FAILED)
        place.rollback()
        place = session.begin_nested()
        events.note(session, job_id, JobEventType.RESUMED)
        place.commit()
        events.note(session, job_id, JobEventType.CANCELLING)

    assert [event.type for event in log(ledger, after=start)] == ["paused", "resumed", "cancelling"]


def test_a_reader_misses_nothing_of_many_writers(ledger: Ledger) -> None:
    """Writers hold their transactions open for as long as it happens to take, some give up; one reader follows."""
    ids = [ledger.started(1) for _ in range(4)]
    start = log(ledger)[-1].id
    written: list[list[int]] = [[] for _ in range(8)]

    def write(number: int) -> None:
        dice = random.Random(number)
        for turn in range(40):
            with ledger.sessions() as session:
                for _ in range(dice.randint(1, 3)):
                    events.note(session, dice.choice(ids), JobEventType.PAUSED, by=number * 1_000 + turn)
                    session.execute(text("SELECT pg_sleep(:seconds)"), {"seconds": dice.random() * 0.01})
                if dice.random() < 0.2:
                    session.rollback()
                else:
                    session.commit()
                    written[number].append(number * 1_000 + turn)

    writers = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for writer in writers:
        writer.start()
    read: list[JobEvent] = []
    while any(writer.is_alive() for writer in writers):
        read += log(ledger, after=read[-1].id if read else start, limit=7)
    while rest := log(ledger, after=read[-1].id if read else start):
        read += rest

    assert len(read) == len(ledger.rows("SELECT 1 FROM job_events WHERE id > :start", start=start))
    assert {event.detail["by"] for event in read} == {by for each in written for by in each}


def test_an_event_that_is_noted_early_holds_up_nobody(ledger: Ledger) -> None:
    """Ids are drawn one transaction after the other, but only at their ends: in the middle that would be a deadlock."""
    one, other = ledger.started(1), ledger.started(1)
    change = text("UPDATE jobs SET priority = priority + 1 WHERE id = :job")
    first, second = ledger.sessions(), ledger.sessions()
    events.note(first, one, JobEventType.PAUSED)
    second.execute(change, {"job": other})
    # Waits for the second, which is about to note something too.
    waiting = threading.Thread(target=lambda: (first.execute(change, {"job": other}), first.commit()))
    waiting.start()
    eventually(lambda: ledger.rows("SELECT 1 FROM pg_locks WHERE NOT granted"))

    events.note(second, other, JobEventType.PAUSED)
    second.commit()
    waiting.join(30)

    assert not waiting.is_alive()
    assert [types(ledger, job_id)[-1] for job_id in (one, other)] == ["paused", "paused"]
    assert ledger.job(other).priority == 2
    first.close()
    second.close()


# --- who is told, and who looks -----------------------------------------------------------------


@pytest.fixture
def listener(database_url: str) -> Iterator[Listener]:
    listener = Listener(database_url)
    yield listener
    listener.stop()


def test_whoever_follows_hears_whose_log_has_grown(ledger: Ledger, listener: Listener) -> None:
    heard: list[str] = []
    listener.follow(heard.append)
    # Once at the beginning, when it may have missed anything.
    eventually(lambda: heard == [""])

    job_id = ledger.started(1)
    eventually(lambda: heard.count(ledger.tenant) == 2)
    ledger.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'bushel listener'")
    eventually(lambda: heard.count("") == 2, 20)
    with ledger.sessions.begin() as session:
        jobs.set_paused(session, ledger.tenant, job_id, is_paused=True)

    eventually(lambda: heard.count(ledger.tenant) == 3)


def test_a_look_tells_which_jobs_have_moved(ledger: Ledger) -> None:
    moving, waiting, over = ledger.started(2), ledger.started(2), ledger.started(1)
    finish(ledger, over)

    def look() -> watching.Look:
        with ledger.sessions() as session:
            return watching.look(session, [over, "job_unknown"], [ledger.tenant], [ledger.tenant, "ten_nobody"])

    before = look()
    assert before.jobs.keys() == {moving, waiting, over}
    assert {seen.tenant_id for seen in before.jobs.values()} == {ledger.tenant}
    assert before.newest == {ledger.tenant: log(ledger)[-1].id, "ten_nobody": 0}
    assert look() == before

    ledger.claim(moving)

    after = look()
    assert after.newest == before.newest
    assert {id for id in after.jobs if after.jobs[id] != before.jobs[id]} == {moving}


def test_a_look_is_bounded_and_keeps_those_that_move(ledger: Ledger) -> None:
    first = ledger.started(2)
    ledger.run(
        f"""
        INSERT INTO jobs (id, tenant_id, task, model, params, format, long_input, on_error)
        SELECT 'job_' || n, :tenant, 'translation', 'echo', '{{}}', '{{}}', 'error', 'fail'
        FROM generate_series(1, {watching.MOST_JOBS + 50}) AS n
        """,
        tenant=ledger.tenant,
    )
    ledger.claim(first)

    with ledger.sessions() as session:
        seen = watching.look(session, [], [ledger.tenant], []).jobs

    assert len(seen) == watching.MOST_JOBS
    assert first in seen


def test_a_pass_ends_with_what_it_was_made_of(sessions: Sessions, tenant: str) -> None:
    now = datetime.now(UTC)
    names = ("kept", "revoked", "expired", "rotated", "in grace", "signed out", "browser", "of a revoked key")
    made: dict[str, str] = {}
    found: dict[str, Pass] = {}
    cookies: dict[str, str] = {}
    with sessions.begin() as session:
        for name in names:
            made[name] = keys.add_key(session, tenant, name, None, {Scope.READ}, OPERATOR).key
            signed_in = sign_ins.begin(session, made[name], now)
            assert signed_in is not None
            cookies[name] = signed_in[1]
            is_browser = name in ("signed out", "browser", "of a revoked key")
            one = (
                passes.of_browser(session, cookies[name], now)
                if is_browser
                else passes.of_key(session, made[name], now)
            )
            assert one is not None
            found[name] = one
            assert made[name][17:60] not in repr(one), "the secret itself is not kept"
        assert passes.still_open(session, set(found.values())) == set(found.values())
        assert passes.still_open(session, set()) == set()

        for name in ("revoked", "of a revoked key"):
            keys.revoke_key(session, made[name])
        keys.rotate_key(session, made["rotated"], timedelta(0))
        keys.rotate_key(session, made["in grace"], timedelta(hours=1))
        sign_ins.end(session, cookies["signed out"], now)
        session.execute(text("UPDATE api_keys SET expires_at = now() - interval '1 s' WHERE name = 'expired'"))
    with sessions() as session:
        open_ones = passes.still_open(session, set(found.values()))

    assert {name for name, one in found.items() if one in open_ones} == {"kept", "in grace", "browser"}
    with sessions() as session:
        assert passes.of_key(session, made["revoked"], now) is None
        assert passes.of_browser(session, cookies["signed out"], now) is None
