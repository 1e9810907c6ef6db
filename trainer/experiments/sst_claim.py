"""The claim of SST, tested in miniature on real photographs: Tables 1, 4, 5 and 6 of the paper.

    python trainer/experiments/sst_claim.py --data DATA --output runs/sst_claim --seeds 1 2 3

DATA holds pascal_person_part/ and ccp/ in the neutral layout. Three label domains on three disjoint
sets of photographs: pascal (7 classes, by hand), atr and cihp (18 and 20, derived from the garment
tags of ccp, each on one half of its training photographs). Every arm sees the same number of
images of each domain, at the same size, with the same seeds. Started again, it goes on: finished
runs are read, an interrupted one is resumed. Results: results.json and tables.md in --output.

`--tables distillation`, not in the paper, adds the answers of a larger network to the labels.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev

from hp_sdk.files import write_bytes
from hp_trainer.augment import AugmentConfig
from hp_trainer.auxiliary import AuxConfig
from hp_trainer.config import Config, EvalConfig, TrainConfig
from hp_trainer.data import DataConfig, SetConfig
from hp_trainer.dedicated import DedicatedConfig
from hp_trainer.distillation import DistillationConfig
from hp_trainer.loop import train
from hp_trainer.models.sst import PRESETS

DOMAINS = ("pascal", "atr", "cihp")
SOURCES, TARGET = ("pascal", "atr"), "cihp"
FRACTIONS = (0.5, 1.0)

# the paper's 10 : 1 : 5, divided by 10 (AdamW only sees the ratio)
PAPER = AuxConfig(alpha=1.0, beta=0.1, lam=0.5, loss_stride=2)
BARE = replace(PAPER, topology="none", beta=0.0, lam=0.0)
ABLATIONS = {
    "baseline (multi)": BARE,
    "+ L_aux without M_intra": replace(PAPER, lam=0.0, intra_mask="none"),
    "+ M_intra": replace(PAPER, lam=0.0),
    "+ L_dataset": replace(PAPER, scr_image=False),
    "+ L_img (universal, full)": PAPER,
}


LARGE = {
    "width": 128,
    "encoder_strides": (32, 16),
    "encoder_layers": 2,
    "decoder_depths": (1, 1, 1),
    "decoder_kernels": (3, 3, 3),
}
"""What the network that is distilled has more of."""
LONGER = 2
"""How many times as many steps it is trained."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What one arm may spend; `per_domain` images of every domain in each batch."""

    preset: str
    steps: int
    per_domain: int
    crop_px: int
    limit: int


@dataclass(frozen=True, slots=True)
class Arm:
    """What one arm trains; `teacher`, `init` and `distilled` name arms trained before it."""

    domains: Sequence[str]
    aux: AuxConfig
    teacher: str = ""
    init: str = ""
    distilled: str = ""
    fraction: float = 1.0
    large: bool = False


@dataclass(frozen=True, slots=True)
class Bench:
    """Where the photographs lie, where the runs go, and the budget."""

    lists: Path
    output: Path
    budget: Budget

    def run(self, name: str, seed: int, arm: Arm) -> dict[str, float]:
        """Train one arm unless it is done; returns mIoU over the classes present by domain."""
        return finish(self._config(seed, arm), self.checkpoint(name, seed).parent)

    def checkpoint(self, name: str, seed: int) -> Path:
        """Last checkpoint of an arm."""
        return self.output / "runs" / f"{name}.seed{seed}" / "last.pt"

    def _config(self, seed: int, arm: Arm) -> Config:
        budget = self.budget
        teacher, init, distilled = (
            str(self.checkpoint(n, seed)) if n else ""
            for n in (arm.teacher, arm.init, arm.distilled)
        )
        steps = budget.steps * (LONGER if arm.large else 1)
        around_px = round(1.35 * budget.crop_px / 32) * 32
        return Config(
            domains=tuple(arm.domains),
            preset=budget.preset,
            model=replace(PRESETS[budget.preset], **(LARGE if arm.large else {})),
            aux=arm.aux,
            dedicated=DedicatedConfig(teacher),
            distillation=DistillationConfig(distilled),
            data=self._data(arm),
            train=TrainConfig(
                steps=steps,
                lr=2e-3,
                backbone_lr=1.0,
                warmup=steps // 20,
                schedule="cosine",
                clip=5.0,
                ema=0.99,
                amp="bf16",
                seed=seed,
                init=init,
                save_every=200,
                samples=0,
                input_hw=(around_px, around_px),
            ),
            validate=tuple(
                EvalConfig(str(self.lists / d), d, "labels", "val", budget.limit)
                for d in arm.domains
            ),
        )

    def _data(self, arm: Arm) -> DataConfig:
        budget = self.budget
        sets = tuple(
            SetConfig(
                root=str(self.lists / d),
                labels={d: "labels"},
                # equal shares of every batch, whatever the size of the sets
                weight=1000.0 / (arm.fraction * count_ids(self.lists / d / "train.txt")),
                fraction=arm.fraction,
                cache_px=2 * budget.crop_px,
            )
            for d in arm.domains
        )
        augment = AugmentConfig(
            crop_hw=(budget.crop_px, budget.crop_px),
            nominal_px=round(1.35 * budget.crop_px),
            scale=(0.7, 1.4),
            keep_ratio=True,
            person_crop=0.7,
            colour=0.4,
        )
        return DataConfig(sets, augment, batch=budget.per_domain * len(arm.domains), workers=1)


def finish(config: Config, folder: Path) -> dict[str, float]:
    """Train, or go on, unless it is done; returns mIoU over the classes present by domain."""
    scores = folder / "scores.json"
    if not scores.exists():
        last = folder / "last.pt"
        train(config, folder, resume=last if last.exists() else None)
        line = (folder / "validation.jsonl").read_text("utf-8").splitlines()[-1]
        found = {k.partition(".")[2]: v for k, v in json.loads(line).items() if "." in k}
        kept = {domain: entry["miou_present"] for domain, entry in found.items()}
        write_bytes(scores, (json.dumps(kept, indent=1) + "\n").encode())
    return json.loads(scores.read_text("utf-8"))


def count_ids(path: Path) -> int:
    """Lines of a list."""
    return len(path.read_text("utf-8").split())


def write_lists(data: Path, folder: Path) -> Path:
    """One root per domain: links to the photographs and labels, and disjoint training lists."""
    places = {
        "pascal": ("pascal_person_part", "labels"),
        "atr": ("ccp", "labels_atr"),
        "cihp": ("ccp", "labels_cihp"),
    }
    for domain, (name, labels) in places.items():
        root = folder / domain
        root.mkdir(parents=True, exist_ok=True)
        for link, target in (("images", "images"), ("labels", labels)):
            if not (root / link).exists():
                (root / link).symlink_to((data / name / target).resolve())
        for split in ("train", "val"):
            ids = (data / name / f"{split}.txt").read_text("utf-8").split()
            if split == "train" and name == "ccp":
                ids = ids[0::2] if domain == "atr" else ids[1::2]
            write_bytes(root / f"{split}.txt", "".join(f"{i}\n" for i in ids).encode())
    return folder


BySeed = dict[int, dict[str, float]]
Scores = dict[str, BySeed]
"""Arm → seed → domain → mIoU."""


def table_1_and_4(bench: Bench, seed: int) -> dict[str, dict[str, float]]:
    """Single, multi, universal over all pairs, universal along the chain."""
    chain = Arm(DOMAINS, replace(PAPER, topology="progressive"))
    return {
        **_single_multi_universal(bench, seed),
        "universal, progressive": bench.run("progressive", seed, chain),
    }


def _single_multi_universal(bench: Bench, seed: int) -> dict[str, dict[str, float]]:
    single: dict[str, float] = {}
    for domain in DOMAINS:
        single |= bench.run(f"single.{domain}", seed, Arm([domain], BARE))
    return {
        "single": single,
        "multi": bench.run("multi", seed, Arm(DOMAINS, BARE)),
        "universal, full": bench.run("universal", seed, Arm(DOMAINS, PAPER)),
    }


def table_5(bench: Bench, seed: int) -> dict[str, dict[str, float]]:
    """Dedicated transfer against finetuning from the same source network."""
    bench.run("source", seed, Arm(SOURCES, PAPER))
    found = {}
    for fraction in FRACTIONS:
        arms = {
            "finetune": Arm([TARGET], BARE, init="source", fraction=fraction),
            "dedicated": Arm([TARGET], PAPER, teacher="source", fraction=fraction),
        }
        for name, arm in arms.items():
            title = f"{name}, {fraction:.0%} of cihp"
            found[title] = bench.run(f"{name}.{fraction}", seed, arm)
    return found


def table_6(bench: Bench, seed: int) -> dict[str, dict[str, float]]:
    """The parts of the loss, one after the other."""
    shared = {"baseline (multi)": "multi", "+ L_img (universal, full)": "universal"}
    return {
        name: bench.run(shared.get(name, f"ablation.{i}"), seed, Arm(DOMAINS, aux))
        for i, (name, aux) in enumerate(ABLATIONS.items())
    }


def table_of_distillation(bench: Bench, seed: int) -> dict[str, dict[str, float]]:
    """Single, multi, universal, and a larger network's answers beside the labels."""
    larger = Arm(DOMAINS, BARE, large=True)
    return {
        **_single_multi_universal(bench, seed),
        "the larger network (multi)": bench.run("larger", seed, larger),
        "multi + distillation": bench.run(
            "distilled", seed, Arm(DOMAINS, BARE, distilled="larger")
        ),
        "universal + distillation": bench.run(
            "universal.distilled", seed, Arm(DOMAINS, PAPER, distilled="larger")
        ),
    }


TABLES: dict[str, Callable[[Bench, int], dict[str, dict[str, float]]]] = {
    "1 and 4": table_1_and_4,
    "5": table_5,
    "6": table_6,
    "distillation": table_of_distillation,
}
PAPERS = [title for title in TABLES if title[0].isdigit()]
COMPARED = {
    "1 and 4": [
        ("multi", "single"),
        ("universal, full", "multi"),
        ("universal, full", "universal, progressive"),
    ],
    "5": [(f"dedicated, {f:.0%} of cihp", f"finetune, {f:.0%} of cihp") for f in FRACTIONS],
    "distillation": [
        ("multi + distillation", "multi"),
        ("universal + distillation", "universal, full"),
    ],
    "6": [(b, a) for a, b in zip(list(ABLATIONS)[:-1], list(ABLATIONS)[1:], strict=True)],
}


def markdown(results: Mapping[str, Scores], budget: Budget, command: str) -> str:
    """The tables: mean ± standard deviation over seeds, then paired differences."""
    lines = [
        "# SST in miniature: measured",
        "",
        f"`{command}`",
        "",
        f"{budget.preset}, {budget.steps} steps of {budget.per_domain} crops of {budget.crop_px}² "
        "per domain, from scratch; mIoU (%) over the classes present in the validation list, mean "
        "± standard deviation over seeds.",
    ]
    for title, scores in results.items():
        domains = [d for d in DOMAINS if any(d in s for by in scores.values() for s in by.values())]
        lines += [
            "",
            f"## {'Table ' * title[0].isdigit()}{title}",
            "",
            f"| arm | seeds | {' | '.join(domains)} |",
        ]
        lines += ["|---|---|" + "---|" * len(domains)]
        for arm, by_seed in scores.items():
            cells = [spread([s[d] for s in by_seed.values() if d in s]) for d in domains]
            lines.append(f"| {arm} | {len(by_seed)} | {' | '.join(cells)} |")
        lines += ["", f"| paired difference | {' | '.join(domains)} |"]
        lines += ["|---|" + "---|" * len(domains)]
        for one, other in COMPARED[title]:
            cells = [paired(scores[one], scores[other], d) for d in domains]
            lines.append(f"| {one} − {other} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def paired(
    one: Mapping[int, dict[str, float]], other: Mapping[int, dict[str, float]], d: str
) -> str:
    """Differences seed by seed."""
    return spread([one[s][d] - other[s][d] for s in one if d in one[s] and d in other.get(s, {})])


def spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation in per cent."""
    if not values:
        return "–"
    around = f" ± {100 * stdev(values):.2f}" if len(values) > 1 else ""
    return f"{100 * mean(values):.2f}{around}"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=Raw)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--tables", nargs="+", choices=list(TABLES), default=PAPERS)
    parser.add_argument("--preset", default="sst-compact", choices=sorted(PRESETS))
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--per-domain", type=int, default=4)
    parser.add_argument("--crop", type=int, default=96)
    parser.add_argument("--limit", type=int, default=0, help="validation images; 0 takes all")
    args = parser.parse_args()
    budget = Budget(args.preset, args.steps, args.per_domain, args.crop, args.limit)
    bench = Bench(write_lists(args.data, args.output / "lists"), args.output, budget)
    results: dict[str, Scores] = {}
    for seed in args.seeds:  # whole tables for the first seed before the second starts
        for title in args.tables:
            for arm, scores in TABLES[title](bench, seed).items():
                results.setdefault(title, {}).setdefault(arm, {})[seed] = scores
            told = f"sst_claim.py --seeds {' '.join(map(str, args.seeds))} --preset {args.preset} "
            told += f"--steps {args.steps} --per-domain {args.per_domain} --crop {args.crop}"
            text = json.dumps(results, indent=1) + "\n"
            write_bytes(args.output / "results.json", text.encode())
            write_bytes(args.output / "tables.md", markdown(results, budget, told).encode())
            print(f"seed {seed}, table {title} done", flush=True)


class Raw(argparse.RawDescriptionHelpFormatter):
    """Keeps the line breaks of the description."""


if __name__ == "__main__":
    main()
