"""Test addresses of MLflow in a configuration: a secret is refused without repeating it."""

from pathlib import Path

import pytest

from orchestrator.config.loader import load
from orchestrator.config.uris import database_file, database_uri
from tests.refusal import refused

SECRET = "sesame-42"


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        (f"https://ann:{SECRET}@host/mlflow", "MLFLOW_TRACKING_TOKEN"),
        (f"https://{SECRET}@host", "before the @"),
        (f"https://host/mlflow?token={SECRET}", "behind the ?"),
        (f"postgresql+psycopg://ann:{SECRET}@db/runs", "PGPASSWORD"),
        (f"ann:{SECRET}@host", "MLflow"),
    ],
)
def test_a_secret_in_the_address_is_refused_and_not_repeated(
    uri: str, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(f"tracking: {{uri: '{uri}'}}")
    for config, pairs in ((None, [f"tracking.uri={uri}"]), (file, [])):
        with refused("tracking.uri") as refusal:
            load(config, pairs)
        assert message in str(refusal.value)
        assert SECRET not in str(refusal.value) and SECRET not in str(refusal.value.value)


@pytest.mark.parametrize("value", ["[{0}]", "{{server: {0}}}"])
def test_a_secret_in_a_value_of_another_type_is_not_repeated(value: str) -> None:
    with refused("tracking.uri", allowed=str) as refusal:
        load(None, ["tracking.uri=" + value.format(f"'https://ann:{SECRET}@host'")])
    for text in (str(refusal.value), str(refusal.value.value)):
        assert SECRET not in text and "***@host" in text


@pytest.mark.parametrize("uri", ["file:///runs", "runs/mlflow", "http:"])
def test_an_address_that_mlflow_does_not_take_is_refused(uri: str) -> None:
    with refused("tracking.uri", uri, "the address of a server or a database"):
        load(None, [f"tracking.uri='{uri}'"])


@pytest.mark.parametrize(
    "uri",
    [
        "http://127.0.0.1:5000",
        "https://mlflow.example.org/team",
        "postgresql://ann@db/runs",
        "databricks",
        "sqlite:///m.db",
    ],
)
def test_other_addresses_are_taken(uri: str) -> None:
    assert load(None, [f"tracking.uri={uri}"]).tracking.uri == uri


ODD = [
    "my%20project",
    "a?b",
    "a#b",
    "100%41",
    "per%%x",
    "sp ace",
    "ünï-日",
    "quo'te",
    'dq"x',
    "amp&x",
    "a=b",
    "co:lon",
    "at@x",
    "back\\slash",
    "a+b",
]


@pytest.mark.parametrize("name", ["plain", *ODD])
def test_a_database_is_found_by_its_address_whatever_its_path(name: str) -> None:
    from sqlalchemy import make_url

    file = Path("/stores", name, "mlflow.db")
    uri = database_uri(file)
    assert make_url(uri).database == str(file) and not make_url(uri).query, "as SQLAlchemy reads it"
    assert database_file(uri) == file
    literal = Path(uri.removeprefix("sqlite:///"))
    assert literal == file or not uri.startswith("sqlite:///"), (
        "MLflow makes the folders of what stands there"
    )


@pytest.mark.parametrize(
    "uri",
    [
        "http://127.0.0.1:5000",
        "postgresql://ann@db/runs",
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:///m.db?x=1",
    ],
)
def test_other_uris_have_no_database_file(uri: str) -> None:
    assert database_file(uri) is None
