"""The exceptions that tell a user what to change."""


class UserError(ValueError):
    """A request that cannot be carried out; its message is one line that names the value and the remedy.

    Scripts print it to standard error and exit with status 2, before any work is done.
    """


class NotFinite(RuntimeError):
    """A loss, a gradient, a constraint or a weight became NaN or infinite; the message is one line.

    Scripts print it to standard error and exit with status 1; the last checkpoint is from before. `may_rewind`: the run
    was not told to rewind, so --on_nan rewind is a remedy.
    """

    may_rewind = False
