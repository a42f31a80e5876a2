from gradgrad.tracking import MLflowLogger
from gradgrad.tracking.summary import print_summary


def test_the_summary(project, capsys):
    logger = MLflowLogger("one", run_name="hidden=[bold] weight=1")
    logger.log_metrics({"best/rmse": 54.3210987, "test/rmse": 55.5, "test/r2": 0.5, "train/loss": 1.0}, 0)
    logger.finalize()
    print_summary(logger)
    title, *table, where, look = capsys.readouterr().out.splitlines()
    assert title.strip() == "hidden=[bold] weight=1 (FINISHED)"
    cells = [
        [cell.strip() for cell in line.strip("│┃").replace("┃", "│").split("│")] for line in table if "│" in line or "┃" in line
    ]
    assert cells == [["metric", "validation, best epoch", "test"], ["rmse", "54.321", "55.5"], ["r2", "", "0.5"]]
    assert where == f"run {logger.run_id} of experiment one in sqlite:///{project}/mlruns/mlflow.db"
    assert look == "look at it: gradgrad ui"
    print_summary(logger, values=False)
    assert capsys.readouterr().out.splitlines() == [where, look]
