"""The one exception that tells a user what to change."""


class UserError(ValueError):
    """A request that cannot be carried out; its message is one line that names the value and the remedy.

    Scripts print it to standard error and exit with status 2, before any work is done.
    """
