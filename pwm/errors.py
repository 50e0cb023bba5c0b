"""The one way a user's mistake leaves the program: a single line and exit code 2."""

import functools
import sys
from collections.abc import Callable


class UserError(Exception):
    """Something the user can mend. Its message is one line that names the thing and the mend."""

    def __init__(self, message: str) -> None:
        super().__init__(message.replace("\n", " "))  # a name that it quotes may hold some


def exit_on_user_error(main: Callable[[], None]) -> Callable[[], None]:
    """Wrap a command's `main` so that a `UserError` prints one line to stderr and exits with code 2.

    So does training that diverged (`pwm.runs.Run.watch`), with code 1.
    """

    @functools.wraps(main)
    def wrapped() -> None:
        try:
            main()
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
        except FloatingPointError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(1)

    return wrapped
