"""Prove with the real onnxruntime-gpu, where there is no CUDA, that nothing falls back in silence.

    python scripts/check_ort_gpu_wheel.py [--version 1.31.1] [--find-links FOLDER] [--keep FOLDER]

onnxruntime and onnxruntime-gpu cannot live in one environment, so this makes a throw-away one (the
wheel is 250 MB), runs the bundled model there and compares what it sees with what we promise:

* the wheel lists CUDA although there is none;
* device="cuda" raises, and so does hp-parse --device cuda, with exit code 5;
* "auto" and allow_fallback end on the CPU, with a note on the receipt;
* hp-doctor names the problem and still says that models can be parsed.

Exit code 0 if all of it holds, 1 if not, 5 if this machine has CUDA after all.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
PHOTO = REPOSITORY / "examples" / "astronaut.jpg"
HAS_CUDA = 5

LOOK = """
import json, sys, onnxruntime
from hp_sdk import Parser
from hp_sdk.errors import BackendError

def opened(**options):
    try:
        with Parser.load("cihp", **options) as parser:
            receipt = parser.predict(sys.argv[1]).receipt
        return {"provider": receipt.provider, "notes": receipt.notes}
    except BackendError as exc:
        return {"raised": type(exc).__name__, "said": str(exc)}

print(json.dumps({
    "version": onnxruntime.__version__,
    "listed": onnxruntime.get_available_providers(),
    "cuda": opened(device="cuda"),
    "auto": opened(),
    "fallback": opened(device="cuda:0", allow_fallback=True),
    "providers": opened(providers=["CUDAExecutionProvider", "CPUExecutionProvider"]),
}))
"""

COMMAND = "from hp_sdk.cli.{} import main; raise SystemExit(main())"


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", default="", help="of onnxruntime-gpu (the newest)")
    parser.add_argument("--find-links", metavar="FOLDER", help="where the wheel already lies")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the environment here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        python = make_environment(options.keep or Path(temporary) / "venv", options)
        seen = json.loads(run(python, "-c", LOOK, str(PHOTO)).stdout.splitlines()[-1])
        print(json.dumps(seen, indent=1))
        if "raised" not in seen["cuda"]:
            print("this machine has CUDA; nothing to prove here")
            return HAS_CUDA
        photo = [str(PHOTO), "--device", "cuda", "-o", temporary]
        parse = run(python, "-c", COMMAND.format("parse"), *photo, check=False)
        doctor = run(python, "-c", COMMAND.format("doctor"), "--json", check=False)
    verdicts = judge(seen, parse, doctor)
    for promise, holds in verdicts.items():
        print(f"{'holds ' if holds else 'BROKEN'}  {promise}")
    return 0 if all(verdicts.values()) else 1


def make_environment(folder: Path, options: argparse.Namespace) -> Path:
    """A virtual environment with onnxruntime-gpu and what hp_sdk imports; its interpreter."""
    venv.create(folder, with_pip=True)
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    wheel = "onnxruntime-gpu" + (f"=={options.version}" if options.version else "")
    links = ["--find-links", options.find_links] if options.find_links else []
    constraints = ["-c", str(REPOSITORY / "constraints.txt")]
    wanted = [wheel, "numpy", "opencv-python-headless"]
    run(python, "-m", "pip", "install", "--quiet", *links, *constraints, *wanted)
    return python


def run(python: Path, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run the environment's Python with this checkout importable."""
    done = subprocess.run(
        [str(python), *arguments],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    if check and done.returncode:
        sys.exit(f"{' '.join(arguments[:3])} failed:\n{done.stdout}{done.stderr}")
    return done


def judge(
    seen: dict, parse: subprocess.CompletedProcess[str], doctor: subprocess.CompletedProcess[str]
) -> dict[str, bool]:
    """Promise → whether it holds."""
    cpu, cuda = "CPUExecutionProvider", "CUDAExecutionProvider"
    report = json.loads(doctor.stdout)
    return {
        "the wheel lists CUDA although there is none": cuda in seen["listed"],
        "device='cuda' raises": cuda in seen["cuda"].get("said", ""),
        "providers=[CUDA, CPU] raises": cuda in seen["providers"].get("said", ""),
        "auto ends on the CPU": seen["auto"].get("provider") == cpu,
        "auto notes why": any(cuda in note for note in seen["auto"].get("notes", [])),
        "allow_fallback ends on the CPU": seen["fallback"].get("provider") == cpu,
        "allow_fallback notes why": any(cuda in note for note in seen["fallback"]["notes"]),
        "hp-parse --device cuda ends with 5": parse.returncode == 5,
        "hp-parse says it in one line": len(parse.stderr.splitlines()) == 1,
        "hp-doctor ends with 0": doctor.returncode == 0 and report["works"],
        "hp-doctor names the problem": any("cuda" in p["what"] for p in report["problems"]),
    }


if __name__ == "__main__":
    sys.exit(main())
