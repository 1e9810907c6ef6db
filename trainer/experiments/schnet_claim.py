"""The claim of SCHNet, tested in miniature on real photographs: SRM and FTM, Table 6 of the paper.

    python trainer/experiments/schnet_claim.py --data DATA --output runs/schnet_claim --seeds 1 2 3

DATA holds pascal_person_part/ and ccp/ in the neutral layout; cihp is derived from the garment tags
of half of ccp's photographs. Nobody publishes SAM or CLIP at the size of `schnet-small`, so two
encoders are trained first, on paper dolls labelled in other domains, and then take the places of
the published ones: frozen but for SAM's patch embedding, as in the paper. The four arms (neither,
SRM, FTM, both) start from the same weights and see the same crops. Started again, it goes on:
finished runs are read, an interrupted one is resumed. Results: results.json and tables.md in
--output.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from sst_claim import (  # pyright: ignore[reportMissingImports] (it lies beside this file)
    BySeed,
    Raw,
    Scores,
    finish,
    paired,
    spread,
    write_lists,
)

from hp_sdk.domains import load_domain
from hp_sdk.files import write_bytes
from hp_trainer.augment import AugmentConfig
from hp_trainer.checkpoint import Checkpoint, describe_network, read_checkpoint, write_checkpoint
from hp_trainer.config import Config, EvalConfig, TrainConfig
from hp_trainer.data import DataConfig, SetConfig
from hp_trainer.loop import train
from hp_trainer.models.schnet.schnet import PRESETS, SCHNet, SCHNetConfig
from hp_trainer.schnet_training import SCHNetTrainConfig

DOMAINS = ("pascal", "cihp")
FOUNDATION_DOMAINS = ("atr", "ccp")
"""What the dolls are labelled in that the two encoders are trained on."""

WITHOUT_CLIP = {"use_clip": False, "use_srm": False}
ARMS: dict[str, dict[str, bool]] = {
    "neither": {**WITHOUT_CLIP, "use_ftm": False},
    "SRM": {"use_ftm": False},
    "FTM": WITHOUT_CLIP,
    "SRM + FTM": {},
}
COMPARED = [("SRM", "neither"), ("FTM", "neither"), ("SRM + FTM", "SRM"), ("SRM + FTM", "neither")]


@dataclass(frozen=True, slots=True)
class Budget:
    """What one arm may spend, and what each encoder may before."""

    preset: str
    steps: int
    foundation_steps: int
    batch: int
    crop_px: int
    limit: int
    amp: str


@dataclass(frozen=True, slots=True)
class Bench:
    """Where the photographs lie, where the runs go, and the budget."""

    lists: Path
    output: Path
    budget: Budget

    def run(self, arm: str, domain: str, seed: int) -> dict[str, float]:
        """Mean IoU over the classes present, of one arm on one domain."""
        network = replace(self._frozen(), **ARMS[arm])
        init = self.output / "foundation" / f"{domain}.seed{seed}.pt"
        if not init.exists():
            self._write_init(init, domain, seed)
        config = self._config(network, (domain,), self._photos(domain), seed)
        entry = EvalConfig(str(self.lists / domain), domain, limit=self.budget.limit)
        config = replace(
            config, validate=(entry,), train=replace(config.train, init=str(init), seed=seed)
        )
        name = f"{domain}.{'_'.join(arm.lower().split(' + '))}.seed{seed}"
        return finish(config, self.output / "runs" / name)

    def foundation(self) -> dict[str, Path]:
        """Checkpoints of two networks on dolls; their trunks are the SAM and CLIP of all arms."""
        small, bare = PRESETS[self.budget.preset], {"use_srm": False, "use_ftm": False}
        trunks = {
            "sam": {"use_clip": False, "trainable": ("sam",)},
            "clip": {"use_sam": False, "trainable": ("clip",), "adapter_heads": 4},
        }
        found = {}
        for name, changes in trunks.items():
            network = replace(small, **bare, **changes)  # type: ignore[arg-type]
            folder = self.output / "foundation" / name
            dolls = SetConfig(dolls=4000, size_hw=(self._around_px, self._around_px))
            config = self._config(network, FOUNDATION_DOMAINS, dolls, seed=0)
            config = replace(
                config, train=replace(config.train, steps=self.budget.foundation_steps)
            )
            last = folder / "last.pt"
            found[name] = train(config, folder, resume=last if last.exists() else None)
        return found

    def _frozen(self) -> SCHNetConfig:
        return replace(PRESETS[self.budget.preset], trainable=("sam.patch_embed",))

    def _write_init(self, path: Path, domain: str, seed: int) -> None:
        """The whole network, random but for its encoders: what every arm starts from."""
        torch.manual_seed(seed)
        net = SCHNet(self._frozen(), [load_domain(domain)])
        for name, file in self.foundation().items():
            weights = read_checkpoint(file).model
            own = {k: v for k, v in weights.items() if k.startswith(f"{name}.")}
            assert own, f"{file} holds no {name}"
            net.load_state_dict(own, strict=False)
        family, config = describe_network(net)
        write_checkpoint(path, Checkpoint(family, config, net.domains, net.state_dict()))

    def _config(
        self, network: SCHNetConfig, domains: tuple[str, ...], photos: SetConfig, seed: int
    ) -> Config:
        budget = self.budget
        augment = AugmentConfig(
            crop_hw=(budget.crop_px, budget.crop_px),
            nominal_px=round(1.35 * budget.crop_px),
            scale=(0.7, 1.4),
            keep_ratio=True,
            person_crop=0.7,
            photometric=True,
        )
        return Config(
            domains=domains,
            preset=budget.preset,
            model=network,
            schnet=SCHNetTrainConfig(loss_stride=2, fcn_width=64, random_foundation=True),
            data=DataConfig((photos,), augment, batch=budget.batch, workers=1),
            train=TrainConfig(
                steps=budget.steps,
                lr=1e-3,
                warmup=budget.steps // 20,
                warmup_ratio=1e-5,
                schedule="poly",
                clip=5.0,
                ema=0.99,
                amp=budget.amp,
                seed=seed,
                save_every=200,
                samples=0,
                input_hw=(self._around_px, self._around_px),
            ),
        )

    def _photos(self, domain: str) -> SetConfig:
        root = str(self.lists / domain)
        return SetConfig(root=root, labels={domain: "labels"}, cache_px=2 * self.budget.crop_px)

    @property
    def _around_px(self) -> int:
        return round(1.35 * self.budget.crop_px / 32) * 32


def markdown(scores: Scores, budget: Budget, command: str) -> str:
    """Mean ± standard deviation over seeds, then paired differences."""
    lines = [
        "# SCHNet in miniature: measured",
        "",
        f"`{command}`",
        "",
        f"{budget.preset}, one network per domain, {budget.steps} steps of {budget.batch} crops of "
        f"{budget.crop_px}²; mIoU (%) over the classes present in the validation list, mean ± "
        f"standard deviation over seeds. SAM and CLIP are stand-ins of that size, trained for "
        f"{budget.foundation_steps} steps on paper dolls and frozen. The one for CLIP has seen no "
        "text and its class vector no training, so SRM is tested as retrieval of a second "
        "encoder's maps; that its gate knows the image is not.",
        "",
        "## Table 6",
        "",
        f"| arm | seeds | {' | '.join(DOMAINS)} |",
        "|---|---|" + "---|" * len(DOMAINS),
    ]
    for arm, by_seed in scores.items():
        cells = [spread([s[d] for s in by_seed.values() if d in s]) for d in DOMAINS]
        lines.append(f"| {arm} | {len(by_seed)} | {' | '.join(cells)} |")
    lines += ["", f"| paired difference | {' | '.join(DOMAINS)} |"]
    lines += ["|---|" + "---|" * len(DOMAINS)]
    for one, other in COMPARED:
        cells = [paired(_of(scores, one), _of(scores, other), d) for d in DOMAINS]
        lines.append(f"| {one} − {other} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _of(scores: Mapping[str, BySeed], arm: str) -> BySeed:
    return scores.get(arm, {})


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=Raw)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--preset", default="schnet-small", choices=["schnet-small", "schnet-tiny"])
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--foundation-steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--crop", type=int, default=96)
    parser.add_argument("--limit", type=int, default=0, help="validation images; 0 takes all")
    parser.add_argument("--amp", default="off", choices=["off", "bf16"])
    args = parser.parse_args()
    budget = Budget(
        args.preset, args.steps, args.foundation_steps, args.batch, args.crop, args.limit, args.amp
    )
    bench = Bench(write_lists(args.data, args.output / "lists"), args.output, budget)
    told = f"schnet_claim.py --seeds {' '.join(map(str, args.seeds))} --preset {args.preset} "
    told += f"--steps {args.steps} --foundation-steps {args.foundation_steps} "
    told += f"--batch {args.batch} --crop {args.crop} --amp {args.amp}"
    scores: Scores = {}
    for seed in args.seeds:  # whole tables for the first seed before the second starts
        for domain in DOMAINS:
            for arm in ARMS:
                kept = scores.setdefault(arm, {}).setdefault(seed, {})
                kept |= bench.run(arm, domain, seed)
            write_bytes(
                args.output / "results.json", (json.dumps(scores, indent=1) + "\n").encode()
            )
            write_bytes(args.output / "tables.md", markdown(scores, budget, told).encode())
            print(f"seed {seed}, {domain} done", flush=True)


if __name__ == "__main__":
    main()
