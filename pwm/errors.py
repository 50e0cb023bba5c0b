"""The ways a program ends early: a single line, with exit code 2 for a user's mistake and 1 for a run that broke."""

import errno
import functools
import math
import os
import sys
from collections.abc import Callable

from pwm.watchdog import HANGING, watched


class UserError(Exception):
    """Something the user can mend. Its message is one line that names the thing and the mend."""

    def __init__(self, message: str) -> None:
        super().__init__(message.replace("\n", " "))  # a name that it quotes may hold some


def exit_on_user_error(main: Callable[[], None]) -> Callable[[], None]:
    """Wrap a command's `main` so that a `UserError` prints one line to stderr and exits with code 2.

    So does what ends a run without being anybody's mistake in the code, with code 1: training that diverged
    (`pwm.runs.Run.watch`), a machine that has no memory or disk left, and what hangs (`pwm.watchdog`).
    """

    @functools.wraps(main)
    def wrapped() -> None:
        try:
            with watched(_patience()):
                main()
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
        except FloatingPointError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(1)
        except Exception as error:  # libraries have kinds of their own for it
            if not (short := _shortage(error)):
                raise
            reason = " ".join(str(error).split())[:200]
            print(f"error: no {short} left ({reason}); make room and start this again", file=sys.stderr)
            sys.exit(1)

    return wrapped


def _patience() -> float:
    """Seconds without work after which a command is taken to hang: `PWM_HANGING` of the environment, or `HANGING`."""
    given = os.environ.get("PWM_HANGING", str(HANGING))
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < math.inf:
        raise UserError(f"PWM_HANGING is {given!r} in the environment; give a number of seconds above 0, or unset it")
    return seconds


def _shortage(error: BaseException) -> str | None:
    """What the machine ran out of, if that is what raised the error, or one that came before it."""
    if isinstance(error, MemoryError) or "allocate memory" in str(error) or "out of memory" in str(error):
        return "memory"
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(error):
        return "disk space"
    before = error.__cause__ or error.__context__
    return _shortage(before) if before else None
