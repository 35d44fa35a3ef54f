"""What a command can fail with; `cli.main` turns these into one line and an exit code.

CLIError
├── Unreachable    no server answers at the URL
├── ServerBusy     it answers that it cannot do this now
├── Refused        it answers that the request is wrong; carries code and param
├── WrongUsage     we can tell without asking it
└── NotSaved       a job ran, and its results could not be written here
"""

from cli.exits import Exit


class CLIError(Exception):
    """Root; the message is for the person at the terminal."""

    exit_code = Exit.FAILED


class Unreachable(CLIError):
    exit_code = Exit.UNREACHABLE

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f"no Bushel at {url}: is `bushel up` running? ({reason})")
        self.url, self.reason = url, reason


class ServerBusy(CLIError):
    exit_code = Exit.UNREACHABLE

    def __init__(self, status: int, message: str, request_id: str | None) -> None:
        super().__init__(f"the server cannot do this now ({status}): {message}" + _asked(request_id))
        self.status, self.request_id = status, request_id


class Refused(CLIError):
    exit_code = Exit.USAGE

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        param: str | None = None,
        request_id: str | None = None,
    ) -> None:
        details = ", ".join(filter(None, (code or str(status), f"at {param}" if param else None)))
        super().__init__(f"{message} ({details})" + _asked(request_id))
        self.message = message
        self.status, self.code, self.param, self.request_id = status, code, param, request_id


class WrongUsage(CLIError):
    exit_code = Exit.USAGE


class NotSaved(CLIError):
    def __init__(self, job_id: str, place: str, reason: Exception) -> None:
        again = f"`bushel results {job_id} -o {place}` gets them"
        super().__init__(f"the results of {job_id} were not written: {reason}; {again}")
        self.exit_code = reason.exit_code if isinstance(reason, CLIError) else Exit.USAGE
        self.job_id = job_id


def _asked(request_id: str | None) -> str:
    return f" [request {request_id}]" if request_id else ""
