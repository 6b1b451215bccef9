"""The stage of the study of attribute guidance; heavy imports wait inside, as in `stages.tables`."""

from __future__ import annotations

from pathlib import Path

from emo_lightning.core.records import SchemaError


def attribute_guidance_stage(
    out: Path, probes: str, bases: list[str], shares: dict[str, float], images: list[int], seeds: list[int]
) -> None:
    """Test what attribute guidance adds, by what the captions of the base named: `attribute_guidance.json`, a figure and `page.json`.

    See `analysis.attribute_guidance`.

    Args:
        out: the stage's directory; also gets `attribute_guidance.svg`.
        probes: folder of each probe stage, with `{arm}` (base, ces, attribute), `{base}`, `{images}` and `{seed}` in it.
        bases: that are compared.
        shares: base -> share of its captions that named the attribute (0–1).
        images: numbers of annotated images.
        seeds: of the worlds of each number.

    Raises:
        SchemaError: no share is given for a base, or a base is named twice; and as `attribute_guidance.attribute_guidance`.
    """
    from emo_lightning.analysis.attribute_guidance import attribute_guidance
    from emo_lightning.core.files import write_bytes, write_json
    from emo_lightning.report.page import PageFigure, write_page
    from emo_lightning.report.svg import guidance_svg
    from emo_lightning.report.tables.attribute_guidance import guidance_page
    from emo_lightning.report.terminal import show_page

    if len(set(bases)) < len(bases):
        msg = f"bases: found {bases}; expected each once"
        raise SchemaError(msg)
    if without := [base for base in bases if base not in shares]:
        msg = f"shares: none of base {without[0]!r}; given: {', '.join(shares)}"
        raise SchemaError(msg)
    result = attribute_guidance(probes, {base: shares[base] for base in bases}, images, seeds)
    page = guidance_page(result)
    write_bytes(out / "attribute_guidance.svg", guidance_svg(result).encode())
    page.figures.append(PageFigure("What guidance adds", "attribute_guidance.svg"))
    write_json(out / "attribute_guidance.json", result)
    write_page(out, page)
    show_page(page)
