"""hp-parse: photos in; label maps, overlays and JSON out."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import cv2

from hp_sdk.cli import SOME_FAILED, new_parser, report, run_command
from hp_sdk.errors import ConfigError, InputError
from hp_sdk.files import write_bytes
from hp_sdk.image import Pixels
from hp_sdk.parser import Parser
from hp_sdk.result import Result
from hp_sdk.sources import STDIN, Item, expand

_OURS = (".labels.png", ".overlay.png")
_NAME = "hp-parse"


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of hp-parse."""
    parser = new_parser(_NAME, "Find body parts and clothes in photos, pixel for pixel.")
    add = parser.add_argument
    add(
        "source", nargs="+", metavar="SOURCE", help="photo, folder, pattern in quotes, or - (stdin)"
    )
    add("--model", default="cihp", help="name of a model or head, or a bundle's folder (cihp)")
    add("--domain", metavar="HEAD", help="head to answer, where the bundle has several")
    add("-o", "--output", type=Path, default=Path("hp-parsed"), metavar="DIR", help="(hp-parsed)")
    add(
        "--save",
        type=_kinds,
        default=tuple(_WRITERS),
        metavar="KINDS",
        help="some of labels,overlay,json (all three)",
    )
    add("--tta", default="none", help="none, flip, ms or ms+flip: slower, a little better (none)")
    add("--backend", default="auto", help="auto, onnxruntime, openvino or torch (auto)")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:0, GPU or NPU (auto)")
    add("--batch-size", type=int, metavar="N", help="photos at once (the bundle's own number)")
    add("--allow-fallback", action="store_true", help="accept the CPU where the device is missing")
    return run_command(parser, _parse, argv)


def _parse(options: argparse.Namespace) -> int:
    made = _prepare_folder(options.output)
    tried = failed = 0
    try:
        with Parser.load(
            options.model,
            backend=options.backend,
            device=options.device,
            tta=options.tta,
            batch_size="auto" if options.batch_size is None else options.batch_size,
            allow_fallback=options.allow_fallback,
        ) as parser:
            domains = [options.domain or parser.head]
            for batch in _batches(_items(options.source), parser.batch_size):
                tried += len(batch)
                failed += _parse_batch(parser, batch, domains, options)
    finally:
        _forget(made)
    if failed < tried:
        return SOME_FAILED if failed else 0
    return InputError.exit_code


def _parse_batch(
    parser: Parser, items: Sequence[Item], domains: list[str], options: argparse.Namespace
) -> int:
    """Parse and write a few photos; how many of them failed."""
    loaded = [(item, image) for item in items if (image := _load(item)) is not None]
    failed = len(items) - len(loaded)
    answers = parser.predict([image for _, image in loaded], domains=domains) if loaded else []
    for (item, _), answer in zip(loaded, answers, strict=True):
        (result,) = answer.values()
        try:
            files = _write(result, options.output / item.stem, options.save)
        except ConfigError as exc:
            report(_NAME, str(exc))
            failed += 1
            continue
        _print(item, result, files)
    return failed


def _load(item: Item) -> Pixels | None:
    try:
        return item.load()
    except InputError as exc:
        report(_NAME, str(exc))
        return None


def _write(result: Result, stem: Path, kinds: Sequence[str]) -> dict[str, Path]:
    return {kind: _WRITERS[kind](result, stem) for kind in kinds}


def _write_labels(result: Result, stem: Path) -> Path:
    return result.save(f"{stem}.labels.png")


def _write_overlay(result: Result, stem: Path) -> Path:
    _, png = cv2.imencode(".png", cv2.cvtColor(result.overlay(), cv2.COLOR_RGB2BGR))
    return write_bytes(Path(f"{stem}.overlay.png"), png.tobytes())


def _write_json(result: Result, stem: Path) -> Path:
    return write_bytes(Path(f"{stem}.json"), f"{result.to_json()}\n".encode())


_WRITERS: dict[str, Callable[[Result, Path], Path]] = {
    "labels": _write_labels,
    "overlay": _write_overlay,
    "json": _write_json,
}


def _print(item: Item, result: Result, files: dict[str, Path]) -> None:
    height, width = result.labels.shape
    total = result.labels.size
    shares = [f"{name} {100 * px / total:.1f} %" for name, px in result.areas().items()]
    print(f"{item.name}  {width} x {height} px, {result.timing['total']:.0f} ms")
    print(f"  {', '.join(shares) or 'no person found'}")
    for kind, path in files.items():
        print(f"  {kind}: {path}", flush=True)


def _kinds(text: str) -> tuple[str, ...]:
    kinds = tuple(dict.fromkeys(text.split(",")))
    for kind in kinds:
        if kind not in _WRITERS:
            raise argparse.ArgumentTypeError(f"{kind!r} is none of {', '.join(_WRITERS)}")
    return kinds


def _items(sources: Sequence[str]) -> Iterator[Item]:
    """Every photo once, with a stem of its own, so that no output replaces another."""
    stdin = sys.stdin.buffer if STDIN in sources else None
    seen: set[str] = set()
    taken: set[str] = set()
    for item in expand(sources, allow_url=True, stdin=stdin, ignore=_OURS):
        if item.name in seen:
            continue
        seen.add(item.name)
        stem, number = item.stem, 2
        while stem in taken:
            stem, number = f"{item.stem}-{number}", number + 1
        taken.add(stem)
        yield replace(item, stem=stem)


def _batches(items: Iterator[Item], size: int) -> Iterator[list[Item]]:
    while batch := list(islice(items, size)):
        yield batch


def _prepare_folder(folder: Path) -> list[Path]:
    """Make the output folder and prove that it can be written to; the folders that were new.

    Raises:
        InputError: it cannot.
    """
    made: list[Path] = []
    try:
        for each in reversed([folder, *folder.parents]):
            if not each.exists():
                each.mkdir()
                made.append(each)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as exc:
        _forget(made)
        raise InputError(
            f"cannot write into {str(folder)!r}: {exc.strerror or exc}; choose another with -o"
        ) from exc
    return made


def _forget(made: Sequence[Path]) -> None:
    """Remove the folders we made if nothing was written into them."""
    for folder in reversed(made):
        if any(folder.iterdir()):
            return
        folder.rmdir()
