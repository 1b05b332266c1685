"""The two things that can be wrong with a request: it is malformed, or it cannot run here."""


class BadInput(ValueError):
    """What the caller asked for makes no sense; the message says what was expected and what came.

    The command line prints it as one line and exits with code 2.
    """


class Unsupported(NotImplementedError):
    """A sensible request that this implementation cannot run; the message says what would work.

    The harness records it as `unsupported` with this sentence as the reason. Nothing ever falls
    back to another implementation silently.
    """
