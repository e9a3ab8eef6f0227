"""The exceptions that tell a user what to change."""


class UserError(ValueError):
    """A request that cannot be carried out; its message is one line that names the value and the remedy.

    Scripts print it to standard error and exit with status 2, before any work is done.
    """


class NotFinite(RuntimeError):
    """A loss, a gradient, a constraint or a weight that is no number any more; its message is one line.

    Scripts print it to standard error and exit with status 1; the last checkpoint is from before. `may_rewind` says
    that the run has not tried to go back by itself.
    """

    may_rewind = False
