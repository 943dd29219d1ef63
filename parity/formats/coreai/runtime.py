"""A Core AI asset, opened by the runtime that coreai-core brings. In the child."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from parity.core.errors import ParityError
from parity.formats.target import Array, narrowed, version


class CoreAISession:
    """One asset, loaded for as long as the session lives: the runtime's interface is asynchronous, ours is not."""

    def __init__(self, folder: str, notes: Mapping[str, Any]) -> None:
        from coreai.authoring import AIModelAsset
        from coreai.runtime import NDArray

        self.notes, self.array = notes, NDArray
        self.loop = asyncio.new_event_loop()
        self.held = AIModelAsset.load(Path(folder, notes["entry"])).executable()
        self.model = self.loop.run_until_complete(self.held.__aenter__())
        known = list(self.model.function_names)
        if "main" not in known:
            raise ParityError(f"the asset has no function 'main'; it has {', '.join(known) or 'none'}")
        self.function = self.model.load_function("main")

    def describe(self) -> dict[str, Any]:
        described = self.function.desc
        sides = {}
        for side in ("input", "output"):
            names = getattr(described, f"{side}_names")
            find = getattr(described, f"{side}_descriptor")
            sides[f"{side}s"] = [_feature(name, find(name)) for name in names]
        return {
            **sides,
            "ops": self.notes.get("ops", {}),
            "executor": "coreai-runtime",
            "runtime_version": version("coreai-core"),
        }

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        fed = {name: self.array(value) for name, value in narrowed(inputs).items()}
        got = self.loop.run_until_complete(self.function(fed))
        return {name: value.numpy().copy() for name, value in got.items()}


def _feature(name: str, descriptor: Any) -> dict[str, Any]:
    """Name, shape and element type of an input or output; a size that the file leaves open is None."""
    shape = [None if d is None or int(d) < 0 else int(d) for d in descriptor.shape]
    return {"name": name, "shape": shape, "dtype": str(descriptor.dtype)}
