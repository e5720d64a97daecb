"""Execute a trial in this process alone, and classify its failure."""

import traceback
from bdb import BdbQuit

from methods import SettingsError
from orchestrator.cluster._failures import Failure, classify_failure
from orchestrator.config.trial import TrialSpec
from orchestrator.core.context import TrialContext
from orchestrator.core.errors import UserError
from orchestrator.training.execute import execute


def execute_trial(spec: TrialSpec, context: TrialContext) -> Failure | None:
    """Execute a specification; return the cause of its failure, or None.

    The traceback of an error that was not written for users is printed.

    Raises:
        BdbQuit: The user has left a debugger.
    """
    try:
        execute(spec, context)
    except BdbQuit:
        raise
    except Exception as error:
        if not isinstance(error, UserError | SettingsError):
            traceback.print_exc()
        return classify_failure(error, spec, context.device)
    return None
