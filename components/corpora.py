"""The texts that are scored beside the records: `name=path or URI`, separated by commas."""

import re

from components.errors import ParameterError

NAME = re.compile(r"^[\w-]+$", re.ASCII)
RESERVED = ("records", "corpora", "generation")  # what the gate's rules may name besides


def parse_corpora(corpora: str) -> dict[str, str]:
    """The texts of `name=uri,name=uri` by their names, in that order.

    Raises:
        ParameterError: an entry has another form, or a name comes twice.
    """
    found: dict[str, str] = {}
    for entry in filter(None, corpora.split(",")):
        name, _, uri = (part.strip() for part in entry.partition("="))
        if not (NAME.match(name) and uri) or name in (*found, *RESERVED):
            raise ParameterError(
                f"evaluation_corpora: {entry.strip()!r} is not name=path or name=uri, with a name of letters, digits, "
                f"- and _ that comes once and is none of {', '.join(RESERVED)}"
            )
        found[name] = uri
    return found
