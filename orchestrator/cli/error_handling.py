"""Run a command: print an error as its sentence, and exit with its code."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def run_command(debug: bool, ends_unread: bool = False) -> Iterator[None]:
    """Run a command in the block: print an error as its sentence, and exit with its code.

    Args:
        debug: Print tracebacks.
        ends_unread: End quietly when the reader closes the output, as in `status | head -1`.
    """
    import traceback
    from bdb import BdbQuit

    from orchestrator.core.errors import INTERRUPTED, UNEXPECTED, UserError
    from orchestrator.core.output import survive_lost_output
    from orchestrator.core.privacy import private_files, sanitize
    from orchestrator.core.proxies import direct_loopback
    from orchestrator.core.signals import stoppable

    with private_files(), survive_lost_output(ends=ends_unread), direct_loopback():
        try:
            with stoppable():
                yield
        except UserError as error:
            print(sanitize(traceback.format_exc() if debug else f"error: {error}"), file=sys.stderr)
            sys.exit(error.exit_code)
        except (KeyboardInterrupt, BdbQuit):  # the second: the user has left a debugger
            print("interrupted", file=sys.stderr)
            sys.exit(INTERRUPTED)
        except Exception:
            print(sanitize(traceback.format_exc()), file=sys.stderr)
            sys.exit(UNEXPECTED)
