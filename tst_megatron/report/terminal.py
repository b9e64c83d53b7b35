"""Where commands print what they found: a terminal, or a log of a width that a table can hold."""

from rich.console import Console

_LOG_WIDTH = 160  # Of a file or a pipe, which have none of their own.


def console(log_width: int = _LOG_WIDTH) -> Console:
    """As wide as the terminal, or as a log is; numbers are not coloured."""
    found = Console(highlight=False)
    return found if found.is_terminal else Console(width=log_width, highlight=False)
