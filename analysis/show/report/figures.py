"""Figures as part of the page: drawn for a desk and for a phone, in colours of the page that suit light and dark."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Mapping

import markupsafe
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

from analysis.show import plots
from analysis.show.plots.narrow import narrow
from analysis.show.plots.style import GRID, INK, MUTED

PAGE = {INK: "var(--ink)", MUTED: "var(--edge)", GRID: "var(--line)", "#ffffff": "var(--paper)"}
LIGHT, DARK = "#ffffff", "#16161a"  # the paper in both schemes
CONTRAST = 3.0  # of a line against the paper (WCAG 2.2, 1.4.11)
DPI = 104  # at which a figure is shown on a desk, and so the pixels of what is drawn as a picture


def drawn(figures: Mapping[str, Mapping[str, Figure]]) -> dict[str, dict[str, markupsafe.Markup]]:
    """Every figure twice, the second laid out for a phone: data set -> name -> HTML. The figures are changed."""
    page: dict[str, dict[str, markupsafe.Markup]] = {}
    for dataset, own in figures.items():
        page[dataset] = {}
        for key, figure in own.items():
            name = f"{dataset}-{key}"
            title = figure.get_suptitle()
            wide = _inline(plots.render(figure, "svg", name, dpi=DPI), name, title, "wide")
            narrow(figure)
            slim = _inline(plots.render(figure, "svg", name, dpi=DPI), f"{name}-narrow", title, "narrow")
            page[dataset][key] = wide + slim
    return page


def palette(page: Iterable[str]) -> str:
    """The style sheet of the colours that figures use beside those of the page, each with enough contrast."""
    used = sorted({name for text in page for name in re.findall(r"var\(--c([0-9a-f]{6})\)", text)})
    if not used:
        return ""
    light = " ".join(f"--c{name}: {_adapted(f'#{name}', LIGHT)};" for name in used)
    dark = " ".join(f"--c{name}: {_adapted(f'#{name}', DARK)};" for name in used)
    print_ = f"@media print {{ :root {{ {light} }} }}"
    return f":root {{ {light} }}\n@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n{print_}"


def contrast(one: str, two: str) -> float:
    """Contrast of two colours (WCAG 2.2, relative luminance): 1 to 21."""
    light, dark = sorted((_luminance(one), _luminance(two)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour: str) -> float:
    parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


def _adapted(colour: str, paper: str) -> str:
    """The nearest mixture with black or white that has enough contrast."""
    towards, (red, green, blue) = 0.0 if paper == LIGHT else 1.0, to_rgb(colour)

    def mixed(share: float) -> str:
        keep, add = 1 - share, share * towards
        return to_hex((keep * red + add, keep * green + add, keep * blue + add))

    return next(found for step in range(21) if contrast(found := mixed(step / 20), paper) >= CONTRAST)


def _variable(match: re.Match[str]) -> str:
    colour = match.group(0).lower()
    return PAGE.get(colour, f"var(--c{colour[1:]})")


def _inline(svg: bytes, name: str, title: str, kind: str) -> markupsafe.Markup:
    """An SVG as part of the page: no prologue or metadata, ids and colours of its own, tenths of a point."""
    text = svg.decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<style[^>]*>.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r'\s(xmlns(:xlink)?|version)="[^"]*"', "", text)
    mark = f"f{zlib.crc32(name.encode()):08x}"  # ids are of the page, which holds many figures
    text = re.sub(r" ?font-family: [^;\"]*;?", "", text)
    text = re.sub(r' transform="rotate\(-0 [^"]*"', "", text)
    text = re.sub(r'\bid="', f'id="{mark}-', text)
    text = re.sub(r"url\(#", f"url(#{mark}-", text)
    text = re.sub(r'xlink:href="#', f'href="#{mark}-', text)
    text = re.sub(r"#[0-9a-fA-F]{6}\b", _variable, text)
    text = re.sub(r' (?:d|x|y|transform)="[^"]*"', lambda m: re.sub(r"(\.\d)\d+", r"\1", m.group(0)), text)
    text = re.sub(r"\s*\n\s*", " ", text).replace("> <", "><")
    text = re.sub(r' d="[^"]*"', lambda m: m.group(0).replace(" L ", "L"), text)
    used = set(re.findall(r'(?:url\(#|href="#)([^")]+)', text))
    text = re.sub(r' id="([^"]+)"', lambda m: m.group(0) if m.group(1) in used else "", text)
    width = re.search(r'width="([\d.]+)pt"', text)
    size = float(width.group(1)) if width else 600.0
    head = re.sub(r'\s(width|height)="[\d.]+pt"', "", text[: text.index(">") + 1])
    label = markupsafe.escape(f"{name}: {title}")
    about = f'<svg class="{kind}" role="img" aria-label="{label}" style="max-width:{size * DPI / 72:.0f}px"'
    head = head.replace("<svg", about, 1)
    return markupsafe.Markup(head + text[text.index(">") + 1 :])
