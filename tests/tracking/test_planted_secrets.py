"""Secrets planted wherever a run looks, and a search through store, artifacts, checkpoints, spool and console."""

import json
import subprocess

import pytest

# Where and in which words: {} is the secret. What stands beside each of these places is found, so the place is recorded.
CONFIG = {
    "api_key": "cfg-Key01",
    "dbPassword": "cfg-Pass02",
    "client_secret": "cfg-Secret03",
    "AWS_SECRET_ACCESS_KEY": "cfg-wJalrXUt/04",
    "database": "postgresql://me:{}@db.example/runs",
    "cache": "redis://:{}@cache.example:6379/0",
    "odbc": "Driver=x;Server=y;UID=me;PWD={};",
    "headers": ["Authorization: Bearer {}"],
}
CONFIG_SECRETS = {"database": "cfg-Uri05", "cache": "cfg-Uri06", "odbc": "cfg-Odbc07", "headers": "cfg-Bearer08"}
ARGUMENTS = {"--trainer.logger.tags={{hf_token: {}}}": "cli-Tag09", "--model.login=https://me:{}@host.example": "cli-Uri10"}
VARIABLES = {
    "GITHUB_TOKEN": ("{}", "env-Token11"),
    "WANDB_API_KEY": ("{}", "env-Key12"),
    "DB_PASSWORD": ("{}", "env correct horse 13"),
    "PROXY": ("http://me:{}@proxy.example:3128", "env-Proxy14"),
    "SENTRY_DSN": ("https://{}@o1.ingest.sentry.io/2", "env0123456789abcdef15"),
}
PATCH = {
    "github": ("'{}'", "ghp_16C7e42F292c6912E7710c838347Ae178B4a"),
    "github, fine": ("'{}'", "github_pat_11ABCDEFG0abcdefghijkl_MNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789AB"),
    "gitlab": ("'{}'", "glpat-Xy12Zw34Uv56Ts78Rq90"),
    "hugging face": ("login('{}')", "hf_AbCdEfGhIjKlMnOpQrStUvWxYz012345"),
    "openai": ("'{}'", "sk-proj-AbCdEf123456AbCdEf123456AbCdEf123456"),
    "slack": ("'{}'", "xoxb-123456789012-1234567890123-AbCdEfGhIjKlMnOpQrStUvWx"),
    "slack's hook": ("'https://hooks.slack.com/services/{}'", "T00000000/B00000000/XXXXXXXXXXXXXXXXXXXXXXXX"),
    "aws": ("'{}'", "AKIAIOSFODNN7EXAMPLE"),
    "google": ("'{}'", "AIzaSyA1234567890abcdefghijklmnopqrstuv"),
    "jwt": ("'{}'", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"),
    "pem": (
        "'''-----BEGIN RSA PRIVATE KEY-----\n{}\n-----END RSA PRIVATE KEY-----'''",
        "MIIEpAIBAAKCAQEA1234567890abcdefghijklmnopqrstuv",
    ),
    "basic": ("'Authorization: Basic {}'", "dXNlcjpwYXNzd29yZDEyMw=="),
    "token header": ("'Authorization: token {}'", "0123456789abcdef0123456789abcdef01234567"),
    "pypi": ("'twine -p {}'", "pypi-AgEIcHlwaS5vcmcCJDAwMDAwMDAwLTAwMDAtMDAwMC0wMDAw"),
    "stripe": ("'{}'", "sk_live_" + "abcdefghijklmnopqrstuvwx"),
    "azure": (
        "'AccountName=a;AccountKey={};EndpointSuffix=x'",
        "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq==",
    ),
    "azure, signed": ("'https://a.blob.example/c?sv=2020&sig={}'", "abc%2Bdef1234567890abcdef%3D"),
    "sendgrid": ("'{}'", "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"),
    "telegram": ("'{}'", "123456789:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw4"),
    "databricks": ("'{}'", "dapi1234567890abcdef1234567890abcdef"),
    "mongo": ("'mongodb+srv://me:{}@c.mongodb.example'", "diff-Mongo/16"),
    "netrc": ("'machine h login me password {}'", "diff-Netrc17"),
    "docker": ("""'{{"auth": "{}"}}'""", "ZG9ja2VyOnBhc3N3b3JkMTIz"),
    "shell": ("'mysql --password {} -u root'", "diff-Flag18"),
    "default": ("os.environ.get('NAME', '{}')", "diff-Default19"),
    "two lines": ("(\n    '{}'\n)", "diff-Lines20"),
}
NAMES = {"default": "api_key", "two lines": "SECRET_KEY"}  # of the variables, where these tell
MODULE = """
import os
import signal

from lightning.pytorch.demos.boring_classes import BoringDataModule, BoringModel


class Planted(BoringModel):
    def __init__(self, settings: dict, login: str):
        super().__init__()
        self.save_hyperparameters()

    def on_train_start(self):
        everything = f"{self.hparams} {dict(os.environ)} beside-the-hyperparameters beside-the-variables"
        run = self.logger.run
        run.log_tags({"said": everything[:4000]})
        run.log_text(everything, "said.txt")
        self.logger.log_hyperparams({"settings": dict(self.hparams.settings), "variables": dict(os.environ)})

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.log("loss", outputs["loss"])
        if batch_idx == 3:
            if os.environ.get("ENDS") == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            key, uri = self.hparams.settings["api_key"], self.hparams.settings["database"]
            raise RuntimeError(f"beside-the-traceback api_key={key} {uri} {os.environ['DB_PASSWORD']} {os.environ['PROXY']}")


class Data(BoringDataModule):
    pass
"""


def planted():
    """Every secret by what it was planted as."""
    config = {key: CONFIG_SECRETS.get(key, text) for key, text in CONFIG.items()}
    formats = {key: secret for key, (_, secret) in PATCH.items()}
    return config | ARGUMENTS | {key: secret for key, (_, secret) in VARIABLES.items()} | formats


@pytest.fixture
def repository(project):
    """A project of the user's whose changed code has secrets in it."""
    settings = {key: json.loads(json.dumps(text).replace("{}", CONFIG_SECRETS.get(key, ""))) for key, text in CONFIG.items()}
    config = {
        "model": {
            "class_path": "planted.Planted",
            "init_args": {"settings": {**settings, "note": "beside-the-config"}, "login": ""},
        },
        "data": "planted.Data",
        "trainer": {"max_epochs": 1, "accelerator": "cpu", "log_every_n_steps": 1, "enable_progress_bar": False},
    }
    (project / "planted.yaml").write_text(json.dumps(config))
    (project / "planted.py").write_text(MODULE)
    (project / ".gitignore").write_text("mlruns/\n")
    (project / "code.py").write_text("import os\n")
    git = ["git", "-c", "user.name=me", "-c", "user.email=me@example.org"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *command], cwd=project, check=True)
    lines = [f"{NAMES.get(key, 'x')} = {text.format(secret)}\n" for key, (text, secret) in PATCH.items()]
    (project / "code.py").write_text("".join(["import os\n", *lines, "note = 'beside-the-patch'\n"]))
    return project


def searched(project, said):
    """All bytes that a run leaves or says, by where they are; the user's own files are the user's."""
    files = {path.name: path.read_bytes() for path in (project / "mlruns").rglob("*") if path.is_file()}
    return {**files, "console": said.encode()}


@pytest.mark.slow
@pytest.mark.parametrize("ends", ["failed", "killed"])
def test_none_is_found(repository, start_cli, ends):
    assert len(set(planted().values())) >= 30
    arguments = [text.format(secret) for text, secret in ARGUMENTS.items()]
    variables = {key: text.format(secret) for key, (text, secret) in VARIABLES.items()}
    pace = ["--trainer.logger.flush_seconds=1000"] if ends == "killed" else []  # so that all stands in the spool
    process = start_cli("fit", "-c", "planted.yaml", *arguments, *pace, ENDS=ends, **variables)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == (1 if ends == "failed" else -9), said
    places = searched(repository, said)
    assert any(name.endswith(".db") and name != "mlflow.db" for name in places) == (ends == "killed")
    everything = b"".join(places.values())
    for beside in ("config", "hyperparameters", "variables", "patch", *(["traceback"] if ends == "failed" else [])):
        assert f"beside-the-{beside}".encode() in everything
    assert b"beside-the-traceback" in places["console"] or ends == "killed"
    found = {name: key for name, content in places.items() for key, secret in planted().items() if secret.encode() in content}
    assert found == {}
