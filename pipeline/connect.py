"""The flags and the connection that the commands for a KFP server share."""

import argparse
import re
import sys
from urllib.parse import urlsplit

from pipeline.endpoint import add_arguments, endpoint_of
from pipeline.kfp_api import Api
from pipeline.settings import load

_NEAR = re.compile(r"^(localhost|127\.[\d.]+|::1)$|\.(svc|cluster\.local)$")  # what needs no TLS


def server_flags() -> argparse.ArgumentParser:
    """A parent parser: where the server is, and how long it is waited for."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--profile", help="a shipped profile's name, or a YAML file")
    add_arguments(parser)
    parser.add_argument(
        "--patience",
        type=seconds,
        default=120.0,
        metavar="S",
        help="seconds for which a server that was there is asked again (default: %(default)g)",
    )
    parser.add_argument(
        "--timeout", type=seconds, default=60.0, metavar="S", help="seconds for one answer (default: %(default)g)"
    )
    return parser


def connect(arguments: argparse.Namespace, command: str) -> Api:
    """The server that flags, environment and profile name. Nothing is asked of it yet."""
    endpoint = endpoint_of(arguments, load(arguments.profile or "default").kfp)

    def say(text: str) -> None:
        print(f"{command}: {text}", file=sys.stderr, flush=True)

    where = urlsplit(endpoint.address)
    if where.scheme == "http" and not _NEAR.search(where.hostname or "") and (endpoint.token() or endpoint.cookie()):
        say(f"{where.hostname} is asked without TLS, so the token or cookie can be read on its way; use https")
    return Api(endpoint, patience=arguments.patience, timeout=arguments.timeout, say=say)


def seconds(text: str) -> float:
    """A flag's seconds."""
    value = float(text)
    if not 0 <= value < 1e7:
        raise argparse.ArgumentTypeError("must be seconds, at least 0")
    return value
