"""Signatures over a model's folder, with a key from a file: made and checked without a network.

The extra `signing` installs what this needs.
"""

import os
from pathlib import Path
from typing import Any

from components.errors import ParameterError, PipelineError
from components.registry import SIGNATURE

KEY_VARIABLE = "PRIVATE_LLM_SIGNING_KEY"  # the path of a PEM file with an elliptic-curve private key


def sign_if_asked(folder: Path) -> bool:
    """Signs the folder with the key that the environment names; nothing without one. Returns whether it signed."""
    key = os.environ.get(KEY_VARIABLE)
    if not key:
        return False
    _check_key(key, KEY_VARIABLE)
    config = _library().signing.Config().use_elliptic_key_signer(private_key=key)
    try:
        config.set_hashing_config(_hashing(folder)).sign(folder, folder / SIGNATURE)
    except ValueError as error:
        raise ParameterError(f"{KEY_VARIABLE}={key}: not an elliptic-curve private key in PEM: {error}") from None
    return True


def verify(folder: Path, public_key: str) -> None:
    """Checks the folder against its signature.

    Raises:
        ParameterError: no such key, or not one.
        PipelineError: there is no signature, or it is not of these files and this key.
    """
    _check_key(public_key, "public_key")
    if not (folder / SIGNATURE).is_file():
        raise PipelineError(f"the version has no signature; set {KEY_VARIABLE} where register runs")
    try:
        config = _library().verifying.Config().use_elliptic_key_verifier(public_key=public_key)
    except ValueError as error:
        raise ParameterError(f"public_key={public_key}: not an elliptic-curve public key in PEM: {error}") from None
    try:
        config.set_hashing_config(_hashing(folder)).verify(folder, folder / SIGNATURE)
    except Exception as error:  # the library raises its own of several modules; all of them mean no
        raise PipelineError(f"the signature does not hold: {str(error).splitlines()[0]}") from error


def _hashing(folder: Path) -> Any:
    config = _library().hashing.Config()
    return config.set_ignored_paths(paths=[folder / SIGNATURE], ignore_git_paths=False).set_allow_symlinks(True)


def _check_key(path: str, name: str) -> None:
    if not Path(path).is_file():
        raise ParameterError(f"{name}={path}: no such file")


def _library() -> Any:
    try:
        import model_signing
    except ImportError:
        raise ParameterError("signatures need the extra: pip install 'private-llm-pipeline[signing]'") from None
    return model_signing
