"""Bundles by name, and hp-models."""

import json
from pathlib import Path

import pytest

from hp_sdk import models
from hp_sdk.bundle import (
    Artifact,
    Bundle,
    HeadSpec,
    InputSpec,
    read_bundle,
    verify_files,
    write_manifest,
)
from hp_sdk.cli.models import main
from hp_sdk.domains import load_domain
from hp_sdk.errors import ChecksumMismatch, ConfigError, ModelNotFound
from hp_sdk.files import sha256_of


def make_bundle(root: Path, heads: tuple[str, ...] = ("cihp",)) -> Path:
    root.mkdir(parents=True)
    (root / "m.onnx").write_bytes(b"model")
    artifact = Artifact(
        runtime="onnx",
        file="m.onnx",
        sha256=sha256_of(root / "m.onnx"),
        size_bytes=5,
        heads=heads,
        precision_asked="fp32",
        precision_found="fp32",
        batch_min=1,
        batch_opt=1,
        batch_max=8,
        size_hw=(64, 64),
    )
    bundle = Bundle(
        root=root,
        name=root.name,
        family="sst",
        version="1.0.0",
        license="Apache-2.0",
        card={"training": "paper dolls"},
        input=InputSpec(size_hw=(64, 64)),
        heads={name: HeadSpec(load_domain(name), f"logits.{name}") for name in heads},
        artifacts=(artifact,),
    )
    write_manifest(bundle, root)
    return root


@pytest.fixture(autouse=True)
def shipped(tmp_path, monkeypatch) -> Path:
    """A package that ships `universal` with two heads, and an empty HP_HOME."""
    monkeypatch.setenv("HP_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(models, "_SHIPPED", tmp_path / "package")
    monkeypatch.chdir(tmp_path)
    return make_bundle(tmp_path / "package" / "universal", ("cihp", "pascal"))


def test_the_shipped_bundle_and_its_heads_have_names(shipped):
    assert models.find_bundle("universal") == (shipped, None)
    assert models.find_bundle("cihp") == (shipped, "cihp")
    assert models.find_bundle("ppp") == (shipped, "pascal")


def test_a_folder_is_found_by_path_text_or_manifest(tmp_path):
    own = make_bundle(tmp_path / "own")
    for given in (own, str(own), "./own", "own", own / "bundle.json"):
        path, head = models.find_bundle(given)
        assert (path.resolve(), head) == (own, None)


def test_a_name_goes_before_a_folder_in_the_way(shipped, tmp_path):
    own = make_bundle(tmp_path / "cihp")
    assert models.find_bundle("cihp") == (shipped, "cihp")
    assert models.find_bundle("./cihp")[0].resolve() == own
    assert models.find_bundle(Path("cihp"))[0].resolve() == own


@pytest.mark.parametrize("name", ["cihp", "universal", "mine"])
def test_a_users_model_goes_before_ours_of_that_name(name, tmp_path):
    added = models.add_model(name, make_bundle(tmp_path / "own"))
    assert added == tmp_path / "home" / "models" / name
    assert models.find_bundle(name) == (added, None)


def test_an_unknown_name_is_answered_with_the_list(tmp_path):
    with pytest.raises(ModelNotFound, match="no model 'lip'; use universal, cihp, pascal"):
        models.find_bundle("lip")
    (tmp_path / "m.pth").write_bytes(b"")
    with pytest.raises(ModelNotFound, match="not the folder of a bundle"):
        models.find_bundle("m.pth")


def test_a_path_that_is_no_bundle_says_why(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"")
    with pytest.raises(ModelNotFound, match="does not exist"):
        models.find_bundle(tmp_path / "nowhere")
    with pytest.raises(ModelNotFound, match=r"holds no bundle\.json"):
        models.find_bundle(tmp_path)
    with pytest.raises(ModelNotFound, match="is a file"):
        models.find_bundle("./m.onnx")


def test_without_any_model_the_error_still_speaks(monkeypatch, tmp_path):
    monkeypatch.setattr(models, "_SHIPPED", tmp_path / "none")
    with pytest.raises(ModelNotFound, match="no model 'cihp'"):
        models.find_bundle("cihp")


def test_home_follows_the_environment(monkeypatch, tmp_path):
    assert models.home() == tmp_path / "home"
    monkeypatch.delenv("HP_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert models.home() == tmp_path / "xdg" / "hp-sdk"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert models.home() == tmp_path / ".cache" / "hp-sdk"


def test_a_damaged_bundle_is_not_added(tmp_path):
    own = make_bundle(tmp_path / "own")
    (own / "m.onnx").write_bytes(b"modeL")
    with pytest.raises(ChecksumMismatch):
        models.add_model("mine", own)
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "a b"])
def test_a_model_name_is_a_plain_word(name, tmp_path):
    with pytest.raises(ConfigError, match="no model name"):
        models.add_model(name, make_bundle(tmp_path / "own"))


def test_adding_twice_replaces_and_adding_itself_changes_nothing(tmp_path):
    added = models.add_model("mine", make_bundle(tmp_path / "one"))
    models.add_model("mine", make_bundle(tmp_path / "two"))
    assert '"two"' in (added / "bundle.json").read_text()
    assert models.add_model("mine", added) == added
    assert sorted(path.name for path in added.iterdir()) == ["bundle.json", "m.onnx"]


def test_hp_models_lists_what_there_is(tmp_path, capsys):
    models.add_model("mine", make_bundle(tmp_path / "own"))
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines] == [
        ["mine", "added", "cihp"],
        ["universal", "shipped", "cihp,", "pascal"],
    ]
    assert main(["list", "--json"]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == ["mine", "universal"]


def test_hp_models_shows_the_card_and_the_manifest(capsys):
    assert main(["show", "cihp"]) == 0
    shown = capsys.readouterr().out
    assert "training: paper dolls" in shown
    assert "pascal: background, head" in shown
    assert main(["show", "universal", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["schema"] == "1.0"


def test_hp_models_tells_the_path(shipped, capsys):
    assert main(["path", "pascal"]) == 0
    assert capsys.readouterr().out == f"{shipped}\n"


def test_hp_models_adds_verifies_and_removes(tmp_path, capsys):
    own = make_bundle(tmp_path / "own")
    assert main(["add", "mine", str(own)]) == 0
    assert main(["verify", "mine"]) == 0
    assert main(["remove", "mine"]) == 0
    assert main(["path", "mine"]) == 4
    assert "no model 'mine'" in capsys.readouterr().err


def test_hp_models_fails_in_one_line_with_the_documented_code(shipped, capsys):
    (shipped / "m.onnx").write_bytes(b"cut")
    for command, code in (
        (["path", "none"], 4),
        (["verify", "cihp"], 4),
        (["remove", "universal"], 4),
        (["add", "a/b", str(shipped)], 2),
    ):
        assert main(command) == code
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("hp-models: ")
        assert err.count("\n") == 1


def test_a_bundle_that_cannot_be_read_is_still_listed(shipped, capsys):
    (shipped / "bundle.json").write_text("{")
    assert main(["list"]) == 0
    assert "(unreadable)" in capsys.readouterr().out


def test_verify_tells_the_checksum_of_every_file(shipped, capsys):
    assert main(["verify", "universal"]) == 0
    first, last = capsys.readouterr().out.splitlines()
    assert first == f"m.onnx  sha256 {sha256_of(shipped / 'm.onnx')}"
    assert str(shipped) in last


def test_a_removed_model_is_gone_at_once_and_ours_answers_again(shipped, tmp_path):
    added = models.add_model("cihp", make_bundle(tmp_path / "own"))
    assert models.remove_model("cihp") == added
    assert models.find_bundle("cihp") == (shipped, "cihp")
    assert list(added.parent.iterdir()) == []
    with pytest.raises(ModelNotFound, match="added are: none"):
        models.remove_model("cihp")


def test_a_model_that_cannot_be_removed_stays_whole(tmp_path, monkeypatch):
    added = models.add_model("mine", make_bundle(tmp_path / "own"))

    def refuse(self, target):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(ConfigError, match=r"cannot delete .*mine.*Permission denied"):
        models.remove_model("mine")
    verify_files(read_bundle(added))
    assert [path.name for path in added.parent.iterdir()] == ["mine"]


def test_a_copy_that_breaks_off_leaves_the_older_model(tmp_path, monkeypatch):
    added = models.add_model("mine", make_bundle(tmp_path / "one"))
    other = make_bundle(tmp_path / "two")

    def full(source, target, **options):
        (Path(target) / "bundle.json").write_text("{")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copytree", full)
    with pytest.raises(ConfigError, match=r"cannot copy .*two.*No space left.*HP_HOME"):
        models.add_model("mine", other)
    assert read_bundle(added).name == "one"
    assert [path.name for path in added.parent.iterdir()] == ["mine"]


def test_links_are_copied_as_what_they_lead_to(tmp_path):
    own = make_bundle(tmp_path / "own")
    (own / "m.onnx").rename(tmp_path / "elsewhere")
    (own / "m.onnx").symlink_to(tmp_path / "elsewhere")
    added = models.add_model("mine", own)
    (tmp_path / "elsewhere").unlink()
    verify_files(read_bundle(added))


def test_another_root_holds_other_models(shipped, tmp_path, monkeypatch):
    monkeypatch.setenv("HP_HOME", str(tmp_path / "other"))
    added = models.add_model("mine", make_bundle(tmp_path / "own"))
    monkeypatch.setenv("HP_HOME", str(tmp_path / "home"))
    assert models.find_bundle("mine", root=tmp_path / "other") == (added, None)
    assert models.find_bundle("cihp", root=tmp_path / "other") == (shipped, "cihp")
    with pytest.raises(ModelNotFound, match="no model 'mine'"):
        models.find_bundle("mine")
    with pytest.raises(ModelNotFound, match="use mine, universal, cihp, pascal"):
        models.find_bundle("lip", root=tmp_path / "other")


def test_show_tells_of_windows(tmp_path, capsys):
    own = make_bundle(tmp_path / "own")
    manifest = (own / "bundle.json").read_text()
    (own / "bundle.json").write_text(manifest.replace("letterbox", "shortest-side"))
    assert main(["show", str(own)]) == 0
    assert "64 x 64, shortest-side, read through windows 32 x 32 apart" in capsys.readouterr().out
