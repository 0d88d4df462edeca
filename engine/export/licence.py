"""What the base model's licence requires of a pruned model that is given away: files, words to display, its name.

A derivative inherits its base's terms. None of this is legal advice. A licence that is not known here keeps its own name.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.base.files import resource, slug, write_atomic

LEGAL_FILES = ("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*")  # of a base model, to be copied
LARGEST = 1_000_000  # bytes of such a file
OWN_LICENCE = resource("LICENSE")  # the text of Apache-2.0, which is this project's licence, too
# Names that the hub takes in `license:` (https://huggingface.co/docs/hub/repositories-licenses); others go under "other".
HUB_NAMES = frozenset((
    "apache-2.0", "mit", "openrail", "bigscience-openrail-m", "creativeml-openrail-m", "bigscience-bloom-rail-1.0",
    "bigcode-openrail-m", "afl-3.0", "artistic-2.0", "bsl-1.0", "bsd", "bsd-2-clause", "bsd-3-clause", "bsd-3-clause-clear",
    "c-uda", "cc", "cc0-1.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0",
    "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0",
    "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "cdla-sharing-1.0", "cdla-permissive-1.0", "cdla-permissive-2.0", "wtfpl", "ecl-2.0",
    "epl-1.0", "epl-2.0", "etalab-2.0", "eupl-1.1", "eupl-1.2", "agpl-3.0", "gfdl", "gpl", "gpl-2.0", "gpl-3.0", "lgpl",
    "lgpl-2.1", "lgpl-3.0", "isc", "h-research", "intel-research", "lppl-1.3c", "ms-pl", "apple-ascl", "apple-amlr", "mpl-2.0",
    "odc-by", "odbl", "openmdw-1.0", "openrail++", "osl-3.0", "postgresql", "ofl-1.1", "ncsa", "unlicense", "zlib", "pddl",
    "lgpl-lr", "deepfloyd-if-license", "fair-noncommercial-research-license", "llama2", "llama3", "llama3.1", "llama3.2",
    "llama3.3", "llama4", "grok2-community", "gemma", "unknown", "other"))


@dataclass(frozen=True)
class Terms:
    """What a licence asks for. `notice`: the NOTICE file's text; `shown`: to be displayed; `begins`: how a name must begin.

    `policy`: address of its use policy. `text_needed`: the licence's text must be included.
    """

    title: str
    link: str = ""
    notice: str = ""
    shown: str = ""
    begins: str = ""
    policy: str = ""
    text_needed: bool = False


def _llama(version: str, shown: str = "Built with Llama", begins: str = "Llama", name: str = "Llama") -> Terms:
    place = f"https://www.llama.com/llama{version.replace('.', '_')}"
    agreement = f"{name} {version} Community License"
    return Terms(agreement, f"{place}/license/",
                 f"{name} {version} is licensed under the {agreement}, Copyright © Meta Platforms, Inc. All Rights Reserved.",
                 shown, begins, f"{place}/use-policy/", text_needed=True)


KNOWN = {
    "apache-2.0": Terms("Apache License 2.0", "https://www.apache.org/licenses/LICENSE-2.0", text_needed=True),
    "mit": Terms("MIT License", "https://opensource.org/license/mit", text_needed=True),
    "llama2": Terms("LLAMA 2 Community License", "https://ai.meta.com/llama/license/",
                    "Llama 2 is licensed under the LLAMA 2 Community License, Copyright (c) Meta Platforms, Inc. "
                    "All Rights Reserved.",
                    policy="https://ai.meta.com/llama/use-policy/", text_needed=True),
    "llama3": _llama("3", "Built with Meta Llama 3", "Llama 3", "Meta Llama"),
    "llama3.1": _llama("3.1"), "llama3.2": _llama("3.2"), "llama3.3": _llama("3.3"), "llama4": _llama("4"),
    "gemma": Terms("Gemma Terms of Use", "https://ai.google.dev/gemma/terms",
                   "Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms",
                   policy="https://ai.google.dev/gemma/prohibited_use_policy", text_needed=True)}


def terms_of(base: dict[str, Any]) -> Terms:
    """The terms of a report's base model; for an unknown licence its name and link alone."""
    licence = str(base.get("licence") or "")
    named = str(base.get("licence_name") or licence)
    return KNOWN.get(licence) or Terms(named, str(base.get("licence_link") or ""), text_needed=bool(named))


def hub_fields(base: dict[str, Any]) -> dict[str, Any]:
    """The licence in the hub's metadata: license, and for one that the hub does not know license_name and license_link."""
    licence = str(base.get("licence") or "")
    if not licence:
        return {}
    if licence in HUB_NAMES and licence != "other":
        return {"license": licence}
    name = base.get("licence_name") or ("" if licence == "other" else licence) or "see-licence-file"
    link = str(base.get("licence_link") or "")
    if not re.fullmatch(r"https?://[^\s<>\"']{1,300}", link):
        link = f"https://huggingface.co/{base['hub']}" if base.get("hub") else "LICENSE"  # LICENSE: the file in the folder
    return {"license": "other", "license_name": slug(str(name)), "license_link": link}


def titled(base: dict[str, Any], name: str) -> str:
    """A model's name as its base's licence requires it: some must begin with the family's."""
    begins = terms_of(base).begins
    return name if name.casefold().startswith(begins.casefold()) else f"{begins} {name}"


def write_legal(folder: Path, base: dict[str, Any]) -> None:
    """Write what the base's licence requires into a folder: its NOTICE, and the text of Apache-2.0 where that is missing."""
    terms, notice = terms_of(base), folder / "NOTICE"
    former = notice.read_text(encoding="utf-8", errors="replace") if notice.is_file() else ""
    if terms.notice and terms.notice not in former:
        write_atomic(notice, "\n\n".join(filter(None, [terms.notice, former.strip()])) + "\n")
    if base.get("licence") == "apache-2.0" and not _texts(folder) and OWN_LICENCE.is_file():
        write_atomic(folder / "LICENSE", OWN_LICENCE.read_text(encoding="utf-8"))


def copy_legal(base: Path, folder: Path) -> None:
    """Copy the base model's licence files into a folder."""
    for file in sorted({file for pattern in LEGAL_FILES for file in base.glob(pattern)}):
        if file.is_file() and file.stat().st_size <= LARGEST:
            write_atomic(folder / file.name, file.read_bytes())


def describe_licence(folder: Path | None, base: dict[str, Any]) -> list[str]:
    """The licence for readers of the model card: paragraphs of Markdown. `folder`: where its text should be; None: not checked."""
    terms = terms_of(base)
    if not terms.title:
        return ["The licence of the base model is not known: ask its makers before you share this model."]
    where = f" ({terms.link})" if terms.link else ""
    lines = [f"This model is made from {_plain(base['name'])} and stays under its licence: {_plain(terms.title)}{where}."]
    if terms.shown:
        lines.append(f"**{terms.shown}.** Show these words where the model is used; a model made from it must have a name that "
                     f"begins with {terms.begins}.")
    if terms.notice:
        lines.append("NOTICE has the words that every copy must keep.")
    if terms.policy:
        lines.append(f"Use policy: {terms.policy}")
    if folder is not None and terms.text_needed and not _texts(folder):
        lines.append("**Before you share it:** the licence's text is not in this folder, since it was not in the base model's. "
                     f"Put it here as LICENSE{f', from {terms.link}' if terms.link else ''}.")
    return lines


def _texts(folder: Path) -> list[Path]:
    return [file for pattern in ("LICENSE*", "LICENCE*") for file in folder.glob(pattern)]


def _plain(text: object) -> str:
    """A name from someone else's file, without Markdown."""
    return re.sub(r"[^\w .,:;/+()-]", "", " ".join(str(text).split()))[:120]
