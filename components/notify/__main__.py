"""python -m components.notify: this step alone."""

from components.cli import main
from components.notify.notify import notify

if __name__ == "__main__":
    raise SystemExit(main(notify))
