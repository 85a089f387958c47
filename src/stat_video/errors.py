"""What a user can mend: one line that names the thing and says what is allowed."""

import signal


class InputError(Exception):
    """Bad input: a config value, a path, a video, a checkpoint. Entry scripts print it as one line, without a trace."""

    @property
    def line(self) -> str:
        """The one line. Out of a data worker the message comes wrapped in the worker's trace: it is the last line."""
        return str(self).strip().splitlines()[-1].removeprefix(f"{__name__}.InputError: ")


class Stopped(SystemExit):
    """A signal asked this process to stop, and it did in good order; exits with the shell's 128 + its number."""

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)
        self.name = signal.Signals(signum).name
