"""Keep credentials out of everything that is recorded or printed."""

import os
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

HIDDEN = "***"

_WORDS = (
    r"(?:password|passwd|passphrase|pwd|pass|secret|token|credentials?|authorization|bearer|dsn|cookie|"
    r"(?:api|access|account|private|secret|auth|ssh|encryption|subscription)[_-]?key(?:[_-]?id)?)"
)
# The word must end a key (`api_key`, `dbPassword`, `AWS_SECRET_ACCESS_KEY`), or stand before a number or `id`, `value`, `string`;
# `max_tokens` and `tokenizer` are hyperparameters.
_SECRET_KEY = re.compile(
    rf"(?:^|[^a-z]|(?<=[a-z])(?-i:(?=[A-Z]))|^pg|^mysql_){_WORDS}"
    r"(?:[_-]?(?:id|value|string|\d+)|[_-]for[_-]\w+|(?-i:For[A-Z]\w*))?$",
    re.IGNORECASE,
)
# A password may hold an unescaped slash; `host:8080/path@x` has none. All patterns below begin with what is rare and take a
# bounded number of characters, so that the time is linear in the length of a text.
_USER_INFO = re.compile(r"(?<=[a-z0-9]://)(?:[^\s/?#]{0,2000}|[^\s/?#:@]{0,200}:(?!\d+/)[^\s@'\"]{0,2000})@", re.IGNORECASE)
_KEY = rf"(?:(?<![a-z0-9])|(?-i:(?<=[a-z0-9])(?=[A-Z]))){_WORDS}"
_ASSIGNED = re.compile(
    rf"(?P<key>{_KEY}['\"]?\s*[=:]\s*(?:\(\s*[+-]?\s*)?)"
    r"(?P<value>'[^']*'|\"[^\"]*\"|[\w.]+\([^\n]*|[^\s'\"&;,}\]]+)",  # a call may hold a default
    re.IGNORECASE,
)
_FLAG = re.compile(rf"((?<![\w-])--?(?:[a-z0-9_.-]{{0,60}}[_.-])?{_WORDS})\s+(?!-)[^\s'\"]+", re.IGNORECASE)
# `curl -u me:password`; `-u 1000:1000` is no secret.
_USER = re.compile(r"((?:^|\s)(?:-u|--user|--proxy-user)[\s=]+['\"]?[^\s:'\"]{1,100}:)(?!\d+\b)[^\s'\"]+", re.MULTILINE)
# Formats in which tokens are issued: GitHub, GitLab, Hugging Face, OpenAI, Slack, AWS; Google, JWT, PyPI, npm, Stripe, SendGrid,
# Telegram, Databricks, Azure's signatures.
_ISSUED = re.compile(
    r"\b(?:gh[opsu]_|github_pat_|glpat-|hf_|sk-|xox[abprs]-|AKIA)[A-Za-z0-9_-]{0,255}[A-Za-z0-9]{14,}"
    r"|\bAIza[\w-]{30,}|\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*|\b(?:pypi-|npm_|(?:sk|rk|pk)_(?:live|test)_)[\w-]{10,}"
    r"|\bSG\.[\w-]{16,}\.[\w-]{16,}|\b\d{8,10}:AA[\w-]{30,}|\bdapi[0-9a-f]{32}|(?<=[?&]sig=)[^\s&'\"]+"
    r"|(?<=hooks\.slack\.com/services/)\S+?(?=['\"\s]|$)|(?<=discord\.com/api/webhooks/)[\w/-]+"
)
_HEADER = re.compile(
    r"(authorization['\"]?\s*[=:]\s*['\"]?(?:\w+\s+)?|\b(?:bearer|basic)\s+|machine\s+\S+\s+login\s+\S+\s+password\s+"
    r"|['\"]auth['\"]\s*:\s*['\"])"
    r"[a-z0-9._~+/=-]{8,}",
    re.IGNORECASE,
)
_PRIVATE_KEY = re.compile(r"(-----BEGIN [A-Z ]*PRIVATE KEY-----).*?(?:(-----END [A-Z ]*PRIVATE KEY-----)|\Z)", re.DOTALL)
_LONG_NUMBER = 8  # digits; shorter numbers under such keys are settings (`pad_token_id: 50256`)
_SHORTEST = 6  # shorter values of secret variables ("1", "true") would hide half of every text


def is_secret(key: str) -> bool:
    """Tell whether a key looks like the name of a secret.

    Args:
        key: a config key or the name of an environment variable; of a dotted key only the last part counts.

    Returns:
        True for ``api_key``, ``dbPassword``, ``MLFLOW_TRACKING_TOKEN``; False for ``max_tokens``.
    """
    return bool(_SECRET_KEY.search(key.rsplit(".", 1)[-1]))


def known_secrets() -> list[str]:
    """List the values that must never be seen: of environment variables named like secrets, and passwords in addresses.

    Returns:
        The values, longest first, so that one that contains another is hidden whole.
    """
    # Not items(): MLflow's threads change the environment meanwhile.
    return _secrets_in(tuple((name, os.environ.get(name, "")) for name in list(os.environ)))


@lru_cache(maxsize=4)  # it is asked for each value of a config
def _secrets_in(environment: tuple[tuple[str, str], ...]) -> list[str]:
    values = {value for key, value in environment if is_secret(key) and key not in ("PWD", "OLDPWD")}
    for _, value in environment:
        values.update(part for info in re.findall(r"://([^\s/?#]*)@", value) for part in info.split(":")[1:])
    return sorted((value for value in values if len(value) >= _SHORTEST), key=len, reverse=True)


def redact(text: str) -> str:
    """Hide credentials in a text.

    Args:
        text: a log line, a traceback, an address, a command.

    Returns:
        The same with user-info of addresses, assigned secrets and the values of secret variables replaced by ``***``.
    """
    for secret in known_secrets():
        text = text.replace(secret, HIDDEN)
    text = _USER_INFO.sub(f"{HIDDEN}@", text)
    text = _PRIVATE_KEY.sub(rf"\1{HIDDEN}\2", text)
    text = _HEADER.sub(rf"\1{HIDDEN}", text)
    text = _ISSUED.sub(HIDDEN, text)
    text = _USER.sub(rf"\1{HIDDEN}", text)
    text = _FLAG.sub(rf"\1 {HIDDEN}", text)
    return _ASSIGNED.sub(_hide_value, text)


def _hide_value(found: re.Match[str]) -> str:
    quote = found["value"][0] if found["value"][0] in "'\"" else ""
    return f"{found['key']}{quote}{HIDDEN}{quote}"


def redact_tree(tree: Any, secret: bool = False) -> Any:
    """Hide credentials in a config.

    Args:
        tree: nested mappings, lists and plain values.
        secret: whether it stands under a secret key.

    Returns:
        A copy in which texts and long numbers under secret keys are ``***`` and all other texts are redacted; None and switches
        stay.
    """
    if isinstance(tree, Mapping):
        names = {name: redact(name) if isinstance(name, str) else name for name in tree}
        return {names[name]: redact_tree(value, secret or is_secret(str(name))) for name, value in tree.items()}
    if isinstance(tree, str):
        return HIDDEN if secret and tree else redact(tree)
    if isinstance(tree, Sequence):
        flags = [isinstance(value, str) and value.startswith("-") and is_secret(value.lstrip("-")) for value in tree]
        return [redact_tree(value, secret or after) for value, after in zip(tree, [False, *flags], strict=False)]
    return HIDDEN if secret and len(str(tree)) >= _LONG_NUMBER else tree


def redact_arguments(arguments: Sequence[str]) -> list[str]:
    """Hide credentials in a command line.

    Args:
        arguments: as in ``sys.argv``.

    Returns:
        The same; ``--api_key VALUE`` and ``--api_key=VALUE`` lose the value.
    """
    hidden, follows = [], False
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        secret = name.startswith("-") and is_secret(name.lstrip("-"))
        hidden.append(HIDDEN if follows else name + equals + HIDDEN if secret and equals else redact(argument))
        follows = secret and not equals
    return hidden
