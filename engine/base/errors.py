"""The one exception that a user may read.

Everything that goes wrong through a user's input or machine is raised as a
`UserError` with one sentence that says what is wrong and what to do. The
command line prints it and exits with 2; the studio shows it. Any other
exception is a defect of ours: it goes to the log with its traceback.
"""


class UserError(Exception):
    """A sentence for the user; `hint` is an optional second one that says what to do."""

    def __init__(self, sentence: str, hint: str = "") -> None:
        super().__init__(f"{sentence} {hint}".strip())


class Interrupted(Exception):
    """The job was stopped on purpose; its work folder holds all that is needed to resume."""
