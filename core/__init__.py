"""Transmute's engine: dataset, recipe, run, artifact, chat, publish. No gradio; importing a module here is cheap."""

__version__ = "0.1.0"
