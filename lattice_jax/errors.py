"""The one error that a user can mend.

Contract: raised wherever input from outside (a setting, a file, a text, an embedding, a checkpoint) can't be used. The message
says what was found, what was expected and which setting or command mends it. The command line prints it without a traceback
and exits with code 2; every other exception is a defect of this package and keeps its traceback.
"""


class InputError(ValueError):
    """Input from outside that can't be used; the message tells found, expected and the fix."""

    def __init__(self, found: str, *, expected: str, fix: str):
        super().__init__(f"{found}\n  expected: {expected}\n  fix: {fix}")
        self.found, self.expected, self.fix = found, expected, fix


class SettingsError(InputError):
    """Settings that can't be used with each other or on this machine, whatever the files are: other settings may do."""
