"""What `import hp_sdk` costs and what it offers."""

import json
import subprocess
import sys

import pytest

RUNTIMES = {"torch", "onnx", "onnxruntime", "openvino", "tensorrt", "tensorrt_rtx", "pycuda"}

PUBLIC_NAMES = {
    "BackendError",
    "BackendUnavailable",
    "ChecksumMismatch",
    "ConfigError",
    "CorruptArtifact",
    "DataError",
    "DeviceOutOfMemory",
    "Domain",
    "EngineIncompatible",
    "ExportError",
    "HpError",
    "InputError",
    "ModelError",
    "ModelNotFound",
    "Parser",
    "ProviderFallback",
    "QueueFull",
    "Receipt",
    "Result",
    "SchemaMismatch",
    "UnknownHead",
    "VerificationFailed",
    "domain_names",
    "load_domain",
}


def packages_loaded_by(code: str) -> set[str]:
    """Top-level names of the packages outside the standard library that running `code` loads."""
    program = f"""
import json, sys
before = set(sys.modules)
{code}
names = {{name.partition(".")[0] for name in set(sys.modules) - before}}
print(json.dumps(sorted(names - set(sys.stdlib_module_names))))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_importing_hp_sdk_loads_nothing_but_numpy_and_opencv():
    assert packages_loaded_by("import hp_sdk") <= {"hp_sdk", "numpy", "cv2"}


def test_no_module_of_hp_sdk_loads_a_runtime_when_imported():
    import_everything = """
import importlib, pkgutil
import hp_sdk
for module in pkgutil.walk_packages(hp_sdk.__path__, "hp_sdk."):
    importlib.import_module(module.name)
"""
    loaded = packages_loaded_by(import_everything)

    assert "hp_sdk" in loaded
    assert not loaded & RUNTIMES


@pytest.mark.parametrize(
    "command",
    [
        "hp_sdk.cli.parse",
        "hp_sdk.cli.doctor",
        "hp_sdk.cli.bench",
        "hp_trainer.cli.train",
        "hp_export.cli",
    ],
)
def test_commands_answer_help_without_loading_torch_or_a_runtime(command: str):
    ask_for_help = f"""
import importlib
main = importlib.import_module("{command}").main
try:
    main(["--help"])
except SystemExit as stop:
    assert stop.code == 0
"""
    assert not packages_loaded_by(ask_for_help) & RUNTIMES


def test_the_public_names_are_exactly_the_documented_ones():
    import hp_sdk

    assert set(hp_sdk.__all__) == PUBLIC_NAMES


def test_every_public_name_exists_and_says_what_it_is():
    import hp_sdk

    for name in hp_sdk.__all__:
        assert getattr(hp_sdk, name).__doc__, name
