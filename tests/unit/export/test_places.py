"""Where levels are written: another model's are not taken for this one's, and nobody's own files are lost."""

import shutil

import pytest

from core.errors import UserError
from core.export import artifacts, converter, gguf
from core.export.artifacts import Artifact
from core.export.levels import level
from tests.unit.export.gguf_files import GOOD


@pytest.fixture
def making(monkeypatch, workspace):
    """`gguf.make_gguf` with a converter and a quantiser that only write files; the calls of the converter."""
    converted = []

    def convert(model_dir, file, *, dtype, **_options):
        converted.append(model_dir)
        file.write_bytes(GOOD)
        return ("f16", "float16 holds every weight") if dtype == "auto" else (dtype, "it was asked for")

    def quantise(source, outputs, *, on_done, **_options):
        for name, file in outputs.items():
            file.write_bytes(source.read_bytes())
            on_done(name, file)

    monkeypatch.setattr(converter, "convert", convert)
    monkeypatch.setattr(converter, "expected_bytes", lambda *_: 1000)
    monkeypatch.setattr(converter, "num_parameters", lambda _: 1000)
    monkeypatch.setattr(gguf, "gguf_metadata", lambda _: {})
    monkeypatch.setattr(gguf, "quantise", quantise)
    return converted


def model(folder, weights=b"a"):
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(weights * 10**6)
    return Artifact(id=str(folder), kind="merged", name=folder.name, folder=folder)


def test_levels_of_another_model_are_not_returned_as_this_ones(making, tmp_path):
    one, other = model(tmp_path / "one"), model(tmp_path / "other", b"b")
    first = gguf.make_gguf(one, ["q4_0"], tmp_path / "out")
    for ask in (lambda: gguf.make_gguf(other, ["q4_0"], tmp_path / "out"), lambda: gguf.float_file(other, tmp_path / "out")):
        with pytest.raises(UserError, match="made from another model") as refusal:
            ask()
        assert refusal.value.code == "OTHER"
    assert gguf.make_gguf(one, ["q4_0"], tmp_path / "out") == first and making == [one.folder]


def test_a_level_is_made_anew_when_it_is_to_come_from_another_float_format(making, tmp_path):
    one, out = model(tmp_path / "one"), tmp_path / "out"

    def ask(intermediate=None):
        return gguf.make_gguf(one, ["q4_0"], out, intermediate=intermediate)[0].float_level

    assert (ask(), ask("f32"), ask(), ask("f32"), ask("f16")) == ("f16", "f32", "f32", "f32", "f16")
    assert len(making) == 2 and {path.name for path in out.iterdir()} == {"gguf-f16", "gguf-f32", "gguf-q4-0"}
    reasons = [artifacts.read(out / name).float_reason for name in ("gguf-f16", "gguf-f32", "gguf-q4-0")]
    assert reasons == ["float16 holds every weight", "it was asked for", ""]


def test_float_levels_alone_need_no_other_float_file(making, tmp_path):
    assert [made.level for made in gguf.make_gguf(model(tmp_path / "one"), ["f32"], tmp_path / "out")] == ["f32"] and len(making) == 1


def test_what_somebody_finishes_while_one_waits_is_not_made_again(making, monkeypatch, tmp_path):
    one, out, only_writer = model(tmp_path / "one"), tmp_path / "out", artifacts.only_writer

    def late(target):
        monkeypatch.setattr(artifacts, "only_writer", only_writer)
        gguf.make_gguf(one, ["q4_0"], out)
        return only_writer(target)

    for ask in (lambda: gguf.make_gguf(one, ["q4_0"], out), lambda: gguf.float_file(one, out)):
        monkeypatch.setattr(artifacts, "only_writer", late)
        ask()
        assert making == [one.folder]
        making.clear()
        shutil.rmtree(out)


def test_a_folder_that_somebody_writes_in_is_refused_and_served_when_it_is_free(making, tmp_path):
    one, out = model(tmp_path / "one"), tmp_path / "out"
    with artifacts.only_writer(out), pytest.raises(UserError, match="being written") as refusal:
        gguf.make_gguf(one, ["q4_0"], out)
    assert refusal.value.code == "BUSY" and not making and not list(out.iterdir())
    assert gguf.make_gguf(one, ["q4_0"], out)[0].level == "q4_0"


@pytest.mark.parametrize("name", ["gguf-f16", "gguf-q4-0"])
def test_a_folder_of_somebody_elses_files_where_a_level_belongs_is_refused(name, making, tmp_path):
    kept = tmp_path / "out" / name / "thesis.txt"
    kept.parent.mkdir(parents=True)
    kept.write_text("mine")
    with pytest.raises(UserError, match="would be lost"):
        gguf.make_gguf(model(tmp_path / "one"), ["q4_0"], tmp_path / "out")
    assert kept.read_text() == "mine" and not making


def test_folders_with_the_names_of_steps_stay_and_what_a_killed_process_left_goes(making, tmp_path):
    out = tmp_path / "out"
    for name in ("converting", "converting.partial", "quantising.partial", f"{gguf.WORKSHOP}left"):
        (out / name).mkdir(parents=True)
        (out / name / "file").write_text("mine")
    gguf.make_gguf(model(tmp_path / "one"), ["q4_0"], out)
    assert {path.name for path in out.iterdir()} == {"converting", "converting.partial", "quantising.partial", "gguf-f16", "gguf-q4-0"}
    assert artifacts.read(out / gguf.folder_name(level("q4_0"))).made_from


def test_a_wrong_importance_matrix_is_refused_before_anything_is_converted(making, tmp_path):
    (tmp_path / "no.gguf").write_bytes(GOOD)
    for name, words in (("no.gguf", "no importance matrix"), ("missing.gguf", "There is no importance matrix")):
        with pytest.raises(UserError, match=words) as refusal:
            gguf.make_gguf(model(tmp_path / f"for-{name}"), ["q4_0+imatrix"], tmp_path / "out", imatrix=tmp_path / name)
        assert refusal.value.code == "IMATRIX" and not making


def test_a_file_in_the_place_of_the_folder_is_refused_in_words(making, tmp_path):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match="cannot be written to"):
            gguf.make_gguf(model(tmp_path / f"m-{out.name}"), ["q4_0"], out)
        with pytest.raises(UserError, match="cannot be written to"):
            gguf.adapter_file(Artifact(id="a", kind="adapter", name="a", folder=tmp_path / "a"), out)
