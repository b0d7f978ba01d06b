"""YAML that people wrote, and what is wrong with it in one line."""

import re
from typing import Any

import yaml


class Loader(yaml.SafeLoader):
    """Reads 2e-4 as a number, as YAML 1.2 does; for PyYAML's 1.1 it is text, because it has no dot."""


Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def parse_yaml(text: str | bytes, loader: type[yaml.SafeLoader] = Loader) -> Any:
    """The value of a YAML document.

    Args:
        loader: how it is read.

    Raises:
        ValueError: it is not YAML, is nested too deep, or has a value that there is not, such as the 30th of February.
    """
    try:
        return yaml.load(text, loader)  # noqa: S506  # a safe loader, see above
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split())) from None
