"""Requests to strangers' addresses: where they may go, how long they may take, what they leave behind."""

import socket
import ssl
import threading
import time
from collections.abc import Iterable, Sequence
from typing import Any

import httpcore
import pytest

from db.targets import BadTarget, check_url
from tests.receiver import Certificates, Receiver, Told, certificates, raw_server
from workers.outbound import Outbound, SystemResolver, Undelivered

PUBLIC = "93.184.216.34"

PRIVATE_ADDRESSES = [
    "127.0.0.1",
    "127.255.255.254",
    "::1",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "100.64.0.1",
    "fd12::1",
    "::ffff:10.0.0.1",
    "::ffff:127.0.0.1",
    "64:ff9b::10.0.0.1",
]
# Not even where private receivers are allowed.
NEVER = [
    "169.254.169.254",
    "::ffff:169.254.169.254",
    "64:ff9b::169.254.169.254",
    "fe80::1",
    "fe80::1%eth0",
    "fd00:ec2::254",
    "100.100.100.200",
    "168.63.129.16",
    "0.0.0.0",
    "::",
    "224.0.0.1",
    "ff02::1",
    "255.255.255.255",
    "240.0.0.1",
]
# Ways to carry an IPv4 address that nobody's receiver needs.
TUNNELS = ["2002:7f00:1::", "2002:0a00:1::1", "2001:0:7f00:1::1", "::127.0.0.1", "64:ff9b:1::10.0.0.1"]
# What resolvers take for 127.0.0.1 or 0.0.0.0 although it does not look like it.
ODD_HOSTS = ["2130706433", "0x7f000001", "017700000001", "0177.0.0.1", "0x7f.1", "127.1", "0", "127.0.0.1."]


class Names:
    """A resolver that answers from a list, one after the other, and counts how often it was asked."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers, self.asked = list(answers), 0

    def addresses(self, host: str, port: int, seconds: float) -> Sequence[str]:
        self.asked += 1
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


class Wire(httpcore.NetworkBackend):
    """Remembers which addresses were connected to, and leads all of them to a port of this machine."""

    def __init__(self, port: int, refusing: Iterable[str] = ()) -> None:
        self.port, self.connected, self.refusing = port, [], set(refusing)
        self._real = httpcore.SyncBackend()

    connected: list[str]

    def connect_tcp(self, host: str, port: int, *args: Any, **options: Any) -> httpcore.NetworkStream:
        self.connected.append(host)
        if host in self.refusing:
            raise httpcore.ConnectError("refused")
        return self._real.connect_tcp("127.0.0.1", self.port, *args, **options)


@pytest.fixture(scope="module")
def trust() -> Certificates:
    return certificates("hooks.example")


def post(outbound: Outbound, url: str) -> int:
    return outbound.post(url, {"x-test": "1"}, b"{}").status


# Where requests may go


@pytest.mark.parametrize("address", PRIVATE_ADDRESSES + NEVER + TUNNELS)
def test_a_name_that_leads_into_a_network_of_ours_is_not_followed(address: str) -> None:
    wire = Wire(1)
    outbound = Outbound(False, Names([address]), wire)

    with pytest.raises(Undelivered, match=r"hooks\.example leads to .* where nothing is sent"):
        post(outbound, "https://hooks.example/")

    assert wire.connected == []


def test_one_private_address_among_public_ones_is_enough_to_refuse() -> None:
    wire = Wire(1)

    with pytest.raises(Undelivered, match="leads to 10"):
        post(Outbound(False, Names([PUBLIC, "10.0.0.1"]), wire), "https://hooks.example/")

    assert wire.connected == []


@pytest.mark.parametrize("address", PRIVATE_ADDRESSES + NEVER + TUNNELS)
def test_the_same_addresses_written_into_the_url_are_refused_at_once(address: str) -> None:
    host = f"[{address}]" if ":" in address else address

    with pytest.raises(BadTarget):
        check_url(f"https://{host}/", allow_private=False)


@pytest.mark.parametrize("host", ODD_HOSTS)
def test_odd_ways_to_write_this_machines_address_are_seen_through(host: str) -> None:
    with pytest.raises(BadTarget, match=r"nothing is sent|Invalid IPv4"):
        check_url(f"https://{host}/", allow_private=False)


@pytest.mark.parametrize("host", ODD_HOSTS)
def test_odd_hosts_that_reach_the_resolver_are_refused_by_what_it_says(host: str) -> None:
    """The real resolver: whatever it makes of them is not public."""
    try:
        found = SystemResolver().addresses(host, 443, 10)
    except Undelivered:
        return

    with pytest.raises(Undelivered, match="nothing is sent"):
        post(Outbound(False, Names(found), Wire(1)), "https://hooks.example/")


@pytest.mark.parametrize("address", NEVER)
def test_metadata_and_link_local_addresses_are_refused_even_where_private_ones_are_allowed(address: str) -> None:
    wire = Wire(1)

    with pytest.raises(Undelivered, match="nothing is sent"):
        post(Outbound(True, Names([address]), wire), "http://hooks.example/")

    assert wire.connected == []


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://hooks.example/", "must begin with https://, unless BUSHEL_WEBHOOK_PRIVATE_ADDRESSES is set"),
        ("ftp://hooks.example/", "must begin with https"),
        ("file:///etc/passwd", "must begin with https"),
        ("https:///path", "must name a host"),
        ("https://user:secret@hooks.example/", "user name or password"),
        ("https://user@hooks.example/", "user name or password"),
        ("https://hooks.example/#part", "fragment"),
        ("https://localhost/", "this machine; nothing is sent there, unless BUSHEL_WEBHOOK_PRIVATE_ADDRESSES"),
        ("https://10.0.0.8/", "where nothing is sent, unless BUSHEL_WEBHOOK_PRIVATE_ADDRESSES is set on the server"),
        ("https://169.254.169.254/", "where nothing is sent$"),
        ("https://LOCALHOST./", "this machine"),
        ("https://a.localhost/", "this machine"),
        ("https://hooks.example:0/", "port"),
        ("https://hooks.example:99999/", "port"),
        ("https://hooks.example/\r\nx: y", "URL"),
        ("hooks.example", "must begin with https"),
        ("https://" + "a" * 2050, "characters or less"),
    ],
)
def test_a_url_that_may_not_be_used_says_why(url: str, why: str) -> None:
    with pytest.raises(BadTarget, match=why):
        check_url(url, allow_private=False)


@pytest.mark.parametrize(
    "url",
    ["https://hooks.example", "https://hooks.example:8443/a?b=c", "https://93.184.216.34/", "https://bücher.example/"],
)
def test_an_ordinary_url_may_be_used(url: str) -> None:
    assert check_url(url, allow_private=False).host


@pytest.mark.parametrize("address", [PUBLIC, "2606:2800:220:1::1", "64:ff9b::93.184.216.34"])
def test_the_connection_goes_to_the_address_that_was_checked_and_tls_asks_for_the_name(
    trust: Certificates, address: str
) -> None:
    with Receiver(trust.server) as receiver:
        names, wire = Names([address], ["127.0.0.1"]), Wire(receiver.port)
        outbound = Outbound(False, names, wire, trust.client)

        assert post(outbound, f"https://hooks.example:{receiver.port}/in?a=b") == 200

    assert (names.asked, wire.connected) == (1, [address])
    [request] = receiver.requests
    assert request.path == "/in?a=b" and request.body == b"{}"
    assert request.headers["host"] == f"hooks.example:{receiver.port}" and request.headers["x-test"] == "1"


def test_a_name_that_is_public_first_and_private_later_never_leads_inside(trust: Certificates) -> None:
    with Receiver(trust.server) as receiver:
        names, wire = Names([PUBLIC], ["127.0.0.1"]), Wire(receiver.port)
        outbound = Outbound(False, names, wire, trust.client)

        assert post(outbound, "https://hooks.example/") == 200
        with pytest.raises(Undelivered, match=r"leads to 127\.0\.0\.1"):
            post(outbound, "https://hooks.example/")

    assert wire.connected == [PUBLIC] and len(receiver.requests) == 1


def test_the_next_address_is_tried_when_the_first_is_down(trust: Certificates) -> None:
    with Receiver(trust.server) as receiver:
        wire = Wire(receiver.port, refusing=["2606:2800:220:1::1"])
        outbound = Outbound(False, Names(["2606:2800:220:1::1", PUBLIC]), wire, trust.client)

        assert post(outbound, "https://hooks.example/") == 200

    assert wire.connected == ["2606:2800:220:1::1", PUBLIC]


def test_a_certificate_of_another_name_or_of_nobody_we_know_is_refused(trust: Certificates) -> None:
    with Receiver(trust.server) as receiver:
        for host, tls in (("other.example", trust.client), ("hooks.example", None)):
            outbound = Outbound(False, Names([PUBLIC]), Wire(receiver.port), tls)
            with pytest.raises(Undelivered, match="certificate is not valid"):
                post(outbound, f"https://{host}/")

    assert receiver.requests == []


def test_a_proxy_in_the_environment_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")

    with Receiver() as receiver:
        assert post(Outbound(True), receiver.url) == 200


def test_a_redirect_is_an_answer_and_not_followed() -> None:
    with Receiver() as receiver, Receiver() as inside:
        receiver.answers.put(Told(302, {"location": inside.url}))
        receiver.answers.put(Told(307, {"location": inside.url}))

        assert [post(Outbound(True), receiver.url) for _ in range(2)] == [302, 307]

    assert inside.requests == []


# How long they may take


def test_an_answer_that_drips_is_given_up_when_the_time_for_all_of_it_is_over() -> None:
    stopped = threading.Event()

    def drip(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\n")
        while not stopped.wait(0.05):
            connection.sendall(b"x-slow: 1\r\n")

    with raw_server(drip) as url:
        began = time.monotonic()
        with pytest.raises(Undelivered, match="no answer within"):
            post(Outbound(True, seconds=0.6), url)
        took = time.monotonic() - began
        stopped.set()

    assert 0.5 < took < 2


def test_silence_is_given_up_too() -> None:
    done = threading.Event()

    with raw_server(lambda connection: bool(done.wait(5)) and None) as url:
        with pytest.raises(Undelivered, match="no answer within"):
            post(Outbound(True, seconds=0.3), url)
        done.set()


def test_a_status_counts_although_the_body_never_ends() -> None:
    sent = 0

    def flood(connection: socket.socket) -> None:
        nonlocal sent
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        while True:
            connection.sendall(b"10000\r\n" + b"x" * 65536 + b"\r\n")
            sent += 65536

    with raw_server(flood) as url:
        began = time.monotonic()
        assert post(Outbound(True, seconds=5), url) == 200

    assert time.monotonic() - began < 4
    # What the sockets hold between the two ends, and no more.
    assert sent < 20 * 2**20


def test_a_status_counts_although_the_body_drips() -> None:
    stopped = threading.Event()

    def drip(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 201 OK\r\ncontent-length: 999\r\n\r\n")
        while not stopped.wait(0.05):
            connection.sendall(b"x")

    with raw_server(drip) as url:
        assert post(Outbound(True, seconds=0.5), url) == 201
        stopped.set()


def test_headers_without_end_are_cut_off() -> None:
    def flood(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\n")
        while True:
            connection.sendall(b"x-" + b"a" * 1000 + b": 1\r\n")

    with raw_server(flood) as url, pytest.raises(Undelivered, match="does not speak HTTP"):
        post(Outbound(True, seconds=5), url)


@pytest.mark.parametrize("said", [b"", b"SSH-2.0-OpenSSH_9\r\n", b"\x00\x01\x02"])
def test_what_does_not_speak_http_is_said_to(said: bytes) -> None:
    def speak(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(said)

    with raw_server(speak) as url, pytest.raises(Undelivered, match="does not speak HTTP"):
        post(Outbound(True, seconds=5), url)


def test_a_closed_port_is_said_to_be_one() -> None:
    with pytest.raises(Undelivered, match="the connection was refused"):
        post(Outbound(True), "http://127.0.0.1:1/")


def test_tls_to_a_server_without_it_is_said_to_fail() -> None:
    with Receiver() as receiver, pytest.raises(Undelivered, match="no TLS with the receiver"):
        post(Outbound(True, tls=ssl.create_default_context()), receiver.url.replace("http:", "https:"))


def test_a_name_that_does_not_exist_is_said_to() -> None:
    with pytest.raises(Undelivered, match=r"does not resolve|was not resolved in time"):
        SystemResolver().addresses("no-such-name.invalid", 443, 10)


def test_a_name_whose_servers_do_not_answer_costs_no_more_than_the_time_there_is() -> None:
    began = time.monotonic()

    with pytest.raises(Undelivered, match=r"not resolved in time|does not resolve"):
        SystemResolver().addresses("no-such-name.invalid", 443, 0.0)

    assert time.monotonic() - began < 1


# What the receiver asks for


@pytest.mark.parametrize(
    ("value", "least", "most"),
    [("120", 120, 120), ("0", 0, 0), ("9" * 40, 10**9, 10**9), ("Wed, 21 Oct 2015 07:28:00 GMT", 0, 0)],
)
def test_retry_after_is_read_as_seconds_or_as_a_date(value: str, least: float, most: float) -> None:
    with Receiver() as receiver:
        receiver.answers.put(Told(503, {"retry-after": value}))
        answer = Outbound(True).post(receiver.url, {}, b"{}")

    assert answer.retry_after is not None and least <= answer.retry_after <= most


@pytest.mark.parametrize("value", ["soon", "-5", "1.5e9x"])
def test_a_retry_after_that_makes_no_sense_is_none(value: str) -> None:
    with Receiver() as receiver:
        receiver.answers.put(Told(503, {"retry-after": value}))

        assert Outbound(True).post(receiver.url, {}, b"{}").retry_after is None
