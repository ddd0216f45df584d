"""`python -m tests.benchmarks.rival_servers NAME ARTIFACT PORT`: another server over the same artifact.

It draws with the same networks as torch has them, computes with one thread, and answers with the same PNG in the same
JSON at `/predict`: `ray-serve` is one deployment of Ray Serve with FastAPI inside and everything left as it comes;
`bytes` always answers the same, to see how fast the load generator is. LitServe is in rival_litserve.py.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from components.artifact import WIDTH, load
from components.families.family import Requests
from components.modalities.drawing import png, to_uint8


class Drawer:
    """A model that draws as many pictures as it is asked for, at once."""

    def __init__(self, folder: Path) -> None:
        torch.set_num_threads(1)
        self.model = load(folder, packed=False)  # as torch has them

    @torch.inference_mode()
    def draw(self, seeds: Sequence[int]) -> list[bytes]:
        """A PNG a seed."""
        family, networks = self.model.family, self.model.networks
        state = family.start(networks, Requests(seed=torch.tensor(seeds)))
        while not bool(state.done.all()):
            state = family.advance(networks, state)
        levels = to_uint8(state.output)
        return [png(level, (level.shape[1], level.shape[0])) for level in levels]


def answer(seed: int, file: bytes) -> dict[str, Any]:
    """What our route answers."""
    data = [{"b64_json": b64encode(file).decode("ascii"), "seed": seed}]
    return {"created": int(time.time()), "data": data}


def ray_serve(folder: Path, port: int) -> None:
    """Ray Serve as its documentation begins: a FastAPI ingress that batches, all settings as they come."""
    import ray
    from fastapi import FastAPI
    from ray import serve

    app = FastAPI()

    @serve.deployment
    @serve.ingress(app)
    class Endpoint:
        def __init__(self) -> None:
            self.drawer = Drawer(folder)

        @serve.batch(max_batch_size=WIDTH)  # type: ignore[untyped-decorator]
        async def draw(self, seeds: list[int]) -> list[bytes]:
            return self.drawer.draw(seeds)

        @app.post("/predict")
        async def predict(self, body: dict[str, int]) -> dict[str, Any]:
            return answer(body["seed"], await self.draw(body["seed"]))

    ray.init(address="local", include_dashboard=False, log_to_driver=False, object_store_memory=2**28)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(Endpoint.bind())
    while True:
        time.sleep(60)


def same_bytes(folder: Path, port: int) -> None:
    """The cheapest server that Python's own loop makes: it reads a request and answers what it always answers."""
    body = json.dumps(answer(0, Drawer(folder).draw([0])[0])).encode()
    reply = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body

    class Same(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, asyncio.Transport)
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            self.transport.write(reply)

    async def forever() -> None:
        server = await asyncio.get_running_loop().create_server(Same, "127.0.0.1", port)
        await server.serve_forever()

    asyncio.run(forever())


SERVERS: Mapping[str, Callable[[Path, int], None]] = {
    "ray-serve": ray_serve,
    "bytes": same_bytes,
}

if __name__ == "__main__":
    SERVERS[sys.argv[1]](Path(sys.argv[2]), int(sys.argv[3]))
