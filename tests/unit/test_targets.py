"""Webhook URLs that are refused before anything is sent, because no host can have such a name."""

import pytest

from db.targets import BadTarget, check_url


@pytest.mark.parametrize(
    "host",
    [
        "exa mple.com",
        "127.0.0.1%00.example.com",
        "%31%32%37.0.0.1",
        "\u2460\u2461\u2466.0.0.1",
        "a..example.com",
        "-a.example.com",
        "a-.example.com",
        "a" * 64 + ".example.com",
        ".".join(["a" * 60] * 5),
        "1.2.3.4.5",
        "example.999",
        "a*b.example.com",
        "exam\u200bple.com",
    ],
)
@pytest.mark.parametrize("allow_private", [False, True])
def test_what_is_no_host_is_refused(host: str, allow_private: bool) -> None:
    with pytest.raises(BadTarget):
        check_url(f"https://{host}/hook", allow_private)


@pytest.mark.parametrize(
    "host",
    [
        "example.com",
        "example.com.",
        "a_b.example.com",
        "xn--bcher-kva.example",
        "b\u00fccher.example",
        "hooks",
        "3com.example",
        "93.184.216.34",
        "[2606:4700::1111]",
        "example.com:8443",
    ],
)
def test_what_is_a_host_is_taken(host: str) -> None:
    assert check_url(f"https://{host}/hook", allow_private=False).scheme == "https"
