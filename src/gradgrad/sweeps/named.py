"""Objects that a sweep file names: samplers, pruners, launchers."""

import inspect
from typing import Any

from jsonargparse import Namespace

from gradgrad.errors import UsageError, nearest
from gradgrad.parser import Parser
from gradgrad.sweeps.quiet import quiet

SAMPLERS = {
    "grid": "grid",  # all points, by us
    "random": "optuna.samplers.RandomSampler",
    "tpe": "optuna.samplers.TPESampler",
    "gp": "optuna.samplers.GPSampler",
    "qmc": "optuna.samplers.QMCSampler",
}
PRUNERS = {
    "none": "optuna.pruners.NopPruner",
    "median": "optuna.pruners.MedianPruner",
    "asha": "optuna.pruners.SuccessiveHalvingPruner",
    "successive_halving": "optuna.pruners.SuccessiveHalvingPruner",
    "hyperband": "optuna.pruners.HyperbandPruner",
}
LAUNCHERS = {"local": "gradgrad.sweeps.launchers.LocalLauncher", "ray": "gradgrad.sweeps.ray_launcher.RayLauncher"}
Class = str | dict[str, Any]  # a name of ours, or class_path and init_args


def plain(value: Any) -> Any:
    """Take back what jsonargparse makes of mappings that look like a class.

    Args:
        value: nested.

    Returns:
        Plain mappings and lists.
    """
    if isinstance(value, Namespace):
        value = value.as_dict()
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, list) else value


def named(given: Class, key: str, names: dict[str, str], base: type) -> dict[str, Any]:
    """Spell a name out and let jsonargparse check it.

    Args:
        given: what is written.
        key: under which.
        names: class paths by our names.
        base: which it must be a subclass of.

    Returns:
        Its class_path and init_args.

    Raises:
        UsageError: there is no such class, or it does not take these arguments.
    """
    given = plain(given)
    if not isinstance(given, dict) and "." not in str(given):
        if given not in names:
            near = nearest(str(given), names)
            raise UsageError(
                f"{key} is {given}.\nexpected: one of {', '.join(names)}, or class_path and init_args"
                + (f"\nwrite:    {key}: {near}" if near else "")
            )
        given = names[given]
    tree = {"class_path": given} if isinstance(given, str) else dict(given)
    if "class_path" not in tree:
        raise UsageError(f"{key} has no class_path.\nexpected: one of {', '.join(names)}, or class_path and init_args")
    tree["class_path"] = names.get(tree["class_path"], tree["class_path"])
    if tree["class_path"] != "grid":
        instance(tree, key, base)
    elif tree.get("init_args"):
        raise UsageError(f"{key} grid takes no init_args.")
    return {"class_path": tree["class_path"], "init_args": tree.get("init_args", {})}


def instance(tree: dict[str, Any], key: str, base: type, **defaults: Any) -> Any:
    """Make an object of a class that is named in YAML.

    Args:
        tree: class_path and init_args.
        key: under which it was written.
        base: which it must be a subclass of.
        defaults: arguments that the class gets where it takes them and none are written.

    Returns:
        The object.
    """
    parser = Parser(allow_abbrev=False)
    parser.add_subclass_arguments(base, key, required=True)
    with quiet():  # it is made once to see whether it can be
        config = parser.parse_object({key: tree})
    home, _, name = config[key].class_path.rpartition(".")
    cls = getattr(__import__(home, fromlist=[name]), name)
    taken = inspect.signature(cls.__init__).parameters
    for argument, value in defaults.items():
        if argument in taken and argument not in tree.get("init_args", {}):
            config[key].init_args[argument] = value
    with quiet():
        return parser.instantiate_classes(config)[key]
