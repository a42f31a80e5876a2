"""What a logged model needs to be loaded, at the versions that it was made with."""

from importlib.metadata import PackageNotFoundError, distribution, packages_distributions, version

from packaging.requirements import Requirement
from packaging.version import Version

OURS = "gradgrad"


def requirements(class_path: str) -> list[str]:
    """Pin this project, all that it needs itself, and the package of a stranger's module.

    MLflow would load the model in another process to find out, which costs seconds.

    Args:
        class_path: of the module.

    Returns:
        ``name==version`` each. A build's own suffix (``+cpu``) is left out: package indexes do not know it.
    """
    needed = [Requirement(line) for line in distribution(OURS).requires or []]
    names = [OURS, *(r.name for r in needed if r.marker is None or r.marker.evaluate({"extra": ""}))]
    package = class_path.partition(".")[0]
    if package not in names:
        names += packages_distributions().get(package, [])
    pins = []
    for name in dict.fromkeys(names):
        try:
            pins.append(f"{name}=={Version(version(name)).public}")
        except PackageNotFoundError:  # a folder that is on the path without having been installed
            continue
    return pins
