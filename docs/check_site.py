"""Does every link inside the built site lead somewhere, and does no page ask the network for anything?

python docs/check_site.py [FOLDER]        (part of `make docs`; exit code 1 and a line for each fault)
"""

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADED = {("script", "src"), ("img", "src"), ("link", "href"), ("iframe", "src"), ("source", "src"), ("video", "src")}
MENTIONED = {"canonical", "search", "index", "next", "prev", "author", "copyright"}  # <link rel=…>: nothing is loaded


FETCHED = re.compile(r"(?:url\(\s*|@import\s+)['\"]?((?:https?:)?//[^'\")\s]+)")  # by a style sheet


class Page(HTMLParser):
    """The anchors of a page, what it links to, and what a browser loads to show it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = {"", "top"}
        self.links: list[str] = []
        self.loaded: list[str] = FETCHED.findall(text)
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note the ids, links and sources of one tag."""
        named = {key: value or "" for key, value in attrs}
        self.anchors |= {named[key] for key in ("id", "name") if key in named}
        if tag == "a" and "href" in named:
            self.links.append(named["href"])
        for key in ("src", "href"):
            if (tag, key) in LOADED and key in named and named.get("rel") not in MENTIONED:
                self.loaded.append(named[key])
        self.loaded += [choice.split()[0] for choice in named.get("srcset", "").split(",") if choice.split()]


def faults(root: Path) -> list[str]:
    """A line for each broken link, and for each thing that is loaded from elsewhere."""
    root = root.resolve()
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in sorted(root.rglob("*.html"))}
    if not pages:
        return [f"{root}: no pages: build them with make docs"]
    found = [
        f"{path.relative_to(root)} loads {link}"
        for path in sorted(root.rglob("*.css"))
        for link in FETCHED.findall(path.read_text(encoding="utf-8"))
    ]
    for path, page in pages.items():
        for link in [*page.links, *page.loaded]:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                if link in page.loaded and parts.scheme != "data":
                    found.append(f"{path.relative_to(root)} loads {link}")
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.is_file():
                found.append(f"{path.relative_to(root)}: {link} leads nowhere")
            elif target in pages and unquote(parts.fragment) not in pages[target].anchors:
                found.append(f"{path.relative_to(root)}: {link} has no such place")
    return found


if __name__ == "__main__":
    lines = faults(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "_build" / "html")
    print("\n".join(lines) or "every link leads somewhere, nothing is loaded from elsewhere")
    sys.exit(bool(lines))
