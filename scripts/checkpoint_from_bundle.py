"""Make a checkpoint to train on from a bundle of SST, when the one it was made from is gone.

    python scripts/checkpoint_from_bundle.py hp_sdk/bundles/universal --config CONFIG.toml -o OUT.pt
        [--batches 12] [key.sub=value ...]

CONFIG is the configuration to train with: its [model] must be the bundle's network, its [data]
gives the images on which batch norms are measured; it may have more domains than the bundle. The
checkpoint answers as the bundle does: a larger difference than 0.001 of the largest logit is an
error. See hp_export.read_back.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import torch

from hp_export.read_back import measure_norms, read_weights
from hp_sdk.backends.base import BackendOptions
from hp_sdk.backends.ort import OrtBackend
from hp_sdk.bundle import read_bundle
from hp_sdk.domains import load_domain
from hp_sdk.errors import ConfigError, HpError
from hp_trainer.checkpoint import Checkpoint, describe_network, input_description, write_checkpoint
from hp_trainer.config import load_config
from hp_trainer.data import configured_path, open_batches
from hp_trainer.models.sst import SST, SSTConfig, normalise

TOLERANCE = 1e-3


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--batches", type=int, default=12, help="images of so many batches")
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value")
    args = parser.parse_intermixed_args()
    try:
        print(convert(args), flush=True)
    except HpError as exc:
        sys.exit(f"checkpoint_from_bundle: {exc}")


@torch.no_grad()
def convert(args: argparse.Namespace) -> str:
    """Read, measure, compare, write; says how far the answers lie apart."""
    bundle, config = read_bundle(args.bundle), load_config(args.config, args.overrides)
    artifact = next((a for a in bundle.artifacts if a.precision_found == "fp32"), None)
    if artifact is None or not isinstance(config.model, SSTConfig):
        raise ConfigError("a bundle of SST with a float32 artifact and its preset are needed")
    domains = tuple(head.domain for head in bundle.heads.values())
    net, path = SST(config.model, domains).eval(), bundle.root / artifact.file
    read_weights(path, net, artifact.size_hw)
    labelled = tuple(load_domain(configured_path(name)) for name in config.domains)
    loader = open_batches(config.data, labelled, seed=config.train.seed, start=0)
    batches = itertools.islice(loader, args.batches)
    measure_norms(net, (normalise(batch.images) for batch in batches))
    picture = np.random.default_rng(0).integers(0, 256, (1, *artifact.size_hw, 3)).astype(np.uint8)
    with closing(OrtBackend(path, BackendOptions(device="cpu"))) as backend:
        wanted = {name: np.array(values) for name, values in backend.run(picture).items()}
    found = net(normalise(torch.from_numpy(picture)))
    apart = max(
        float(np.abs(found[name].numpy() - wanted[f"logits.{name}"]).max()) for name in found
    )
    largest = max(float(np.abs(values).max()) for values in wanted.values())
    if not apart <= TOLERANCE * largest:
        raise ConfigError(f"the network answers otherwise than the bundle, by {apart:.2g}")
    family, described = describe_network(net)
    checkpoint = Checkpoint(
        family=family,
        config=described,
        domains=domains,
        model=net.state_dict(),
        input=input_description(bundle.input.size_hw, bundle.input.resize),
    )
    write_checkpoint(args.output, checkpoint)
    return f"{args.output}: logits at most {apart:.2g} from the bundle's, of {largest:.3g}"


if __name__ == "__main__":
    main()
