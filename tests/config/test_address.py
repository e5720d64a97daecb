"""Addresses of MLflow in a configuration: a secret is refused by a sentence that does not repeat it."""

from pathlib import Path

import pytest

from orchestrator.errors import ConfigurationError
from orchestrator.reading import load

SECRET = "sesame-42"


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        (f"https://ann:{SECRET}@host/mlflow", "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"),
        (f"https://{SECRET}@host", "a user name or a password before the @"),
        (f"https://host/mlflow?token={SECRET}", "a secret behind the ?"),
        (f"postgresql+psycopg://ann:{SECRET}@db/runs", "PGPASSWORD"),
        (f"ann:{SECRET}@host", "nowhere that MLflow writes"),
    ],
)
def test_a_secret_in_the_address_is_refused_and_not_repeated(uri: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(f"tracking: {{uri: '{uri}'}}")
    for config, pairs in ((None, [f"tracking.uri={uri}"]), (file, [])):
        with pytest.raises(ConfigurationError, match=r"^tracking\.uri: ") as told:
            load(config, pairs)
        assert said in str(told.value) and SECRET not in str(told.value)


@pytest.mark.parametrize("value", ["[{0}]", "{{server: {0}}}"])
def test_a_value_of_another_kind_is_not_repeated_either(value: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^tracking\.uri = .*\*\*\*@host") as told:
        load(None, ["tracking.uri=" + value.format(f"'https://ann:{SECRET}@host'")])
    assert SECRET not in str(told.value)


@pytest.mark.parametrize("uri", ["file:///runs", "runs/mlflow", "http:"])
def test_an_address_that_mlflow_does_not_take_is_refused(uri: str) -> None:
    with pytest.raises(ConfigurationError, match="give the address of a server"):
        load(None, [f"tracking.uri='{uri}'"])


@pytest.mark.parametrize(
    "uri", ["http://127.0.0.1:5000", "https://mlflow.example.org/team", "postgresql://ann@db/runs", "databricks", "sqlite:///m.db"]
)
def test_other_addresses_are_taken(uri: str) -> None:
    assert load(None, [f"tracking.uri={uri}"]).tracking.uri == uri
