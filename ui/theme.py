"""The look of the page: one theme on Gradio's theming API, and the style sheets of ``ui/css`` that it carries."""

from __future__ import annotations

from pathlib import Path

import gradio as gr
from gradio.themes.utils import sizes

CSS = Path(__file__).with_name("css")
TYPING = Path(__file__).with_name("js").joinpath("typing.js").read_text(encoding="utf-8")
HEAD = f'<meta name="color-scheme" content="light dark"><meta name="robots" content="noindex"><script>{TYPING}</script>'
# One accent, teal; greys with a little of it. White on 700 and 950 on 400 both pass WCAG AA for text (5.5 and 8.9 to 1).
ACCENT = gr.themes.Color(
    c50="#effaf8", c100="#d3f2ec", c200="#a8e4da", c300="#74cfc3", c400="#45b3a7", c500="#2a978c",
    c600="#1f7a72", c700="#17655f", c800="#17514d", c900="#174441", c950="#082826", name="accent",
)  # fmt: skip
GREY = gr.themes.Color(
    c50="#f7f8f8", c100="#eef0f0", c200="#dfe3e3", c300="#c6cccc", c400="#98a2a2", c500="#6b7676",
    c600="#525c5c", c700="#3b4444", c800="#252c2c", c900="#191f1f", c950="#111616", name="grey",
)  # fmt: skip


def theme() -> gr.themes.Base:
    """The theme: system fonts, one accent, the same shapes in the light and in the dark."""
    made = gr.themes.Base(
        primary_hue=ACCENT,
        secondary_hue=ACCENT,
        neutral_hue=GREY,
        text_size=sizes.text_md,
        spacing_size=sizes.spacing_md,
        radius_size=sizes.radius_md,
        font=("system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif"),
        font_mono=("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "DejaVu Sans Mono", "monospace"),
    ).set(
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_950",
        body_text_color="*neutral_900",
        body_text_color_dark="#e6eaea",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="#a3adad",
        background_fill_primary="white",
        background_fill_primary_dark="*neutral_900",
        background_fill_secondary="*neutral_50",
        background_fill_secondary_dark="*neutral_950",
        border_color_primary="*neutral_200",
        border_color_primary_dark="*neutral_700",
        block_background_fill="transparent",
        block_background_fill_dark="transparent",
        block_border_width="0px",
        block_shadow="none",
        block_label_background_fill="transparent",
        block_label_background_fill_dark="transparent",
        block_label_text_color="*neutral_700",
        block_label_text_color_dark="#c3cbcb",
        block_title_text_color="*neutral_900",
        block_title_text_color_dark="#e6eaea",
        block_title_text_weight="600",
        block_title_text_size="14px",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="#a3adad",
        block_info_text_size="13px",
        input_border_width="1px",
        input_background_fill="white",
        input_background_fill_dark="*neutral_950",
        input_border_color="*neutral_300",
        input_border_color_dark="*neutral_600",
        input_border_color_focus="*primary_600",
        input_border_color_focus_dark="*primary_400",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="#8b9696",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_400",
        button_primary_background_fill_hover_dark="*primary_300",
        button_primary_text_color="white",
        button_primary_text_color_dark="*primary_950",
        button_secondary_background_fill="white",
        button_secondary_background_fill_hover="*neutral_100",
        button_secondary_background_fill_dark="*neutral_800",
        button_secondary_background_fill_hover_dark="*neutral_700",
        button_secondary_border_color="*neutral_300",
        button_secondary_border_color_dark="*neutral_600",
        button_border_width="1px",
        checkbox_background_color_selected="*primary_700",
        checkbox_background_color_selected_dark="*primary_400",
        link_text_color="*primary_700",
        link_text_color_dark="*primary_300",
    )
    made.name = "transmute"
    made.custom_css = "\n".join(sheet.read_text(encoding="utf-8") for sheet in sorted(CSS.glob("*.css")))
    return made
