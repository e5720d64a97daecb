"""Convert matplotlib's SVG to a small element for an HTML page, in light and dark mode."""

import re
from collections.abc import Mapping
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from orchestrator.reporting.html._format import redacted

DROPPED = ("style", "metadata")  # a style would apply to the whole page
DECIMAL = re.compile(r"-?\d+\.\d{2,}")
COLOUR = re.compile(r"#[0-9a-f]{6}\b")
DEFAULTS = re.compile(r"font-family: [^;]*; |stroke-dashoffset: 0; |rotate\(-?0 [^)]*\)")
NEITHER_XML_NOR_TEXT = re.compile("[^\\t\\n\\r\\x20-\\ud7ff\\ue000-\\ufffd\\U00010000-\\U0010ffff]")


def inline_svg(drawing: str, name: str, title: str, variables: Mapping[str, str]) -> str:
    """Return the SVG element of a drawing.

    Ids that nothing refers to are dropped, so that several drawings fit one page. Links become
    tooltips. Text is redacted.

    Args:
        drawing: The SVG file that matplotlib wrote.
        name: The unique name of the drawing on the page.
        title: The accessible name.
        variables: The names of CSS variables by the colours that they replace.
    """
    root = ElementTree.fromstring(NEITHER_XML_NOR_TEXT.sub("", drawing))
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', drawing))
    size = root.get("viewBox", "")
    (svg,) = _converted(root, used, variables)
    svg.attrib = {"viewBox": size, "role": "img", "aria-labelledby": f"chart-{name}"}
    svg.insert(0, _element("title", title, id=f"chart-{name}"))
    return ElementTree.tostring(svg, encoding="unicode")


def _converted(element: Element, used: set[str], variables: Mapping[str, str]) -> list[Element]:
    """Return the element without namespaces; the children of a group without attributes instead."""
    tag = _local(element.tag)
    if tag in DROPPED:
        return []
    children = [each for child in element for each in _converted(child, used, variables)]
    if tag == "a":
        tooltip = next(value for name, value in element.items() if _local(name) == "href")
        children.insert(0, _element("title", tooltip))
        tag, attributes = "g", {}
    else:
        attributes = {
            _local(name): _compact(value, variables)
            for name, value in element.items()
            if name != "id" or value in used
        }
        attributes = {name: value for name, value in attributes.items() if value}
        if (tag == "g" and not attributes) or (tag == "defs" and not children):
            return children
    converted = _element(tag, (element.text or "").strip(), **attributes)
    converted.extend(children)
    return [converted]


def _local(name: str) -> str:
    return name.rpartition("}")[2]


def _element(tag: str, text: str = "", **attributes: str) -> Element:
    element = Element(tag, attributes)
    element.text = redacted(text) if text else None
    return element


def _compact(value: str, variables: Mapping[str, str]) -> str:
    """Return an attribute with fewer decimals, with CSS variables, and with the page's font."""
    value = DEFAULTS.sub("", " ".join(value.split()))
    value = DECIMAL.sub(lambda found: f"{float(found[0]):.2f}".rstrip("0").rstrip("."), value)
    return COLOUR.sub(lambda found: variables.get(found[0], found[0]), value)
