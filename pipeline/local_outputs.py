"""What the steps of a local run left: KFP hands nothing out from inside a condition or an exit handler.

A step that ran left executor_output.json, in KFP's own format; a cached one is what its cache entry says.
"""

from pathlib import Path
from typing import Any

from components.errors import PipelineError
from components.records import read_json


class LocalOutputs:
    """The outputs of one run.

    Args:
        root: the run's pipeline root.
        cache: kfp.local's cache folder.
        cache_keys: of each cached step the first digits of its key.
    """

    def __init__(self, root: Path, cache: Path, cache_keys: dict[str, str]) -> None:
        self._root, self._cache, self._keys = root, cache, cache_keys

    def value(self, step: str, name: str) -> Any:
        """A parameter that a step put out."""
        return self._of(step)[name]

    def path(self, step: str, name: str) -> Path:
        """Where an artifact lies that a step put out."""
        return Path(self._of(step)[name]["uri"])

    def _of(self, step: str) -> dict[str, Any]:
        if step in self._keys:
            (entry,) = self._cache.glob(f"{self._keys[step]}*.json")
            return dict(read_json(entry))
        found = sorted(self._root.glob(f"*/{step}/executor_output.json"))
        if not found:
            raise PipelineError(f"step {step} left no outputs under {self._root}")
        said = read_json(found[-1])
        artifacts = {name: value["artifacts"][0] for name, value in said.get("artifacts", {}).items()}
        return {**said.get("parameterValues", {}), **artifacts}
