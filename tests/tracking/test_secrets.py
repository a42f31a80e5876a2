"""Planted secrets, and harmless words that look like them."""

import time

import pytest

from gradgrad.tracking.secrets import HIDDEN, is_secret, known_secrets, redact, redact_arguments, redact_tree

SECRETS = [
    "password", "db_password", "dbPassword", "PASSWD", "passphrase", "pwd", "secret", "client_secret", "clientSecret",
    "token", "hf_token", "MLFLOW_TRACKING_TOKEN", "accessToken", "api_key", "apikey", "API-KEY", "OPENAI_API_KEY",
    "aws_secret_access_key", "AWS_ACCESS_KEY_ID", "private_key", "ssh_key", "credential", "credentials", "authorization",
    "PGPASSWORD", "MYSQL_PWD", "pass", "smtp_pass", "sentry_dsn",
    "logger.init_args.api_key", "secret_key", "auth_key", "account_key", "password2",
    "token_value", "secret_id",
]  # fmt: skip
HARMLESS = [
    "max_tokens", "tokenizer", "num_tokens", "token_dropout", "monkey", "key", "keys", "monitor", "author", "passes",
    "weight", "secretary", "turnkey", "learning_rate", "passwordless",
]  # fmt: skip


@pytest.mark.parametrize("key", SECRETS)
def test_a_secret_key(key):
    assert is_secret(key)


@pytest.mark.parametrize("key", HARMLESS)
def test_a_harmless_key(key):
    assert not is_secret(key)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("postgresql://me:s3cr3t@host:5432/db", "postgresql://***@host:5432/db"),
        ("https://token@host/a?b=c", "https://***@host/a?b=c"),
        ("postgresql+psycopg2://me:p@ss@host/db and more", "postgresql+psycopg2://***@host/db and more"),
        ("sqlite:////home/me/mlruns/mlflow.db", "sqlite:////home/me/mlruns/mlflow.db"),
        ("https://host/users/@me", "https://host/users/@me"),
        ("api_key=abc123 weight=3", "api_key=*** weight=3"),
        ("https://h/x?token=abc&y=1", "https://h/x?token=***&y=1"),
        ("{'password': 'abc', 'y': 1}", "{'password': '***', 'y': 1}"),
        ('"hf_token": "hf_abc"', '"hf_token": "***"'),
        ("Authorization: Bearer abcdefgh12345", "Authorization: *** ***"),
        ('{"db_password": "correct, horse battery"}', '{"db_password": "***"}'),
        ("a token ghp_abcdEFGH12345678abcd in a note", "a token *** in a note"),
        ("hf_model sk-learn AKIRA", "hf_model sk-learn AKIRA"),
        ("max_tokens=512", "max_tokens=512"),
        ("mail me@host.org", "mail me@host.org"),
    ],
)
def test_redact(text, expected):
    assert redact(text) == expected


def test_values_of_secret_variables_are_hidden_wherever_they_stand(monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "k-123456")
    monkeypatch.setenv("DATABASE_URL", "postgresql://me:pa55word@host/db")
    assert redact("tried k-123456 and pa55word") == "tried *** and ***"


def test_the_current_folder_is_no_secret(monkeypatch):
    monkeypatch.setenv("PWD", "/some/folder")
    monkeypatch.setenv("OLDPWD", "/other/folder")
    assert not {"/some/folder", "/other/folder"} & set(known_secrets())


def test_redact_tree():
    tree = {
        "api_key": "abc",
        "nested": [{"token": "x", "max_tokens": 3}],
        "token": None,
        "uri": "http://a:b@c",
        "lr": 0.1,
    }
    assert redact_tree(tree) == {
        "api_key": "***",
        "nested": [{"token": "***", "max_tokens": 3}],
        "token": None,
        "uri": "http://***@c",
        "lr": 0.1,
    }
    below = {"credentials": {"user": "me", "port": 1}, "password": 998877665544, "pad_token_id": 50256, "use_token": True}
    assert redact_tree(below) == {
        "credentials": {"user": "***", "port": 1},
        "password": "***",
        "pad_token_id": 50256,
        "use_token": True,
    }


def test_redact_arguments():
    given = ["fit", "--a.api_key", "abc", "--b.token=def", "--lr", "0.1", "--uri=http://u:p@h/"]
    assert redact_arguments(given) == [
        "fit",
        "--a.api_key",
        "***",
        "--b.token=***",
        "--lr",
        "0.1",
        "--uri=http://***@h/",
    ]


def test_a_key_may_say_what_it_is_for():
    assert all(is_secret(key) for key in ("apiKeyForHub", "token_for_hub", "API_KEY_FOR_HUB"))
    assert not any(is_secret(key) for key in ("tokenizer_for_hub", "pass_forward", "token_format", "tokenFormat"))


def test_addresses_may_be_keys_and_flags_may_be_items():
    assert redact_tree({"https://me:planted@host": 1}) == {f"https://{HIDDEN}@host": 1}
    assert redact_tree(["--password", "planted", "--user", "me"]) == ["--password", HIDDEN, "--user", "me"]


def test_the_password_of_curl():
    assert redact("curl -u me:planted16 https://h") == f"curl -u me:{HIDDEN} https://h"
    assert redact("docker run -u 1000:1000 image") == "docker run -u 1000:1000 image"


def test_time_is_linear_in_the_length():
    for text in ("a" * 400_000, "--" + "a-" * 200_000, "sk-" * 100_000, "://a:" * 80_000):
        begin = time.process_time()
        redact(text)
        assert time.process_time() - begin < 60  # quadratic ones take hours
