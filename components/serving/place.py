"""Who computes what the command line asks for: the running server if it serves the version, else a model loaded here.

Both compute at the model's width with the same number of threads, so the same seed gives the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from components.labels.marker import Marker, open_marker
from components.modalities.modality import kind_of
from components.serving import client, server
from components.serving.catalog import Loaded, Served, open_version
from components.serving.routes.models import describe
from components.settings import Settings
from components.terms import USUAL, Terms

AWAKE = 60.0
"""Seconds that an application may take to list its models: one without a replica starts one."""


@dataclass(frozen=True)
class Place:
    """A version of a product and who computes it: the server at `url`, or `loaded` in this process.

    `about` is the model as `/v1/models` lists it. `marker` marks what is made of several of its files.
    """

    product: str
    version: int
    modality: str
    about: Mapping[str, Any]
    url: str | None = None
    loaded: Loaded | None = None
    marker: Marker | None = None

    @property
    def asked(self) -> str:
        """What requests call the model; by the server the champion answers, whatever is tried beside it."""
        return self.product if self.url is None else f"{self.product}@champion"

    @property
    def makes(self) -> str:
        """What the model makes, for a person."""
        return kind_of(self.modality).makes

    @property
    def where(self) -> str:
        """Who computes, for a person."""
        return "loaded here" if self.url is None else f"by the server at {self.url}"


@contextmanager
def locate(settings: Settings, product: str, which: str | None, terms: Terms = USUAL) -> Iterator[Place]:
    """`which` is a version's number or alias, or None for the one that is served, else the champion.

    A model that is loaded here, on these `terms`, ends with the context. Raises `UserError` for a version that
    cannot be, and for marks that cannot be made.
    """
    url = server.url_of(settings, product)
    served = None if url is None else client.served(url, product, AWAKE)
    if url is not None and served is not None and which is None:
        yield _by_server(url, product, served, settings)
        return
    from components.promotion.registry import Registry

    registry = Registry(settings)
    version = registry.usable(product, "champion" if which is None else which)
    if url is not None and served is not None and int(served["version"]) == version.number:
        yield _by_server(url, product, served, settings)
        return
    loaded = open_version(Served(product, version.number, registry.fetch(version), 0, terms=terms), settings)
    modality, about = loaded.model.about.modality, describe(loaded)
    try:
        yield Place(product, version.number, modality, about, loaded=loaded, marker=loaded.marker)
    finally:
        loaded.engine.close()


def _by_server(url: str, product: str, served: client.Listed, settings: Settings) -> Place:
    """The server's version; what it makes is marked there, and what is made of that here in the same way."""
    number = int(served["version"])
    terms = replace(USUAL, labels=served.get("labels", "none"), visible=bool(served.get("visible")))
    marker = open_marker(product, number, str(served["digest"]), terms, settings)
    return Place(product, number, str(served["modality"]), served, url=url, marker=marker)
