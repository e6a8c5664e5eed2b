"""Errors with an exit code; their text is one paragraph for the person at the terminal."""


class FedsimError(Exception):
    """Something went wrong that the user can understand without a traceback."""

    exit_code = 1


class BadInput(FedsimError):
    """The scenario, its data or the command line cannot be used; nothing was written."""

    exit_code = 2


class BudgetExhausted(FedsimError):
    """The next round would spend more privacy than the budget allows; nothing of it was released."""

    exit_code = 3


class StorageFailed(FedsimError):
    """What clients keep from round to round cannot be read or written; not the fault of the client that asked."""
