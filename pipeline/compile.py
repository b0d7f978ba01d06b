"""python -m pipeline.compile: the pipeline as KFP YAML, or as Kubernetes objects."""

import argparse
import difflib
import sys
import tempfile
from pathlib import Path
from typing import Any

from components.errors import PipelineError
from pipeline.packages import version_name
from pipeline.settings import PACKAGE, load

COMMITTED = PACKAGE / "private_llm.yaml"
OUTPUTS = {"kfp": COMMITTED, "kubernetes": Path("build") / "private_llm.kubernetes.yaml"}


def compile_profile(profile: str, format: str = "kfp") -> str:
    """A profile's pipeline as YAML: the same text every time.

    Args:
        format: kfp for the IR that the KFP UI and SDK take, or kubernetes for a Pipeline and a PipelineVersion.
    """
    from pipeline.dag import build

    story = build(load(profile))
    text = _written(story)
    if format == "kfp":
        return text
    from kfp.compiler.compiler_utils import KubernetesManifestOptions

    # KFP refuses to change a version, so each content has a version of its own name.
    version = version_name(story.name, text)
    options = KubernetesManifestOptions(pipeline_version_name=version, include_pipeline_manifest=True)
    return _written(story, kubernetes_manifest_format=True, kubernetes_manifest_options=options)


def _written(story: Any, **options: Any) -> str:
    from kfp.compiler import Compiler

    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "pipeline.yaml"
        Compiler().compile(story, str(path), **options)
        return path.read_text(encoding="utf-8")


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code: 0, 1 when --check finds the file stale, 2 for bad input."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.compile", description="Compile the pipeline to KFP YAML.")
    parser.add_argument(
        "--profile", default="default", help="a shipped profile's name, or a YAML file (default: %(default)s)"
    )
    parser.add_argument(
        "--format",
        choices=sorted(OUTPUTS),
        default="kfp",
        help="kfp: for the UI and the SDK; kubernetes: Pipeline and PipelineVersion for kubectl (default: %(default)s)",
    )
    shown = ", ".join(f"{path} for {name}" for name, path in OUTPUTS.items())
    parser.add_argument("--output", type=Path, help=f"the file to write (default: {shown})")
    parser.add_argument("--check", action="store_true", help="write nothing; fail with a diff when the file is stale")
    arguments = parser.parse_args(argv)
    output = arguments.output or OUTPUTS[arguments.format]
    try:
        text = compile_profile(arguments.profile, arguments.format)
    except PipelineError as error:
        print(f"compile: {error}", file=sys.stderr)
        return error.exit_code
    if not arguments.check:
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
            output.write_bytes(text.encode())
        except OSError as error:
            print(f"compile: --output {output} cannot be written: {error.strerror}", file=sys.stderr)
            return 2
        print(f"wrote {output}")
        return 0
    present = output.read_bytes().decode("utf-8", "replace") if output.is_file() else ""
    if present == text:
        print(f"{output} is up to date")
        return 0
    sys.stdout.writelines(
        difflib.unified_diff(present.splitlines(True), text.splitlines(True), str(output), "compiled now")
    )
    print(f"compile: {output} is stale; run python -m pipeline.compile and commit it", file=sys.stderr)
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
