"""The converter comes from a pinned archive, only its own files are written, and what it refuses is said in words."""

import io
import tarfile
from importlib.metadata import version

import pytest

from core.errors import UserError
from core.export import converter
from core.export.convert_child import explain

ROOT = "llama_cpp_python-0.3.36"


def archive(path, members):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            if content is None:
                member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
                tar.addfile(member)
            else:
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return path


def test_only_the_wanted_regular_files_are_unpacked(tmp_path):
    inside = f"{ROOT}/vendor/llama.cpp/"
    packed = archive(
        tmp_path / "source.tar.gz",
        {
            inside + "convert_hf_to_gguf.py": b"script",
            inside + "conversion/llama.py": b"llama",
            inside + "gguf-py/gguf/__init__.py": b"gguf",
            inside + "conversion/../../../escaped.py": b"bad",
            inside + "conversion/link.py": None,
            inside + "src/llama.cpp": b"not needed",
            "/vendor/llama.cpp/conversion/absolute.py": b"fine, lands inside",
        },
    )
    target = tmp_path / "target"
    target.mkdir()
    converter._extract(packed, target)
    found = sorted(path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file())
    assert found == ["conversion/absolute.py", "conversion/llama.py", "convert_hf_to_gguf.py", "gguf-py/gguf/__init__.py"]
    assert not any(path.is_symlink() for path in target.rglob("*")) and not (tmp_path / "escaped.py").exists()


def test_a_checkout_named_by_the_environment_is_used_and_a_wrong_one_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("LLAMA_CPP_DIR", str(tmp_path))
    with pytest.raises(UserError, match=r"no convert_hf_to_gguf\.py"):
        converter.converter_dir()
    (tmp_path / "convert_hf_to_gguf.py").touch()
    assert converter.converter_dir() == tmp_path


def test_what_is_in_the_cache_is_not_downloaded_again(workspace, monkeypatch):
    monkeypatch.delenv("LLAMA_CPP_DIR", raising=False)
    monkeypatch.setattr(converter, "download_source", lambda _folder: pytest.fail("it was downloaded"))
    cached = workspace / "cache" / f"llama.cpp-{converter.VERSION}"
    cached.mkdir(parents=True)
    (cached / "convert_hf_to_gguf.py").touch()
    assert converter.converter_dir() == cached


def test_without_network_the_download_says_what_to_do_and_leaves_nothing(workspace, monkeypatch):
    monkeypatch.delenv("LLAMA_CPP_DIR", raising=False)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(workspace))
    with pytest.raises(UserError, match="could not be downloaded") as refusal:
        converter.converter_dir()
    assert refusal.value.code == "NET" and "LLAMA_CPP_DIR" in refusal.value.remedy
    assert [path.name for path in (workspace / "cache").iterdir()] == [f"llama.cpp-{converter.VERSION}.lock"]


def test_the_pinned_version_is_the_installed_one():
    assert version("llama-cpp-python") == converter.VERSION


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("BPE pre-tokenizer was not recognized - update get_vocab_base_pre()", "TOKENIZER"),
        ("Model FancyForCausalLM is not supported", "ARCHITECTURE"),
        ("Architecture 'FancyForCausalLM' not supported!", "ARCHITECTURE"),
        ("Can not map tensor 'model.strange.weight'", "CONVERT"),
        ("Quant method is not yet supported: 'awq'", "QUANTISED"),
        ("The repository contains custom code which must be executed; pass trust_remote_code=True", "TOKENIZER"),
        ("lm_head is present in adapter, but is ignored in base model", "HEAD"),
        ("Missing or incomplete model files: ['model-00002-of-00002.safetensors']", "FILES"),
        ("File not found: tokenizer.model", "FILES"),
        ("something nobody foresaw", "CONVERT"),
    ],
)
def test_refusals_of_the_converter_are_told_apart(said, code):
    assert explain(said, "a model").code == code
