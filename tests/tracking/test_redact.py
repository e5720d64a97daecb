"""Test the redaction of secrets in text."""

import pytest

from orchestrator.core.redact import find_secret, redact

PASSWORD = "open-sesame-42"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("MLflow at https://ann:pw@host:5000/a: down", "MLflow at https://***@host:5000/a: down"),
        ("https://ann:p@ss/w?rd@host/x failed", "https://***@host/x failed"),
        (
            "postgresql+psycopg://ann:pw@db/runs, and more",
            "postgresql+psycopg://***@db/runs, and more",
        ),
        ("http://host/?token=abc&step=3", "http://host/?token=***&step=3"),
        ("http://host/?key=abc", "http://host/?key=***"),
        ("called with password=abc, name=x", "called with password=***, name=x"),
        ("AWS_SECRET_ACCESS_KEY = abc x", "AWS_SECRET_ACCESS_KEY = *** x"),
        ("{'api_key': 'abc', 'step': 3}", "{'api_key': ***, 'step': 3}"),
        ('"auth_token": "abc def"', '"auth_token": ***'),
        ("Authorization: Basic YW5uOnB3 was sent", "Authorization: Basic *** was sent"),
        ("Bearer abcdefghijklmnop0123 was sent", "Bearer *** was sent"),
    ],
)
def test_what_stands_where_a_secret_stands_is_hidden(text: str, expected: str) -> None:
    assert redact(text, {}) == expected


@pytest.mark.parametrize(
    "text",
    [
        "--set key=value: write for example --set method.temperature=4",
        "sqlite:////home/ann@work/runs/mlflow.db",
        "http://127.0.0.1:5000/api/2.0/mlflow/runs/create",
        "max_tokens and tokenizer=bpe",
        "the token is wrong: give another one",
        "mail ann@example.org about 3 trials",
    ],
)
def test_other_text_stays_as_it_is(text: str) -> None:
    assert redact(text, {}) == text


def test_values_of_secret_variables_are_hidden_wherever_they_stand() -> None:
    environment = {"MLFLOW_TRACKING_PASSWORD": f"{PASSWORD}/x", "HF_TOKEN": "hf_abcdef"}
    assert redact(f"({PASSWORD}/x) {PASSWORD}%2Fx hf_abcdef", environment) == "(***) *** ***"
    kept = {
        "RAY_AUTH_TOKEN_PATH": "/home/ann/token",
        "RAY_AUTH_MODE": "token",
        "TOKENIZERS_PARALLELISM": "warning",
        "KEYBOARD": "qwertz",
        "SOME_KEY": "true",
        "MLFLOW_TRACKING_USERNAME": "ann-lee",
    }
    text = "/home/ann/token token warning qwertz true ann-lee"
    assert redact(text, kept) == text


@pytest.mark.parametrize(
    "address",
    [
        f"https://ann:{PASSWORD}@host",
        "http://ann@host:5000",
        f"https://ann:{PASSWORD}/?@x@host/path",
        f"postgresql://ann:{PASSWORD}@db/runs",
        f"mysql://db/runs?password={PASSWORD}",
        f"https://host/?api_key={PASSWORD}",
        f"mssql+pyodbc:///?odbc_connect=Server%3Ddb%3BPWD%3D{PASSWORD}",
        f"https://host/#token={PASSWORD}",
    ],
)
def test_a_secret_in_an_address_is_found(address: str) -> None:
    assert find_secret(address) and PASSWORD not in redact(address, {})


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1:5000",
        "https://mlflow.example.org/team",
        "sqlite:///runs/mlflow.db",
        "sqlite:////home/ann@x:y/m.db",
        "postgresql://ann@db:5432/runs",
        "databricks",
        "databricks://profile",
        "postgresql://db/runs?sslmode=require",
    ],
)
def test_an_address_without_one_is_left_alone(address: str) -> None:
    assert not find_secret(address) and redact(address, {}).endswith(address.rpartition("@")[2])
