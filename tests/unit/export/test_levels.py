"""The table of levels is llama.cpp's, names are forgiving, and file names follow the GGUF convention."""

import json
import re
import subprocess
import sys

import pytest

from core.errors import UserError
from core.export.gguf import folder_name
from core.export.levels import DEMO_LEVELS, LEVELS, OFFERED, level, parse_levels


def test_every_level_of_llama_cpp_is_there_with_its_number():
    script = "import json, llama_cpp; print(json.dumps({k: v for k, v in vars(llama_cpp).items() if k.startswith('LLAMA_FTYPE_')}))"
    listed = json.loads(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout)
    numbers = {name.removeprefix("LLAMA_FTYPE_").removeprefix("MOSTLY_").removeprefix("ALL_"): value for name, value in listed.items()}
    del numbers["GUESSED"], numbers["NVFP4"]  # neither can be asked for: one means unknown, llama-quantize does not offer the other
    assert {known.encoding: known.ftype for known in LEVELS} == numbers


def test_levels_are_unique_and_ordered_by_size_within_their_group():
    assert len({known.name.lower() for known in LEVELS}) == len(LEVELS)
    for group in ("article", "k", "iq"):
        bits = [known.bits for known in LEVELS if known.group == group]
        assert bits == sorted(bits, reverse=True)


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("Q4_0", "q4_0"),
        ("q4_k_m", "Q4_K_M"),
        ("Q4_K", "Q4_K_M"),
        (" F16 ", "f16"),
        ("iq4_xs", "IQ4_XS"),
        ("q4_k+IMATRIX", "Q4_K_M+imatrix"),
    ],
)
def test_names_are_taken_in_any_case(written, name):
    assert level(written).name == name


def test_an_unknown_level_names_the_choices():
    for wrong in ("q3_9", "q4_0+", "q4_0+matrix"):
        with pytest.raises(UserError, match=re.escape(wrong)) as refusal:
            level(wrong)
        assert "Q4_K_M" in refusal.value.remedy


def test_a_guided_level_is_another_level_only_where_a_matrix_changes_something():
    guided = level("Q4_K_M").guided
    assert (guided.name, guided.encoding, guided.is_guided, guided.ftype) == ("Q4_K_M+imatrix", "imatrix-Q4_K_M", True, 15)
    assert not level("Q4_K_M").is_guided and guided.guided == guided
    for name in ("f16", "q8_0", "IQ2_XXS", "MXFP4_MOE"):
        assert level(f"{name}+imatrix") == level(name)
    assert level("IQ2_XXS").is_guided and len({known.name for known in OFFERED}) == len(OFFERED) > len(LEVELS)


def test_a_list_of_levels_keeps_its_order_and_drops_repetitions():
    assert [known.name for known in parse_levels("q4_0,F16,Q4_0,,Q4_K_M")] == ["q4_0", "f16", "Q4_K_M"]
    assert [known.name for known in parse_levels(DEMO_LEVELS)] == list(DEMO_LEVELS)


def test_folders_are_named_by_their_level():
    assert folder_name(level("Q4_K_M")) == "gguf-q4-k-m"
    assert folder_name(level("Q4_K_M+imatrix")) == "gguf-q4-k-m-imatrix"
