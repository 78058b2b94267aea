"""What the licence of a base model asks of whoever publishes a fine-tune of it, in words. No legal advice: it names what to read."""

from __future__ import annotations

# By the beginning of the Hub's identifier, https://huggingface.co/docs/hub/repositories-licenses (read 2026-11-27). The first that fits wins.
TERMS = (
    ("cc-by-nc", "it forbids commercial use, and so does what you publish"),
    ("cc-by-sa", "what is made from it is published under the same licence"),
    ("cc-by-nd", "it forbids the publication of what is made from it"),
    ("llama2", "Meta's agreement: pass its text on, keep its use policy, and ask Meta above 700 million monthly users"),
    ("llama", "Meta's agreement: pass its text on, keep its use policy, say \"Built with Llama\" and begin the model's name with Llama"),
    ("gemma", "Google's terms: pass them and their prohibited uses on to whoever gets the model"),
    ("agpl", "what is made from it is published under the same licence"),
    ("gpl", "what is made from it is published under the same licence"),
    ("bigscience", "its limits of use are passed on"),
    ("openrail", "its limits of use are passed on"),
    ("creativeml", "its limits of use are passed on"),
)


def terms(license: str, license_name: str = "") -> str:
    """A sentence on what is inherited; empty for a licence that asks for no more than to be named, and for an unknown one."""
    if license == "other":
        named = f"a licence of its own ({license_name})" if license_name else "a licence of its own"
        return f"The base model is under {named}: read it before you publish, and name it in the card."
    asked = next((said for beginning, said in TERMS if license.lower().startswith(beginning)), "")
    return f"The base model's licence is {license}: {asked}." if asked else ""
