"""How gunicorn serves the API: `gunicorn -c python:api.gunicorn_conf 'api.app:create_app()'`."""

from api.config import APISettings

_settings = APISettings.from_environment()

worker_class = "gthread"
workers = _settings.api_processes
threads = _settings.api_threads
# Of a worker's own heartbeat, not of requests: uploads and downloads may take as long as they take.
timeout = 60
graceful_timeout = 15
keepalive = 5
# A request line and headers of ours are short; what is longer is an attack or a mistake.
limit_request_line = 8190
limit_request_fields = 64
limit_request_field_size = 8190
loglevel = _settings.log_level.lower()
accesslog = "-"
# No query and no headers: neither keys nor what a user asked for belong in a log.
access_log_format = '%(h)s "%(m)s %(U)s" %(s)s %(B)s bytes %(M)s ms %({x-request-id}o)s'
