"""The error tree and its exit codes."""

import inspect

import pytest

from hp_sdk import errors

TREE = {
    "InputError": ("HpError", 3),
    "DataError": ("InputError", 3),
    "ConfigError": ("HpError", 2),
    "ModelError": ("HpError", 4),
    "ModelNotFound": ("ModelError", 4),
    "ChecksumMismatch": ("ModelError", 4),
    "CorruptArtifact": ("ModelError", 4),
    "SchemaMismatch": ("ModelError", 4),
    "UnknownHead": ("ModelError", 4),
    "BackendError": ("HpError", 5),
    "BackendUnavailable": ("BackendError", 5),
    "ProviderFallback": ("BackendError", 5),
    "EngineIncompatible": ("BackendError", 5),
    "DeviceOutOfMemory": ("BackendError", 5),
    "QueueFull": ("BackendError", 5),
    "ExportError": ("HpError", 6),
    "VerificationFailed": ("ExportError", 6),
}


@pytest.mark.parametrize("name", TREE)
def test_every_error_has_its_parent_and_exit_code(name):
    parent, code = TREE[name]
    error = getattr(errors, name)
    assert error.__bases__[0].__name__ == parent
    assert error.exit_code == code


def test_the_table_above_is_complete():
    found = {name for name, _ in inspect.getmembers(errors, inspect.isclass)} - {"ClassVar"}
    assert found == {*TREE, "HpError"}
    assert errors.HpError.exit_code == 1


def test_bad_values_are_also_value_errors():
    assert issubclass(errors.InputError, ValueError)
    assert issubclass(errors.ConfigError, ValueError)
    assert not issubclass(errors.ModelError, ValueError)
