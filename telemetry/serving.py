"""The metrics of a process over HTTP, for one whose business is not HTTP."""

import logging
import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import disable_created_metrics, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4 as CONTENT_TYPE
from prometheus_client.registry import Collector, CollectorRegistry

logger = logging.getLogger(__name__)

_PATH = "/metrics"
# A scrape is over in milliseconds; who takes longer to ask or to read is none.
_SECONDS = 10.0
_AT_ONCE = 4


class MetricsServer:
    """Answers GET /metrics on `host`:`port` with what the registries have, until closed."""

    def __init__(self, host: str, port: int, registries: Sequence[CollectorRegistry]) -> None:
        """OSError when the address cannot be had."""
        # A second series for each counter, which says when it was made: nobody asks.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._server = _Server((host, port), registries)
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], registries: Sequence[CollectorRegistry]) -> None:
        self.registries = registries
        self.places = threading.Semaphore(_AT_ONCE)
        super().__init__(address, _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """A scraper that left: instead of a traceback on standard error."""
        logger.debug("a scrape was broken off", exc_info=True, extra={"action": "scrape_failed"})


class _Handler(BaseHTTPRequestHandler):
    timeout = _SECONDS
    server: _Server
    # Python's version is nobody's business.
    server_version, sys_version = "Bushel", ""

    def do_GET(self) -> None:
        if self.path.partition("?")[0] != _PATH:
            self._answer(404, b"there is only /metrics\n", "text/plain; charset=utf-8")
            return
        if not self.server.places.acquire(blocking=False):
            self._answer(503, b"too many ask at once\n", "text/plain; charset=utf-8")
            return
        try:
            content = b"".join(map(generate_latest, self.server.registries))
        finally:
            self.server.places.release()
        self._answer(200, content, CONTENT_TYPE)

    def _answer(self, status: int, content: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """A line every few seconds for ever says nothing."""


def registry_of(*collectors: Collector) -> CollectorRegistry:
    """One that has just these."""
    made = CollectorRegistry()
    for collector in collectors:
        made.register(collector)
    return made
