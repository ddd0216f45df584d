"""What a mark says, whatever the file: made by a model, by which version of which product, of which content."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from functools import cache
from importlib.metadata import version
from typing import Any, NamedTuple
from xml.sax.saxutils import escape, quoteattr

SOURCE_TYPE = "trainedAlgorithmicMedia"
SOURCE = f"http://cv.iptc.org/newscodes/digitalsourcetype/{SOURCE_TYPE}"
"""IPTC's word for what a model made by itself; C2PA takes the same one."""
FIELD = "genloom"
"""The field of a JSON answer, and the name of the field of a file, that holds a statement."""
FORMAT = 1
LONGEST = 500
"""Characters of a field; what is longer, or would write on a terminal, was not written here."""


@cache
def generator() -> str:
    """This program, such as Genloom 0.1.0."""
    return f"Genloom {version('genloom')}"


@dataclass(frozen=True)
class Statement:
    """What is said of one file. `digest` is that of the artifact, `content` the sha256 of what the file holds.

    `producer` is who serves the model; `seed` is None where there are several. `content` is None where it is said
    elsewhere.
    """

    product: str
    version: int
    digest: str
    seed: int | None = None
    content: str | None = None
    producer: str = ""
    generator: str = ""
    digital_source_type: str = SOURCE

    @property
    def name(self) -> str:
        """The version, such as digits/3."""
        return f"{self.product}/{self.version}"


def parsed(text: str | bytes) -> Statement | None:
    """The statement that JSON makes; None for what is none, whoever wrote it."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return of_content(content)


def beginning(text: str) -> Statement | None:
    """The statement that `text` begins with, whatever follows it, or None."""
    try:
        content, _ = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return None
    return of_content(content)


def of_content(content: Any) -> Statement | None:
    """The statement that the object of a JSON answer makes, or None."""
    if not isinstance(content, dict):
        return None
    known = {field.name for field in fields(Statement)}
    try:
        found = Statement(**{name: value for name, value in content.items() if name in known})
    except TypeError:
        return None
    texts = (found.product, found.digest, found.producer, found.generator, found.digital_source_type)
    right = (
        all(isinstance(one, str) and one.isprintable() and len(one) <= LONGEST for one in texts)
        and type(found.version) is int
    )
    right = right and isinstance(found.content, str | None) and isinstance(found.seed, int | None)
    return found if right else None


class Words(NamedTuple):
    """A statement as files carry it: for people, for their fields, and as an XMP packet."""

    software: str
    source: str
    comment: str
    statement: str
    aigc: str
    xmp: str


class Wording:
    """Words a version's statements: what is the same for all its files is written once, here."""

    def __init__(self, about: Statement) -> None:
        self.about = about
        content = {name: value for name, value in asdict(about).items() if value not in (None, "")}
        self._open = json.dumps(content, ensure_ascii=True, separators=(",", ":")).removesuffix("}")
        # the field of China's labelling measures, by TC260's practice guide: 1 is “made by AI”
        aigc = {"Label": "1", "ContentProducer": about.producer or about.generator, "ProduceID": about.name}
        self._aigc = json.dumps(aigc, ensure_ascii=True, separators=(",", ":")).removesuffix('"}')
        self._rest = '","ReservedCode1":"","ContentPropagator":"","PropagateID":"","ReservedCode2":""}'
        self._parts = [escape(part) for part in (self._aigc, self._rest, self._open)]
        self._comment = f"Made by a machine-learning model: {about.name}"
        self._before, self._after = _packet(about)

    def of(self, seed: int | None, content: str) -> Words:
        """The words of one file; a `seed` is a number and a `content` in hex, so nothing needs to be escaped."""
        end = f',"content":"{content}"}}' if seed is None else f',"seed":{seed},"content":"{content}"}}'
        turn = "" if seed is None else f"/{seed}"
        aigc, rest, opening = self._parts
        return Words(
            software=self.about.generator,
            source=f"{self.about.name} {self.about.digest}",
            comment=self._comment,
            statement=self._open + end,
            aigc=self._aigc + turn + self._rest,
            xmp=f"{self._before}<TC260:AIGC>{aigc}{turn}{rest}</TC260:AIGC>"
            f"<genloom:Statement>{opening}{end}</genloom:Statement>{self._after}",
        )


def _packet(about: Statement) -> tuple[str, str]:
    """What stands before and behind the fields of one file in its XMP packet (ISO 16684-1)."""
    names = {
        "rdf:about": "",
        "xmlns:xmp": "http://ns.adobe.com/xap/1.0/",
        "xmlns:Iptc4xmpExt": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
        "xmlns:TC260": "http://www.tc260.org.cn/ns/AIGC/1.0/",
        "xmlns:genloom": f"urn:genloom:labels:{FORMAT}",
        "xmp:CreatorTool": about.generator,
        "Iptc4xmpExt:DigitalSourceType": SOURCE,
        "Iptc4xmpExt:AISystemUsed": about.product,
        "Iptc4xmpExt:AISystemVersionUsed": str(about.version),
    }
    attributes = " ".join(f"{name}={quoteattr(value)}" for name, value in names.items())
    before = (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
        f'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description {attributes}>'
    )
    return before, '</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="r"?>'


def in_xmp(packet: str | bytes) -> Statement | None:
    """The statement in an XMP packet, or None; it is found by its tags, so that no foreign XML is parsed."""
    text = packet.decode("utf-8", "replace") if isinstance(packet, bytes) else packet
    _, there, rest = text.partition("<genloom:Statement>")
    found, whole, _ = rest.partition("</genloom:Statement>")
    plain = found.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", '"').replace("&amp;", "&")
    return parsed(plain) if there and whole else None
