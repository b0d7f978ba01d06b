"""lm-evaluation-harness in an environment of its own: build/lm-eval, over the packages that are installed here."""

import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).parents[1]
VERSION = "0.4.13"


def python() -> Path:
    """The environment's interpreter; made when it is not there yet, which asks the package registry.

    Raises:
        subprocess.CalledProcessError: it cannot be installed; pip has said why.
    """
    folder = ROOT / "build" / "lm-eval"
    interpreter, marker = folder / "bin" / "python", folder / f".installed-{VERSION}"
    if not marker.exists():
        print(f"benchmark: installing lm_eval {VERSION} in {folder} (once)", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)  # noqa: S603
        here, there = (sysconfig.get_path("purelib", vars=place) for place in (None, {"base": str(folder)}))
        (Path(there) / "here.pth").write_text(f"{here}\n", encoding="utf-8")  # same torch, same transformers
        pins = ["--constraint", str(ROOT / "constraints.txt")]
        install = [str(interpreter), "-m", "pip", "install", "--quiet", *pins, f"lm_eval=={VERSION}"]
        subprocess.run(install, check=True)  # noqa: S603  # our own command
        marker.touch()
    return interpreter
