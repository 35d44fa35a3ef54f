"""gunicorn's own lines in the form of all the others, a request's with its id."""

from typing import Any

from gunicorn.glogging import Logger

from api.config import APISettings
from telemetry.logs import LogFormat, dress


class ServerLog(Logger):  # type: ignore[misc]
    """`logger_class` of the API."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        settings = APISettings.from_environment()
        self._format = LogFormat(settings.log_format)
        for logger in (self.error_log, self.access_log):
            dress(logger, self._format, settings.passwords)

    def access(self, resp: Any, req: Any, environ: Any, request_time: Any) -> None:
        if not self.access_log_enabled:
            return
        atoms = self.atoms_wrapper_class(self.atoms(resp, req, environ, request_time))
        fields = {"request_id": atoms["{x-request-id}o"]}
        if self._format is LogFormat.JSON:
            # In text the sentence has them.
            fields |= {
                "action": "request_answered",
                "address": atoms["h"],
                "method": atoms["m"],
                "path": atoms["U"],
                "status": resp.status_code,
                "bytes": getattr(resp, "sent", None),
                "milliseconds": int(request_time.total_seconds() * 1000),
            }
        self.access_log.info(self.cfg.access_log_format, atoms, extra=fields)
