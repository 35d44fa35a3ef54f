"""Redis or Valkey: does it answer, does it keep what it is told, and may our user do what it must and no more."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote, urlsplit

from cli.checkup.finding import Finding, info, ok, problem, warning
from cli.checkup.scene import Kind, Scene

if TYPE_CHECKING:
    import redis

_SECONDS = 3.0
# What Celery does with rings, and the API to count requests; cli/stack/valkey.py has the whole line of rights.
_NEEDED = (
    *("LPUSH bushel:x y", "BRPOP bushel:x 1", "LLEN bushel:x", "SADD bushel:x y", "SMEMBERS bushel:x", "MULTI"),
    *("EXEC", "EXISTS bushel:x", "DEL bushel:x", "INCRBY bushel:x 1", "EXPIRE bushel:x 1", "SELECT 0"),
)
_TOO_MUCH = ("FLUSHALL", "CONFIG SET maxmemory 1", "KEYS *", "GET other:x")


def broker(scene: Scene) -> Iterator[Finding]:
    import redis
    from redis.exceptions import NoPermissionError

    if scene.broker_url is None:
        if scene.unreadable:
            yield info("where it is cannot be read: see `settings`")
        elif scene.kind is Kind.DEPLOYMENT:
            yield problem("BUSHEL_BROKER_URL does not say where it is", "set it; see docs/configuration.md")
        else:
            yield info("there is none yet; the first start of `bushel up` makes it")
        return
    try:
        with _connected(scene.broker_url) as ours:
            ours.ping()
            # The user of `bushel up` may not ask about the server, but its operator may.
            if scene.operator_url is None:
                yield from _examined(ours, ours)
            else:
                with _connected(scene.operator_url) as operator:
                    yield from _examined(operator, ours)
    except redis.AuthenticationError as exc:
        yield problem(f"it does not let us in: {exc}", "correct user and password in BUSHEL_BROKER_URL")
    except NoPermissionError as exc:
        yield problem(f"our user may not do what it must: {exc}", _rights_advice())
    except redis.BusyLoadingError:
        yield warning("it is still reading its file", "wait, and look again")
    except (redis.RedisError, OSError, ValueError) as exc:
        advice = "is it started, and is BUSHEL_BROKER_URL right"
        yield problem(
            f"it does not answer: {exc}", scene.start_advice("valkey") if scene.kind is Kind.STACK else advice
        )


def _connected(url: str) -> "redis.Redis":
    import redis

    timeouts: dict[str, Any] = {"socket_timeout": _SECONDS, "socket_connect_timeout": _SECONDS, "retry": None}
    return redis.Redis.from_url(as_redis(url), decode_responses=True, **timeouts)


def as_redis(url: str) -> str:
    """kombu's spelling of a Unix socket as redis-py's.

    >>> as_redis("redis+socket://bushel:secret@/run/valkey.sock?virtual_host=1")
    'unix://bushel:secret@/run/valkey.sock?db=1'
    """
    parts = urlsplit(url)
    if parts.scheme != "redis+socket":
        return url
    number = parse_qs(parts.query).get("virtual_host", ["0"])[0]
    return f"unix://{parts.netloc.rpartition('@')[0]}@{quote(parts.path)}?db={number}".replace("//@", "//")


def _examined(asking: "redis.Redis", ours: "redis.Redis") -> Iterator[Finding]:
    from redis.exceptions import NoPermissionError

    try:
        server: dict[str, Any] = asking.info()
    except NoPermissionError:
        yield ok("it answers")
        yield info("version, memory and rights are not told to our user, which is how it should be")
        return
    name = "Valkey" if server.get("valkey_version") else "Redis"
    yield ok(f"{name} {server.get('valkey_version') or server.get('redis_version')}")
    yield from _memory(server)
    yield from _persistence(server)
    yield from _rights(asking, ours)


def _memory(server: dict[str, Any]) -> Iterator[Finding]:
    policy, used, most = server.get("maxmemory_policy"), server.get("used_memory", 0), server.get("maxmemory", 0)
    if policy != "noeviction":
        advice = "set maxmemory-policy noeviction: under pressure it would throw queues away"
        yield problem(f"its maxmemory-policy is {policy}", advice)
    elif most and used > 0.9 * most:
        yield warning(f"{used:,} of {most:,} bytes are used; rings are refused when it is full", "raise its maxmemory")
    else:
        yield ok(f"nothing is evicted; {used:,} bytes used" + (f" of {most:,}" if most else ""))


def _persistence(server: dict[str, Any]) -> Iterator[Finding]:
    if not server.get("aof_enabled"):
        yield info("its append-only file is off: rings are lost when it restarts, which costs seconds, and no work")
    elif server.get("aof_last_write_status") != "ok" or server.get("aof_last_bgrewrite_status") != "ok":
        yield problem("it cannot write its append-only file", "is its disk full; its log says more")
    else:
        yield ok("it keeps an append-only file")


def _rights(asking: "redis.Redis", ours: "redis.Redis") -> Iterator[Finding]:
    from redis.exceptions import NoPermissionError, ResponseError

    try:
        user = str(ours.acl_whoami())
    except NoPermissionError:
        # Ours has so few rights that it may not even ask for its name.
        user = str(ours.connection_pool.connection_kwargs.get("username") or "default")
    try:
        refused = [command for command in _NEEDED if not _may(asking, user, command)]
        allowed = [command for command in _TOO_MUCH if _may(asking, user, command)]
    except ResponseError:
        yield info("what its user may do cannot be tried: the server is older than Redis 7")
        return
    if refused:
        yield problem(f"user {user} may not {', '.join(refused)}", _rights_advice())
    elif allowed:
        yield info(f"user {user} may do more than it needs ({', '.join(allowed)})", _rights_advice())
    else:
        yield ok(f"user {user} may do what it must and no more")


def _may(asking: "redis.Redis", user: str, command: str) -> bool:
    """Asked of the server, which only says whether it would."""
    answer: object = asking.execute_command("ACL DRYRUN", user, *command.split())  # type: ignore[no-untyped-call]
    return str(answer).upper() == "OK"


def _rights_advice() -> str:
    return "docker-compose.yml has the line of rights that the user `bushel` needs"
