"""`python -m tests.benchmarks.rival_litserve ARTIFACT PORT SECONDS`: LitServe over the same artifact, at `/predict`.

It batches up to 16 requests as ours does, and waits SECONDS for a batch to fill; 0 is its default. It stands alone
because LitServe starts its workers by pickle and is not installed everywhere.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import litserve as ls

from components.artifact import WIDTH
from tests.benchmarks.rival_servers import Drawer, answer

Drawn = tuple[int, bytes]


class Api(ls.LitAPI):
    """Seeds in, pictures out."""

    def __init__(self, folder: Path, wait: float) -> None:
        super().__init__(max_batch_size=WIDTH, batch_timeout=wait)
        self.folder = folder

    def setup(self, device: str) -> None:
        """Load the model in the worker."""
        self.drawer = Drawer(self.folder)

    def decode_request(self, request):  # type: ignore[no-untyped-def]  # LitServe makes fields of annotations
        """The seed of one request."""
        return int(request["seed"])

    def batch(self, inputs: Sequence[int]) -> Sequence[int]:
        """All seeds."""
        return inputs

    def predict(self, seeds: Sequence[int]) -> list[Drawn]:
        """A picture a seed."""
        return list(zip(seeds, self.drawer.draw(seeds), strict=True))

    def unbatch(self, output: list[Drawn]) -> list[Drawn]:
        """One by one."""
        return output

    def encode_response(self, output):  # type: ignore[no-untyped-def]
        """What our route answers."""
        return answer(*output)


if __name__ == "__main__":
    api = Api(Path(sys.argv[1]), float(sys.argv[3]))
    server = ls.LitServer(api, accelerator="cpu")
    server.run(host="127.0.0.1", port=int(sys.argv[2]), generate_client_file=False, log_level="error")
