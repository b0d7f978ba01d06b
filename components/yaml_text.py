"""YAML that people wrote, and what is wrong with it in one line."""

from typing import Any

import yaml


def parse_yaml(text: str | bytes, loader: Any = yaml.SafeLoader) -> Any:
    """The value of a YAML document.

    Args:
        loader: a safe one.

    Raises:
        ValueError: it is not YAML, is nested too deep, or has a value that there is not, such as the 30th of February.
    """
    try:
        return yaml.load(text, loader)  # noqa: S506  # a safe loader, see above
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split())) from None
