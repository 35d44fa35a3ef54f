"""A window of the browser, what it asked for and what it complained about."""

import shutil
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

AXE = (Path(__file__).parent / "axe" / "axe.min.js").read_text("utf-8")
_PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def chromium() -> Path | None:
    """Where the browser is, if there is one."""
    found = next(filter(None, map(shutil.which, _PROGRAMS)), None)
    return Path(found) if found else None


class Visit:
    """A page with its log: console messages, scripts' errors, and the address of every request."""

    def __init__(self, page: Any, home: str) -> None:
        self.page = page
        self._host = urlsplit(home).netloc
        self.complaints: list[str] = []
        self.requests: list[str] = []
        # What the test itself provokes, such as the browser's word of a 404.
        self.forgiven: list[str] = []
        page.on("console", self._heard)
        page.on("pageerror", lambda error: self.complaints.append(f"uncaught: {error}"))
        page.context.on("request", lambda request: self.requests.append(request.url))

    def _heard(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(f"{message.type}: {message.text} ({message.location.get('url')})")

    @property
    def strangers(self) -> list[str]:
        """Requests that left for another host than the service's."""
        return [
            url
            for url in self.requests
            if urlsplit(url).netloc != self._host and urlsplit(url).scheme not in ("data", "blob", "about")
        ]

    def ensure_clean(self) -> None:
        complaints = [each for each in self.complaints if not any(word in each for word in self.forgiven)]
        assert complaints == [], complaints
        assert self.strangers == [], self.strangers
        assert self.requests, "nothing was asked for at all"

    def violations(self) -> list[str]:
        """What axe-core finds on the page as it is, if it is serious: rule, help and the elements."""
        self.page.evaluate(AXE)
        found = self.page.evaluate("() => axe.run(document, {resultTypes: ['violations']})")
        return [
            f"{each['impact']} {each['id']}: {each['help']}: {[node['html'][:200] for node in each['nodes'][:5]]}"
            for each in found["violations"]
            if each["impact"] in ("serious", "critical")
        ]


def signed_in(page: Any, key: str, next: str = "/") -> None:
    """By the form, as anybody does it."""
    page.goto(f"/sign-in?next={next}")
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(f"**{next}")
