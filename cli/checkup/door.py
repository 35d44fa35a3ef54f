"""The API as clients find it: its port, its version, its own word on its health, our key, and the clocks."""

import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

from cli.checkup.answers import Answers, NoAnswer, Stranger
from cli.checkup.database import reached
from cli.checkup.finding import Finding, info, ok, problem, warning
from cli.checkup.ledger import KeyRow
from cli.checkup.scene import Kind, Scene
from cli.checkup.software import version_of
from db.safeguards import is_loopback

_SECONDS = 2.0
_SOON = timedelta(days=7)
# An answer of HTTP tells whole seconds.
_COARSE, _MUCH, _TOO_MUCH = 2.0, 5.0, 60.0


def port(scene: Scene) -> Iterator[Finding]:
    parts = urlsplit(scene.access.url)
    host, number = parts.hostname or "127.0.0.1", parts.port or (443 if parts.scheme == "https" else 80)
    if not is_loopback(host):
        yield info(f"the API is at {host}, not here")
        return
    try:
        with socket.create_connection((host, number), _SECONDS):
            is_taken = True
    except OSError:
        is_taken = False
    if not is_taken:
        yield ok(f"{number} is free for `bushel up`")
        return
    from cli.stack.lock import holder

    runs_here = holder(scene.data) is not None
    try:
        scene.answers()
    except (NoAnswer, Stranger) as exc:
        if runs_here and isinstance(exc, NoAnswer):
            yield info(f"{number} is held, most likely by our own API, which does not answer: see `api`")
            return
        advice = f"find it with: ss -ltnp sport = :{number}; or choose another: bushel up --port N"
        yield problem(f"{number} is held by {_holder(number)}, which is no Bushel", advice)
        return
    if not runs_here:
        advice = "stop it, or choose another: bushel up --port N"
        yield warning(f"{number} is held by another Bushel than that of {scene.data}", advice)
    else:
        yield ok(f"{number} is held by our own API")


def _holder(number: int) -> str:
    """Whoever listens there, as far as one may see it."""
    try:
        import psutil
    except ImportError:
        return "something else"
    try:
        pid = next(
            each.pid
            for each in psutil.net_connections("tcp")
            if each.status == psutil.CONN_LISTEN and each.laddr and each.laddr.port == number and each.pid
        )
        return f"process {pid} ({psutil.Process(pid).name()})"
    except (StopIteration, psutil.Error):
        return "something else"


def api(scene: Scene) -> Iterator[Finding]:
    url = scene.access.url
    try:
        answers = scene.answers()
    except Stranger as exc:
        yield problem(f"what answers at {url} is not Bushel ({exc})", "correct BUSHEL_URL or --url")
        return
    except NoAnswer as exc:
        yield _unreachable(scene, str(exc))
        return
    version = version_of("bushel")
    if answers.version is None or version is None or answers.version == version:
        yield ok(f"{url}, version {answers.version or 'unknown'}")
    else:
        advice = "install the same version on both sides; a newer server goes with an older client"
        yield warning(f"{url} is version {answers.version}, and this is {version}", advice)
    if urlsplit(url).scheme == "http" and not is_loopback(urlsplit(url).hostname or ""):
        yield warning("keys and texts go there in the clear", "use https://, with TLS in a proxy before the API")
    yield from _readiness(answers)


def _unreachable(scene: Scene, reason: str) -> Finding:
    url = scene.access.url
    if scene.kind is Kind.STACK:
        told = f"nothing answers at {url} ({reason})"
        return (problem if scene.has_started else info)(told, scene.start_advice("api"))
    if scene.kind is Kind.DEPLOYMENT and not scene.is_url_known:
        return info(f"nothing answers at {url}; if the API is elsewhere, say where", "set BUSHEL_URL")
    return problem(f"nothing answers at {url} ({reason})", "is the API running there, and is BUSHEL_URL right")


def _readiness(answers: Answers) -> Iterator[Finding]:
    advice = "docs/operations.md says what to do about each"
    if answers.readiness is None:
        advice = "it may be waiting for its database; or it is very old, or a proxy hides /readyz"
        yield problem("it is alive, and does not say whether it is ready", advice)
        return
    for missing in answers.readiness.missing:
        yield problem(f"it is not ready: {missing}", advice)
    for unwell in answers.readiness.unwell:
        yield warning(f"it says: {unwell}", advice)
    if answers.readiness.is_ready:
        yield ok("it says that it is ready")


def key(scene: Scene) -> Iterator[Finding]:
    if scene.access.api_key is None:
        advice = "set BUSHEL_API_KEY; where the database is: bushel keys create --save"
        yield (info if scene.kind is Kind.DEPLOYMENT or not scene.has_started else warning)("there is none", advice)
        return
    ledger = reached(scene)
    row = ledger.key if ledger is not None else None
    try:
        answers = scene.answers()
    except (NoAnswer, Stranger):
        yield from _stored(row) if row is not None else [info("cannot be tried: the API does not answer")]
        return
    if answers.key_status == 401:
        yield problem(
            f"the API refuses it: {answers.key_message}",
            "make another where the database is: bushel keys create --save",
        )
    elif answers.key_status == 403:
        yield warning(f"it opens, but may not read: {answers.key_message}", "make one with --scope read")
    elif answers.key_status == 200:
        yield ok("the API takes it; it may read")
    elif answers.key_status is None:
        yield info(f"could not be tried: {answers.key_message}")
    else:
        yield warning(f"the API answered {answers.key_status}: {answers.key_message}", "see the check `api`")
    if row is not None:
        yield from _stored(row)
    elif answers.key_status == 200:
        yield info("its other scopes are known to the database, and to a key with the scope admin")


def _stored(row: KeyRow) -> Iterator[Finding]:
    told = f"{row.name} of tenant {row.tenant}, scopes {', '.join(row.scopes) or 'none'}"
    now = datetime.now(UTC)
    if row.revoked_at is not None:
        yield problem(f"{told}: revoked", "make another where the database is: bushel keys create --save")
    elif row.expires_at is not None and row.expires_at <= now:
        yield problem(f"{told}: expired", "make another where the database is: bushel keys create --save")
    elif row.expires_at is not None and row.expires_at - now < _SOON:
        advice = "make another before that: bushel keys create --save"
        yield warning(f"{told}: expires at {row.expires_at:%Y-%m-%d %H:%M} UTC", advice)
    else:
        yield ok(told)


def clock(scene: Scene) -> Iterator[Finding]:
    ledger = reached(scene)
    if ledger is not None:
        yield _difference("PostgreSQL", ledger.ahead_seconds, 0.0)
    try:
        ahead = scene.answers().ahead_seconds
    except (NoAnswer, Stranger):
        ahead = None
    if ahead is not None:
        yield _difference("the API", ahead, _COARSE)
    if ledger is None and ahead is None:
        yield info("there is no other clock to compare with")


def _difference(whose: str, ahead: float, uncertain: float) -> Finding:
    told = f"that of {whose} is {abs(ahead):.1f} s {'ahead of' if ahead > 0 else 'behind'} this one"
    advice = "set both by NTP (timedatectl set-ntp true): leases, expiries and signatures go by the time"
    if abs(ahead) - uncertain > _TOO_MUCH:
        return problem(told, advice)
    if abs(ahead) - uncertain > _MUCH:
        return warning(told, advice)
    return ok(f"as that of {whose}" if abs(ahead) <= max(uncertain, 1.0) else told)
