"""hp-models: which models there are, what is in them, where they lie."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from hp_sdk.bundle import Bundle, manifest_dict, read_bundle, verify_files
from hp_sdk.cli import new_parser, run_command
from hp_sdk.files import sha256_of
from hp_sdk.models import add_model, find_bundle, list_models, remove_model


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of hp-models."""
    parser = new_parser("hp-models", "List, inspect and add the models that hp-parse can use.")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="the models that have a name")
    listing.add_argument("--json", action="store_true", help="as JSON")
    for action, text in (
        ("show", "what a bundle holds: heads, files, training data, scores"),
        ("path", "the folder of a bundle"),
        ("verify", "compare every file of a bundle with its manifest"),
    ):
        actions.add_parser(action, help=text).add_argument("name", metavar="NAME")
        if action == "show":
            actions.choices["show"].add_argument("--json", action="store_true", help="the manifest")
    adding = actions.add_parser("add", help="copy a bundle under HP_HOME and give it a name")
    adding.add_argument("name", metavar="NAME")
    adding.add_argument("bundle", metavar="BUNDLE", type=Path)
    removing = actions.add_parser("remove", help="delete a model added before")
    removing.add_argument("name", metavar="NAME")
    return run_command(parser, _run, argv)


def _run(options: argparse.Namespace) -> None:
    _ACTIONS[options.action](options)


def _list(options: argparse.Namespace) -> None:
    entries = list_models()
    if options.json:
        rows = [
            {"name": e.name, "path": str(e.path), "shipped": e.shipped, "heads": list(e.heads)}
            for e in entries
        ]
        print(json.dumps(rows, indent=1))
        return
    if not entries:
        print("no models; add one with: hp-models add NAME BUNDLE", file=sys.stderr)
    width = max((len(entry.name) for entry in entries), default=0)
    for entry in entries:
        origin = "shipped" if entry.shipped else "added"
        print(f"{entry.name:{width}}  {origin:7}  {', '.join(entry.heads) or '(unreadable)'}")


def _show(options: argparse.Namespace) -> None:
    folder, _ = find_bundle(options.name)
    bundle = read_bundle(folder)
    if options.json:
        print(json.dumps(manifest_dict(bundle), indent=1, ensure_ascii=False))
        return
    print(f"{bundle.name} {bundle.version}  family {bundle.family}  license {bundle.license}")
    height, width = bundle.input.size_hw
    print(f"input  {height} x {width}, {bundle.input.resize}{_windows_text(bundle)}")
    _print_heads(bundle)
    for artifact in bundle.artifacts:
        print(
            f"file   {artifact.file}  {artifact.runtime} {artifact.precision_found}  "
            f"batch {artifact.batch_min}..{artifact.batch_max}  {artifact.size_bytes / 1e6:.1f} MB"
        )
    for key, value in bundle.card.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        print(f"card   {key}: {text}")


def _windows_text(bundle: Bundle) -> str:
    if bundle.input.resize != "shortest-side":
        return ""
    down, right = bundle.input.window_stride_hw
    return f", read through windows {down} x {right} apart"


def _print_heads(bundle: Bundle) -> None:
    for name, head in bundle.heads.items():
        print(f"head   {name}: {', '.join(head.domain.names)}")


def _path(options: argparse.Namespace) -> None:
    print(find_bundle(options.name)[0])


def _verify(options: argparse.Namespace) -> None:
    folder, _ = find_bundle(options.name)
    for path in verify_files(read_bundle(folder)):
        print(f"{path.relative_to(folder)}  sha256 {sha256_of(path)}")
    print(f"{folder}: every file is as the manifest says")


def _add(options: argparse.Namespace) -> None:
    print(add_model(options.name, options.bundle))


def _remove(options: argparse.Namespace) -> None:
    print(f"removed {remove_model(options.name)}")


_ACTIONS = {
    "list": _list,
    "show": _show,
    "path": _path,
    "verify": _verify,
    "add": _add,
    "remove": _remove,
}
