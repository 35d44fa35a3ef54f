"""Why there is nothing to count."""


class ChaosFailed(Exception):
    """The stack did not come up, or a job did not end."""


class Skipped(Exception):
    """This machine cannot do it; the message says what is missing."""
