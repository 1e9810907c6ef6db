"""Damaged manifests, golden samples and photos are refused without a crash, under sanitizers."""

import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest

from hp_sdk.testing import make_bundle
from hp_trainer.paperdolls import paper_doll

pytestmark = [pytest.mark.cpp, pytest.mark.timeout(1500)]

SANITIZED = {
    "HP_SANITIZE": "address,undefined",
    "HP_FUZZ": "ON",
    "HP_TOOL": "OFF",
    "HP_ONNXRUNTIME": "OFF",
    "HP_OPENVINO": "OFF",
}
TARGETS = ("hp_fuzz_manifest", "hp_fuzz_golden", "hp_fuzz_picture")


CLANG = {"CMAKE_CXX_COMPILER": "clang++", "CMAKE_C_COMPILER": "clang"}


@pytest.fixture(scope="module")
def targets(builder, tmp_path_factory) -> Path:
    """Fuzz targets of libFuzzer where clang has it, else of `fuzz/mutate.cpp`."""
    if has_libfuzzer(tmp_path_factory.mktemp("libfuzzer")):
        return builder.build("build-fuzz", SANITIZED | CLANG, *TARGETS)
    return builder.build("build-asan", SANITIZED, *TARGETS)


def has_libfuzzer(folder: Path) -> bool:
    if shutil.which("clang++") is None or shutil.which("clang") is None:
        return False
    source = folder / "nothing.cpp"
    source.write_text('extern "C" int LLVMFuzzerTestOneInput(const char*, long) { return 0; }\n')
    command = ["clang++", "-fsanitize=fuzzer,address", str(source), "-o", str(folder / "nothing")]
    return subprocess.run(command, capture_output=True, timeout=300).returncode == 0


def manifests(folder, repository):
    for number, domains in enumerate((("pascal",), ("pascal", "atr"))):
        make_bundle(folder / "made", domains=domains)
        shutil.copy(folder / "made" / "bundle.json", folder / f"{number}.json")
    shutil.rmtree(folder / "made")


def goldens(folder, repository):
    small = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    np.savez_compressed(folder / "packed.npz", image=small, labels=small[..., 0])
    np.savez(folder / "stored.npz", image=small)
    universal = repository / "hp_sdk" / "bundles" / "universal"
    shutil.copy(universal / "golden" / "golden.npz", folder / "shipped.npz")


def pictures(folder, repository):
    photo = paper_doll(np.random.default_rng(1), (24, 17)).image
    cv2.imwrite(str(folder / "rgb.png"), photo)
    cv2.imwrite(str(folder / "grey.png"), photo[..., 0])
    bits = [cv2.IMWRITE_PNG_BILEVEL, 1]
    cv2.imwrite(str(folder / "bits.png"), photo[..., 0] // 128 * 255, bits)
    cv2.imwrite(str(folder / "deep.png"), photo.astype(np.uint16) * 257)
    cv2.imwrite(str(folder / "raw.ppm"), photo)
    cv2.imwrite(str(folder / "text.ppm"), photo, [cv2.IMWRITE_PXM_BINARY, 0])
    cv2.imwrite(str(folder / "raw.pgm"), photo[..., 0])


@pytest.mark.parametrize(
    ("name", "seeds", "runs"),
    [("manifest", manifests, 10_000), ("golden", goldens, 2000), ("picture", pictures, 10_000)],
)
def test_ten_thousand_damaged_manifests_and_photos_crash_nothing(
    targets, repository, tmp_path, name, seeds, runs
):
    seeds(tmp_path, repository)
    program = targets / f"hp_fuzz_{name}"
    arguments = [str(program), str(tmp_path), str(runs), "7"]
    if b"libFuzzer" in program.read_bytes():
        arguments = [str(program), f"-runs={runs}", "-seed=7", "-max_len=30000", str(tmp_path)]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr[-3000:]
    if len(arguments) == 4:
        accepted = int(done.stdout.split()[2])
        assert 0 < accepted < runs, done.stdout  # neither refuses all nor swallows all


def test_the_sanitizers_are_awake(targets, tmp_path):
    """A program of the same flags that reads beyond its memory is stopped."""
    source = tmp_path / "beyond.cpp"
    source.write_text("int main(int n, char**) { int a[2] = {n, n}; return a[n + 1]; }\n")
    program = tmp_path / "beyond"
    flags = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    subprocess.run(["c++", *flags, str(source), "-o", str(program)], check=True, timeout=300)
    done = subprocess.run([str(program)], capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert "index 2 out of bounds" in done.stderr or "AddressSanitizer" in done.stderr
