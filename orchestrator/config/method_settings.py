"""Check the settings of a method."""

from methods import METHODS, SettingsError
from orchestrator.config.schema import Configuration
from orchestrator.core.errors import ConfigurationError, suggest_name
from orchestrator.core.program import program_name


def check_settings(configuration: Configuration, name: str, field: str) -> None:
    """Check that a method exists and accepts its configured settings.

    Args:
        configuration: The configuration, with the settings of its own method.
        name: The name of the method.
        field: The key that names the method, for the message.

    Raises:
        ConfigurationError: The method does not exist or refuses its settings.
    """
    if name not in METHODS:
        raise ConfigurationError(
            f"{field} = {name!r} is not a method: {suggest_name(name, METHODS)}; see "
            f"`{program_name()} methods`"
        ).with_details(field, name, tuple(METHODS))
    method = METHODS[name]
    settings = configuration.method.settings if name == configuration.method.name else {}
    try:
        method.Settings.build(settings)
    except SettingsError as error:
        if error.unknown and error.field:
            known = f"; {suggest_name(error.field, method.Settings.model_fields)}"
        else:
            known = ""
        message = f"method {name}: {error}{known}; see `{program_name()} methods`"
        raise ConfigurationError.from_error(error, message, "method") from error
