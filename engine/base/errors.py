"""The exceptions whose text a user may read.

Everything that goes wrong through a user's input or machine is raised as a `UserError`. The command line prints it and exits
with 2; the studio shows it. Any other exception is a defect: its traceback goes to the log.
"""

from engine.base.ids import ErrorCode


class UserError(Exception):
    """What is wrong (`sentence`) and what to do about it (`hint`, may be empty).

    `code`: set where a page has other advice than a terminal; the studio then replaces the hint.
    """

    def __init__(self, sentence: str, hint: str = "", code: ErrorCode = ErrorCode.OTHER) -> None:
        super().__init__(f"{sentence} {hint}".strip())
        self.sentence, self.hint, self.code = sentence, hint, code


class Interrupted(Exception):
    """The job was stopped on purpose; its work folder holds all that is needed to resume."""
