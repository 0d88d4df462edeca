"""How the studio looks: one theme for light and dark, its styles, and the page's small script.

Fonts are the system's own or files of the page itself: nothing is fetched from elsewhere.
"""


import gradio as gr

from engine.base.files import resource
from studio.figures.theme import STYLE as FIGURE_STYLE

ASSETS = resource("assets")
ICON = ASSETS / "icon.png"
# Of the page, then of the rooms; what comes later wins.
STYLES = ("studio", "draft", "export", "chats", "compare", "prune", "writing", "cast", "verdict")
_EMBER = gr.themes.Color(
    name="ember", c50="#fff6ee", c100="#ffe8d3", c200="#fdcda5", c300="#f9ab6d", c400="#f28a3c", c500="#e06c1f", c600="#c05414",
    c700="#983f11", c800="#733114", c900="#4d2310", c950="#2b1208")
_SLATE = gr.themes.Color(
    name="slate", c50="#f8f7f5", c100="#efedea", c200="#dfdcd7", c300="#c5c1ba", c400="#96918a", c500="#6f6a64", c600="#55514c",
    c700="#3b3835", c800="#272523", c900="#1b1a19", c950="#121110")


def make_theme() -> gr.themes.Base:
    """Warm accent on quiet grey; buttons and fields with room around them."""
    fonts = ("ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
    theme = gr.themes.Base(primary_hue=_EMBER, secondary_hue=_EMBER, neutral_hue=_SLATE, radius_size=gr.themes.sizes.radius_md,
                           spacing_size=gr.themes.sizes.spacing_md, font=fonts,
                           font_mono=("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"))
    return theme.set(
        body_text_color_subdued="*neutral_500", body_text_color_subdued_dark="*neutral_400",
        body_background_fill="*neutral_50", body_background_fill_dark="*neutral_950",
        block_background_fill="white", block_background_fill_dark="*neutral_900",
        block_border_width="1px", block_label_background_fill="transparent", block_label_background_fill_dark="transparent",
        block_title_text_weight="600", input_background_fill="*neutral_50", input_background_fill_dark="*neutral_800",
        button_primary_background_fill="*primary_600", button_primary_background_fill_dark="*primary_600",
        button_primary_background_fill_hover="*primary_700", button_primary_background_fill_hover_dark="*primary_500",
        button_primary_text_color="white", button_primary_text_color_dark="white")


def styles() -> str:
    """The studio's CSS, that of the figures included."""
    return "".join((ASSETS / f"{name}.css").read_text(encoding="utf-8") for name in STYLES) + FIGURE_STYLE


def script() -> str:
    """The head of the page: keyboard, address, and what the forms of the draft room share."""
    names = ("studio.js", "palette.js", "draft_forms.js")
    return "".join(f"<script>{(ASSETS / name).read_text(encoding='utf-8')}</script>" for name in names)
