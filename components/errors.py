"""The error tree. Whoever catches one can tell the user's mistake from a failure by its exit code.

PipelineError          exit 1: something failed
├── ResumableError     exit 75: stopped on request; the same command goes on from the checkpoint
└── UserError          exit 2: the input is wrong; the message says what is allowed and what to do
    ├── ParameterError     a parameter's name or value
    ├── DataError          the dataset
    └── ModelError         the base model, its tokenizer or its template
"""

import os


class PipelineError(Exception):
    """Something failed that the user's input does not explain. The message is one line."""

    exit_code = 1


class TrainingError(PipelineError):
    """A training process failed; the message names the rank and its own reason."""


class ResumableError(PipelineError):
    """The training was stopped on request, such as SIGTERM; started again it resumes."""

    exit_code = os.EX_TEMPFAIL


class ClusterError(PipelineError):
    """The Kubernetes cluster refused, lost or ended what it was asked to run; the message says which and why."""


class StorageError(PipelineError):
    """An object store refused, or could not be reached; the message says what it was asked for."""


class RegistryError(PipelineError):
    """The model registry could not be reached, or answered what it must not."""


class UserError(PipelineError):
    """Bad input: what was wrong, where, what is allowed, what to do."""

    exit_code = 2


class ParameterError(UserError):
    """An unknown parameter, or a value outside what it allows."""


class DataError(UserError):
    """The dataset cannot be read, or is not what a step needs."""


class ModelError(UserError):
    """The base model, its tokenizer or its chat template cannot be used."""
