"""What other programs make of the card, as the page shows it. Knows no handler."""

import html

from engine.cards.compatibility import HOSTS, Finding, findings
from studio.store import characters
from studio.store.database import Store

_FATES = {"lost": "dropped", "unused": "kept, not used"}


def hosts_html(store: Store, character: str) -> str:
    """A fold for each program with what it would not use, as HTML with everything escaped; "" without a character."""
    if not character:
        return ""
    head = characters.head(store, character)
    found = findings(head.card, len(head.files))
    files = len(head.files)
    brought = (f'<p class="quiet">The card brings {files} {"file" if files == 1 else "files"} (such as pictures or sounds). '
               "Only the archive holds them.</p>") if files else ""
    return brought + "<h4>What other programs make of it</h4>" + "".join(
        _host_html(host, [one for one in found if one.host == host]) for host in HOSTS)


def _host_html(host: str, found: list[Finding]) -> str:
    if not found:
        return f'<p class="draft-host"><b>{html.escape(host)}</b> <span class="quiet">uses everything</span></p>'
    counts = [f"{count} {words}" for fate, words in _FATES.items() if (count := sum(one.fate == fate for one in found))]
    lines = "".join(f'<li><span class="quiet">{_FATES[one.fate].capitalize()}:</span> {html.escape(one.sentence)}</li>'
                    for one in found)
    return (f'<details class="draft-host"><summary><b>{html.escape(host)}</b> <span class="quiet">{", ".join(counts)}</span>'
            f"</summary><ul>{lines}</ul></details>")
