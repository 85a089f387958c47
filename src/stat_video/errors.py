"""What a user can mend: one line that names the thing and says what is allowed."""


class InputError(Exception):
    """Bad input: a config value, a path, a video, a checkpoint. Entry scripts print it as one line, without a trace."""
