"""Fill a module of the user from a checkpoint, by the names of its tensors."""

from torch import nn

from orchestrator.core.errors import ConfigurationError
from orchestrator.core.paths import read_file
from orchestrator.models._matching import match_by_name
from orchestrator.models._misfits import misfit_table
from orchestrator.models.checkpoint_files import FILE_ADVICE, read_checkpoint


def fill_module(module: nn.Module, weights: str) -> None:
    """Fill a module in place from a PyTorch checkpoint or a .safetensors file.

    Nested state dicts and usual prefixes are found as `import-weights` finds them.

    Args:
        module: The module.
        weights: The file.

    Raises:
        ConfigurationError: The file cannot be read, or tensors do not fit; the message holds a
            table of all of them.
    """
    file = read_file(weights, "weights", FILE_ADVICE)
    try:
        checkpoint = read_checkpoint(file)
    except ConfigurationError as error:
        raise ConfigurationError(str(error)).with_details(
            "weights", weights, "a state dict"
        ) from error
    match = match_by_name(module.state_dict(), checkpoint.tensors)
    if match.misfits:
        kind, misfits = type(module).__name__, list(match.misfits)
        count = f"{len(misfits)} tensor{'s do' if len(misfits) > 1 else ' does'} not fit"
        raise ConfigurationError(
            f"{weights}: {count}; give weights of {kind}\n{misfit_table(misfits)}"
        ).with_details("weights", weights, f"weights of {kind}")
    module.load_state_dict(match.state)
