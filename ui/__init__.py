"""The page: Gradio lives here only. It reads what the engine wrote to disk and starts runs; it never imports torch."""
