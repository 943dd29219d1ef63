"""A Core AI asset in a failing input's script: run by the runtime of coreai-core."""

from __future__ import annotations

from collections.abc import Mapping

from parity.formats.snippet import Failing, mapping


def lines(a: Failing, fed: Mapping[str, str], output: str) -> list[str]:
    given = {n: f"NDArray({v}.astype(np.int32))" if n in a.integers else f"NDArray({v})" for n, v in fed.items()}
    return [
        "import asyncio; from coreai.authoring import AIModelAsset; from coreai.runtime import NDArray",
        "async def run(fed):",
        f"    async with AIModelAsset.load({a.path()!r}).executable() as model:",
        "        return {n: v.numpy().copy() for n, v in (await model.load_function('main')(fed)).items()}",
        f"got = asyncio.run(run({mapping(given)}))[{output!r}]",
    ]
