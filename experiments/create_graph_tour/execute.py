"""Execute the tour from its first cell to its last, and write the outputs into it.

python experiments/create_graph_tour/execute.py
"""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from nbclient import NotebookClient

HERE = Path(__file__).parent
NOTEBOOK = HERE / "tour.ipynb"


def execute(folder: Path) -> nbformat.NotebookNode:
    """Execute a copy of the notebook in a folder, where it leaves its picture; an error in a cell is an error here."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    metadata = notebook.metadata.copy()
    client = NotebookClient(notebook, timeout=300, record_timing=False, resources={"metadata": {"path": str(folder)}})
    manager = client.create_kernel_manager()
    # Without folders to look into, `python3` is the interpreter that runs this, whatever kernels are installed on the machine.
    manager.kernel_spec_manager = KernelSpecManager(kernel_dirs=[])
    manager.transport_encryption = "auto"  # else the kernel warns that others on the machine can listen
    with TemporaryDirectory() as settings:  # neither start-up files nor history of whoever runs this
        executed = client.execute(env={**os.environ, "IPYTHONDIR": settings})
    executed.metadata = metadata  # nbclient notes the version of Python, which differs from machine to machine
    return executed


if __name__ == "__main__":
    nbformat.write(execute(HERE), NOTEBOOK)
