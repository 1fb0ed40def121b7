"""What a page may hold: nothing of another server, no script, and a policy that says so to the browser."""

from html.parser import HTMLParser

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_OTHERS = {"script", "iframe", "object", "embed", "link", "base", "form", "audio", "video", "frame"}


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.policies: list[str | None] = []
        self.breaches: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        if attributes.get("http-equiv", "") == "Content-Security-Policy":
            self.policies.append(attributes["content"])
        elif tag in _OTHERS or "http-equiv" in attributes or (tag in ("style", "img") and not self.policies):
            self.breaches.append(tag)
        for name, value in attrs:
            leads = name in ("src", "srcset", "href", "xlink:href", "action", "background", "poster")
            if name.startswith("on") or (leads and not (value or "").startswith(("data:image/", "#"))):
                self.breaches.append(f"{tag} {name}={value}")


def breaches(page: str) -> list[str]:
    """What in a page breaks the policy that every page of ours has, before all it holds."""
    read = _Page()
    read.feed(page)
    read.close()
    return read.breaches if read.policies == [POLICY] else [f"policies: {read.policies}"]
