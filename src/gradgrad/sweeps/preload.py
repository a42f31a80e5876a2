"""What every trial imports, imported once: the server that trials are forked off reads this module."""

from importlib import import_module

for name in (
    *("gradgrad.training", "gradgrad.modules", "gradgrad.callbacks", "gradgrad.datamodules"),
    *("mlflow.store.tracking.sqlalchemy_store", "mlflow.pyfunc", "mlflow.system_metrics.system_metrics_monitor"),
    *(
        "alembic.command",
        "alembic.config",
        "sqlalchemy.dialects.sqlite",
        "git",
        "scipy.io",
        "gradgrad.networks",
        "safetensors.torch",
    ),
    *("sklearn.datasets", "sklearn.preprocessing", "matplotlib.figure", "matplotlib.backends.backend_agg", "IPython.display"),
):
    import_module(name)
