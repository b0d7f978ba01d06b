"""python -m components.train: this step alone, on files; under torchrun, one rank of it."""

from components.cli import main
from components.train.config import TrainConfig
from components.train.train import train

if __name__ == "__main__":
    raise SystemExit(main(train, TrainConfig))
