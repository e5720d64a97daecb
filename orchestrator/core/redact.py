"""Remove secrets from text that leaves the program: log lines, notes, error messages, plans.

Text is secret by its position: before the @ of an address, after `password=` or after
`Authorization:`. The value of an environment variable is secret by the variable's name. The rules
prefer to hide too much.
"""

import os
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, unquote

HIDDEN = "***"
# Characters of the shortest value that is searched for everywhere; shorter ones are words such as
# `true`.
SHORTEST = 6
_WORD = (
    r"(?:token|secret|passw(?:or)?d|pwd|passphrase|credentials?|api_?key|access_?key"
    r"|private_?key|signature|sas)"
)
_NAME = rf"(?:[A-Za-z0-9]+[_.-])*{_WORD}(?:[_.-][A-Za-z0-9]+)*"
_VALUE = r"""(?:"[^"]*"|'[^']*'|[^\s"'&;,)\]}]+)"""
_PAIR = re.compile(
    rf"(?:(?<![A-Za-z0-9])|(?<=%3B)|(?<=%26))({_NAME}\s*(?:=|%3D)\s*){_VALUE}", re.IGNORECASE
)
_ENTRY = re.compile(rf"""(["']{_NAME}["']\s*[:=]\s*){_VALUE}""", re.IGNORECASE)
_QUERY = re.compile(r"([?&](?:key|auth|pass|sig|code)=)[^\s&#\"']+", re.IGNORECASE)
_HEADER = re.compile(
    r"""(\bauthorization["']?\s*[:=]\s*["']?(?:basic|bearer)?\s*|\bbearer\s+(?=\S{16}))[^\s"',]+""",
    re.IGNORECASE,
)
_USER = re.compile(r"""([A-Za-z][A-Za-z0-9+.-]*://)(?!/)[^\s"'<>]*@""")
_SECRET_NAME = re.compile(
    r"(?<![A-Z])(TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIAL|API_?KEY|(?<!PUBLIC_)KEY)S?(?![A-Z])",
    re.IGNORECASE,
)
_NO_SECRET = re.compile(
    r"_(PATH|FILE|DIR|URI|URL|MODE|NAME|TIMEOUT|TYPE|ID|ENABLED|SOCK)$", re.IGNORECASE
)


def redact(text: str, environment: Mapping[str, str] | None = None) -> str:
    """Return the text with `***` in place of its secrets.

    Args:
        text: The text to redact.
        environment: The environment variables; None for those of this process.
    """
    for value in _values(os.environ if environment is None else environment):
        text = text.replace(value, HIDDEN)
    text = _USER.sub(rf"\1{HIDDEN}@", text)
    for pattern in (_HEADER, _ENTRY, _PAIR, _QUERY):
        text = pattern.sub(rf"\1{HIDDEN}", text)
    return text


def without_secrets(value: Any) -> Any:
    """Return the value itself if it contains no secret, else a redacted text of it."""
    if isinstance(value, list | tuple | dict) and redact(repr(value)) != repr(value):
        return redact(repr(value))
    return redact(value) if isinstance(value, str) else value


def _values(environment: Mapping[str, str]) -> list[str]:
    """Return the values that are secret by the names of their variables, longest first.

    Each value is included in plain and in URL-quoted form.
    """
    secrets = {
        value
        for name, value in environment.items()
        if _SECRET_NAME.search(name) and not _NO_SECRET.search(name)
    }
    secrets = {value.strip() for value in secrets if len(value.strip()) >= SHORTEST}
    return sorted(secrets | {quote(value, safe="") for value in secrets}, key=len, reverse=True)


def find_secret(address: str) -> str:
    """Return a description of the secret in an address, or "" if it contains none.

    A description is, for example, "a password before the @". A database's user name alone is not a
    secret. The text before the last @ counts, because a password may contain any character.
    """
    scheme, _, rest = address.partition("://")
    before, at, _ = rest.rpartition("@")
    web = scheme.lower() in ("http", "https")
    if at and rest[:1] != "/" and (web or ":" in before):
        return "a user name or a password before the @" if web else "a password before the @"
    behind = "".join(re.findall(r"[?#].*", unquote(address)))
    return "a secret behind the ?" if redact(behind, {}) != behind else ""
