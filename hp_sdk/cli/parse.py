"""hp-parse: photos and videos in; label maps, overlays and JSON out."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby, islice
from pathlib import Path
from time import monotonic

from hp_sdk.backends import BACKENDS
from hp_sdk.cli import SOME_FAILED, new_parser, report, run_command
from hp_sdk.cli.progress import progress_text, status_line
from hp_sdk.errors import ConfigError, InputError
from hp_sdk.files import write_bytes
from hp_sdk.film import Film, parse_video
from hp_sdk.image import Pixels
from hp_sdk.overlay import encode_png
from hp_sdk.parser import Parser
from hp_sdk.result import Result
from hp_sdk.smoothing import Smoother
from hp_sdk.sources import STDIN, Item, expand
from hp_sdk.tta import PAPER_NAMES, TTA_NAMES

_OURS = (".labels.png", ".overlay.png", ".overlay.mp4", ".overlay.avi")
_NAME = "hp-parse"


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of hp-parse."""
    parser = new_parser(_NAME, "Find body parts and clothes in photos and videos, pixel by pixel.")
    add = parser.add_argument
    add(
        "source",
        nargs="+",
        metavar="SOURCE",
        help="photo, video, folder, pattern in quotes, or - (stdin)",
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
    names = ", ".join((*TTA_NAMES, *PAPER_NAMES))
    add("--tta", default="none", help=f"{names}: slower, a little better (none)")
    add(
        "--smooth",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="of a video's scores so far in those of each frame, 0 to below 1 (0)",
    )
    add("--backend", default="auto", help=f"auto, {', '.join(BACKENDS)} (auto)")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:0, GPU or NPU (auto)")
    add("--batch-size", type=int, metavar="N", help="photos at once (the bundle's own number)")
    add("--allow-fallback", action="store_true", help="accept the CPU where the device is missing")
    return run_command(parser, _parse, argv)


def _parse(options: argparse.Namespace) -> int:
    Smoother(options.smooth)  # a wrong share should cost no loading
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
            for batch in _batches(_items(options.source), parser.batch_size):
                parse = _parse_film if batch[0].video else _parse_batch
                counted, bad = parse(parser, batch, options)
                tried, failed = tried + counted, failed + bad
    finally:
        _forget(made)
    if failed < tried:
        return SOME_FAILED if failed else 0
    return InputError.exit_code


def _parse_film(
    parser: Parser, items: Sequence[Item], options: argparse.Namespace
) -> tuple[int, int]:
    """Parse and write one video; its frames, and how many failed: a missing rest counts as one."""
    (item,) = items
    start = monotonic()
    with status_line() as show:
        try:
            film = parse_video(
                parser,
                item.video or item.name,
                options.output,
                stem=item.stem,
                save=options.save,
                head=options.domain,
                smooth=options.smooth,
                tell=lambda done, total: show(
                    progress_text(Path(item.name).name, done, total, monotonic() - start)
                ),
            )
        except (InputError, ConfigError) as exc:
            report(_NAME, str(exc))
            return 1, 1
    if film.problem:
        report(_NAME, film.problem)
    _print_film(item, film, monotonic() - start)
    return film.frames + bool(film.problem), int(bool(film.problem))


def _print_film(item: Item, film: Film, elapsed_s: float) -> None:
    print(f"{item.name}  {film.frames} frames, {film.frames / elapsed_s:.1f} per second")
    for kind, path in film.files.items():
        print(f"  {kind}: {path}", flush=True)


def _parse_batch(
    parser: Parser, items: Sequence[Item], options: argparse.Namespace
) -> tuple[int, int]:
    """Parse and write a few photos; how many there were, and how many of them failed."""
    domains = [options.domain or parser.head]
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
    return len(items), failed


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
    return write_bytes(Path(f"{stem}.overlay.png"), encode_png(result.overlay()))


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
    for item in expand(sources, allow_url=True, stdin=stdin, ignore=_OURS, whole_videos=True):
        if item.name in seen:
            continue
        seen.add(item.name)
        stem, number = item.stem, 2
        while stem in taken:
            stem, number = f"{item.stem}-{number}", number + 1
        taken.add(stem)
        yield replace(item, stem=stem)


def _batches(items: Iterator[Item], size: int) -> Iterator[list[Item]]:
    """Photos that follow each other, `size` at a time; a video alone."""
    for is_video, group in groupby(items, key=lambda item: item.video is not None):
        while batch := list(islice(group, 1 if is_video else size)):
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
