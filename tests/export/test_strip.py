"""What ships and what stays behind."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hp_export import strip as strip_module
from hp_export.census import read_onnx
from hp_export.strip import (
    bare_network,
    check_same_logits,
    choose_heads,
    strip,
    strip_file,
    strip_report,
)
from hp_export.write import ExportReport, export_bundle
from hp_sdk.errors import (
    ConfigError,
    CorruptArtifact,
    ModelNotFound,
    UnknownHead,
    VerificationFailed,
)
from hp_trainer.checkpoint import Checkpoint, read_checkpoint
from hp_trainer.training_model import SSTTraining


def test_stripping_changes_no_logit(training: SSTTraining, checkpoint: Checkpoint) -> None:
    bare = bare_network(strip(checkpoint))
    image = torch.randn(2, 3, 64, 64)
    training.eval()
    with torch.inference_mode():
        expected, found = training.net(image), bare(image)
    training.train()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_the_proof_of_equal_logits_notices_the_smallest_change(checkpoint: Checkpoint) -> None:
    network, other = bare_network(checkpoint), bare_network(checkpoint)
    check_same_logits(network, other)
    with torch.no_grad():
        other.get_parameter("heads.cihp.bias")[3].mul_(1.0001)
    with pytest.raises(VerificationFailed, match="cihp"):
        check_same_logits(network, other)


def test_a_stripped_checkpoint_holds_no_auxiliary_module_and_no_optimiser(
    checkpoint: Checkpoint,
) -> None:
    stripped = strip(checkpoint)
    assert stripped.aux is None
    assert stripped.train == {"step": 7}
    assert not [key for key in stripped.model if "aux" in key]


def test_the_report_names_every_auxiliary_module_with_its_parameters(
    training: SSTTraining, checkpoint: Checkpoint
) -> None:
    left = {part.name: part for part in strip_report(checkpoint).left_behind}
    assert left.keys() == {
        "aux.msa.pascal",
        "aux.msa.cihp",
        "aux.mse.pascal",
        "aux.mse.cihp",
        "aux.mst.pascal__cihp",
        "train",
    }
    for name in left.keys() - {"train"}:
        module = training.get_submodule(name)
        assert left[name].parameters == sum(p.numel() for p in module.parameters())
    assert left["train"].size_bytes == 4000


def test_the_report_counts_every_tensor_once(checkpoint: Checkpoint) -> None:
    report = strip_report(checkpoint)
    assert [part.name for part in report.ships] == ["backbone", "encoder", "decoder", "heads"]
    assert sum(part.tensors for part in report.ships) == len(checkpoint.model)
    assert sum(part.parameters for part in report.ships) == sum(
        tensor.numel() for tensor in checkpoint.model.values()
    )


def test_the_report_says_what_there_was_before_and_what_is_left(checkpoint: Checkpoint) -> None:
    report = strip_report(checkpoint)
    told = report.to_dict()
    assert told["after"]["parameters"] == sum(t.numel() for t in checkpoint.model.values())
    assert told["before"]["bytes"] - told["after"]["bytes"] == report.left_bytes > 0


def test_the_file_shrinks_by_what_stays_behind(checkpoint_file: Path, tmp_path: Path) -> None:
    target = tmp_path / "new" / "bare.pt"
    report = strip_file(checkpoint_file, target)
    saved = checkpoint_file.stat().st_size - target.stat().st_size
    assert saved >= report.left_bytes > 100_000
    assert list(target.parent.iterdir()) == [target]


def test_stripping_twice_changes_nothing_more(checkpoint_file: Path, tmp_path: Path) -> None:
    strip_file(checkpoint_file, tmp_path / "once.pt")
    report = strip_file(tmp_path / "once.pt", tmp_path / "twice.pt")
    assert report.left_behind == ()
    once, twice = (read_checkpoint(tmp_path / name) for name in ("once.pt", "twice.pt"))
    assert all(torch.equal(once.model[key], twice.model[key]) for key in once.model)


def test_nothing_is_written_if_a_logit_changed(
    checkpoint_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def careless(checkpoint: Checkpoint) -> Checkpoint:
        model = {key: value * 1.01 for key, value in checkpoint.model.items()}
        return replace(strip(checkpoint), model=model)

    monkeypatch.setattr(strip_module, "strip", careless)
    with pytest.raises(VerificationFailed, match="nothing was written"):
        strip_file(checkpoint_file, tmp_path / "bare.pt")
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_for_another_core_is_rebuilt_with_the_exportable_one(
    checkpoint: Checkpoint,
) -> None:
    gather = replace(checkpoint, config=checkpoint.config | {"deform": "gather"})
    check_same_logits(bare_network(checkpoint), bare_network(gather))
    assert gather.config["deform"] == "gather"


def test_weights_that_do_not_fit_are_refused(checkpoint: Checkpoint) -> None:
    wider = replace(checkpoint, config=checkpoint.config | {"width": 64})
    with pytest.raises(CorruptArtifact, match="do not fit the sst network"):
        bare_network(wider)


def test_a_head_that_is_not_there_is_refused_by_name(checkpoint: Checkpoint) -> None:
    with pytest.raises(UnknownHead, match="no head 'atr'; it has pascal, cihp"):
        choose_heads(checkpoint, ["cihp", "atr"])


def test_heads_keep_the_order_in_which_they_were_asked_for(checkpoint: Checkpoint) -> None:
    assert choose_heads(checkpoint, ["cihp", "pascal", "cihp"]) == ("cihp", "pascal")
    assert choose_heads(checkpoint) == ("pascal", "cihp")


def test_a_missing_or_truncated_checkpoint_is_refused(
    checkpoint_file: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelNotFound):
        strip_file(tmp_path / "nowhere.pt", tmp_path / "bare.pt")
    broken = tmp_path / "broken.pt"
    broken.write_bytes(checkpoint_file.read_bytes()[:-1000])
    with pytest.raises(CorruptArtifact):
        strip_file(broken, tmp_path / "bare.pt")


def test_a_folder_that_cannot_be_written_is_named(checkpoint_file: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match="cannot write"):
        strip_file(checkpoint_file, tmp_path / "file" / "bare.pt")


def test_auxiliary_modules_cost_nothing_at_inference(
    checkpoint: Checkpoint, exported: ExportReport, tmp_path: Path
) -> None:
    """The graph of an SST checkpoint and of one trained without them, node for node."""
    plain = export_bundle(replace(checkpoint, aux=None), tmp_path / "plain")
    graphs = [
        read_onnx(report.bundle.root / "model.fp32.onnx").graph for report in (exported, plain)
    ]
    with_aux, without = (
        [node.SerializeToString(deterministic=True) for node in graph.node] for graph in graphs
    )
    assert len(with_aux) > 100
    assert with_aux == without
    assert [t.name for t in graphs[0].initializer] == [t.name for t in graphs[1].initializer]
