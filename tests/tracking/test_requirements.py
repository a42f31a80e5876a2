"""What a logged model asks to be installed."""

from importlib.metadata import version

from packaging.requirements import Requirement
from packaging.version import Version

from gradgrad.tracking.requirements import requirements


def test_all_that_the_project_needs_itself_is_pinned_to_what_is_installed():
    pins = {requirement.name: requirement for requirement in map(Requirement, requirements("gradgrad.modules.MAML"))}
    assert {"gradgrad", "torch", "lightning", "mlflow", "safetensors", "jsonargparse"} <= set(pins)
    assert not {"pytest", "ruff", "ray"} & set(pins)  # of extras
    for name, requirement in pins.items():
        (pin,) = requirement.specifier
        assert (pin.operator, pin.version) == ("==", Version(version(name)).public)


def test_a_strangers_package_comes_too():
    assert f"pytest=={version('pytest')}" in requirements("_pytest.any.Module")
    assert requirements("not_installed.Module") == requirements("gradgrad.modules.MAML")
