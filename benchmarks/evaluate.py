"""python -m benchmarks.evaluate: our evaluation against the field's, on one machine and one model, in turn.

Three pairs, in float32 on the same SmolLM2-135M-Instruct and the same tokens:
a text in windows that do not overlap, against lm-evaluation-harness; the same text with a stride, against the loop of
the transformers guide, one window at a time; instruction records, against padded batches of 8.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import harness

SHARED = Path(__file__).parents[2] / "shared" / "data"
WINDOW, STRIDE, BATCH, SEED = 2048, 1024, 8, 42
PAIRS = {"text": ("ours", "harness"), "strided": ("ours_strided", "guide"), "records": ("ours_records", "padded")}
FIGURES = ("word_perplexity", "byte_perplexity", "bits_per_byte")


def main() -> int:
    """Prints what was measured; its last line is one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evaluate", description="Benchmark the evaluation.")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each side (default: %(default)s)")
    parser.add_argument("--characters", type=int, default=24000, help="length of the text (default: %(default)s)")
    parser.add_argument("--records", type=int, default=48, help="instruction records (default: %(default)s)")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps(SIDES[arguments.side](arguments.folder)))
        return 0
    if not SHARED.exists():
        print(f"benchmark: {SHARED} is not there", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        prepare(folder, arguments.characters, arguments.records)
        runs: dict[str, list[dict[str, float]]] = {side: [] for pair in PAIRS.values() for side in pair}
        for _ in range(arguments.rounds):
            for side, results in runs.items():
                results.append(worker(side, folder))
                print(side, json.dumps(results[-1]), flush=True)
    report(runs)
    return 0


def prepare(folder: Path, characters: int, records: int) -> None:
    """The text, the records as token rows, and where the model is, on disk for all sides."""
    from components.rendering import Renderer, load_tokenizer
    from pipeline.bundled_model import prepare as model_folder

    model = model_folder()
    (folder / "model").symlink_to(model)
    text = (SHARED / "text/wikitext-2.valid.txt").read_text(encoding="utf-8")[:characters]
    (folder / "text.txt").write_text(text, encoding="utf-8")
    (folder / "text.jsonl").write_text(json.dumps({"text": text}) + "\n", encoding="utf-8")
    lines = (SHARED / "instruct/databricks-dolly-15k.jsonl").read_text(encoding="utf-8").splitlines()
    random.Random(SEED).shuffle(lines)  # noqa: S311  # which records, not a secret
    chosen = [json.loads(line) for line in lines[:records]]
    encoded = Renderer(load_tokenizer(model)).encode(chosen)
    rows = [
        {
            "id": str(number),
            "input_ids": row.input_ids,
            "loss_start": row.loss_start,
            "target_bytes": len(record["response"].encode()),
        }
        for number, (record, row) in enumerate(zip(chosen, encoded, strict=True))
        if len(row.input_ids) <= WINDOW
    ]
    (folder / "rows.json").write_text(json.dumps(rows), encoding="utf-8")


def worker(side: str, folder: Path) -> dict[str, float]:
    """One run of one side in a fresh process."""
    interpreter = harness.python() if side == "harness" else Path(sys.executable)
    command = [str(interpreter), "-W", "ignore", "-m", "benchmarks.evaluate", "--side", side, "--folder", str(folder)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  # our own command
    if finished.returncode:
        raise RuntimeError(f"{side} failed:\n{finished.stderr}")
    result: dict[str, float] = json.loads(finished.stdout.splitlines()[-1])
    return result


def measured(work: Callable[[], tuple[int, dict[str, Any]]]) -> dict[str, Any]:
    """Tokens a second, wall and processor time, and peak memory above what the process holds now.

    Args:
        work: returns the tokens that it scored or read, and the figures that it found.
    """
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # forget the peak of loading the model
    before, started, used = _status("VmRSS"), time.perf_counter(), time.process_time()
    tokens, figures = work()
    seconds = time.perf_counter() - started
    return {
        "tokens_per_second": tokens / seconds,
        "tokens_per_cpu_second": tokens / (time.process_time() - used),
        "seconds": seconds,
        "peak_mib": (_status("VmHWM") - before) / 1024,
        **figures,
    }


def ours(folder: Path) -> dict[str, Any]:
    """Ours, in windows that do not overlap; and how far it is from the floor that its arithmetic sets."""
    result = _ours_on_text(folder, 0)
    return {**result, **_floor(folder, int(result["target_tokens"]), result["seconds"])}


def ours_strided(folder: Path) -> dict[str, Any]:
    """Ours, with a stride."""
    return _ours_on_text(folder, STRIDE)


def _ours_on_text(folder: Path, stride: int) -> dict[str, Any]:
    from components.evaluate.corpora import encode, score_corpus
    from components.evaluate.subjects import load
    from components.rendering import load_tokenizer

    model = load(folder / "model", 0, "fp32")
    corpus = encode(load_tokenizer(folder / "model"), folder / "text.txt", window=WINDOW, stride=stride)

    def work() -> tuple[int, dict[str, Any]]:
        figures = score_corpus(model, corpus, batch_size=BATCH, description="ours").figures()
        return figures["target_tokens"], figures

    return measured(work)


def run_harness(folder: Path) -> dict[str, Any]:
    """lm-evaluation-harness, through its own evaluation of a local task; its model calls alone are timed."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    task = {
        "task": "text",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "text.jsonl")}},
        "test_split": "test",
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": name} for name in FIGURES],
    }
    model = HFLM(pretrained=str(folder / "model"), device="cpu", dtype="float32", batch_size=1, max_length=WINDOW)
    tokens = len(model.tok_encode((folder / "text.txt").read_text(encoding="utf-8")))
    rolling = model.loglikelihood_rolling
    timed: dict[str, Any] = {}

    def scored(*requests: Any, **options: Any) -> Any:
        timed.update(measured(lambda: (tokens, {"answers": rolling(*requests, **options)})))
        return timed.pop("answers")

    model.loglikelihood_rolling = scored
    results = simple_evaluate(model=model, tasks=[task], bootstrap_iters=0)["results"]["text"]
    return {**timed, "target_tokens": tokens, **{name: results[f"{name},none"] for name in FIGURES}}


def guide(folder: Path) -> dict[str, Any]:
    """The loop of "Perplexity of fixed-length models" in the transformers documentation, as it stands there."""
    import torch

    model, tokenizer = _plain(folder)
    ids = tokenizer((folder / "text.txt").read_text(encoding="utf-8"), return_tensors="pt").input_ids

    def work() -> tuple[int, dict[str, Any]]:
        nll, count, previous = 0.0, 0, 0
        for begin in range(0, ids.size(1), STRIDE):
            end = min(begin + WINDOW, ids.size(1))
            window = ids[:, begin:end]
            targets = window.clone()
            targets[:, : -(end - previous)] = -100
            with torch.no_grad():
                loss = model(window, labels=targets).loss
            weight = int((targets != -100).sum()) - 1
            nll, count, previous = nll + loss.item() * weight, count + weight, end
            if end == ids.size(1):
                break
        return ids.size(1), {"perplexity": float(torch.tensor(nll / count).exp()), "target_tokens": count}

    return measured(work)


def ours_records(folder: Path) -> dict[str, Any]:
    """Ours, on instruction records."""
    from components.evaluate.perplexity import score
    from components.evaluate.subjects import load

    rows = json.loads((folder / "rows.json").read_text(encoding="utf-8"))
    model = load(folder / "model", 0, "fp32")

    def work() -> tuple[int, dict[str, Any]]:
        figures = score(model, rows, batch_size=BATCH).figures()
        return sum(len(row["input_ids"]) for row in rows), figures

    return measured(work)


def padded(folder: Path) -> dict[str, Any]:
    """Records in the order in which they come, batches of 8 padded to the longest, logits at every position."""
    import torch

    rows = json.loads((folder / "rows.json").read_text(encoding="utf-8"))
    model, _ = _plain(folder)

    def work() -> tuple[int, dict[str, Any]]:
        nll, count = 0.0, 0
        for start in range(0, len(rows), BATCH):
            inputs, labels = _pad(rows[start : start + BATCH])
            with torch.no_grad():
                logits = model(**inputs).logits[:, :-1].float()
            losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), reduction="sum")
            nll, count = nll + losses.item(), count + int((labels[:, 1:] != -100).sum())
        perplexity = float(torch.tensor(nll / count).exp())
        return sum(len(row["input_ids"]) for row in rows), {"perplexity": perplexity, "target_tokens": count}

    return measured(work)


def report(runs: dict[str, list[dict[str, float]]]) -> None:
    """Medians, spreads and ratios (above 1: we are better), the agreement, and the distance to the floor."""
    results = []
    for pair, sides in PAIRS.items():
        for name, unit, more_is_better in (
            ("tokens_per_second", "tokens/s", True),
            ("tokens_per_cpu_second", "tokens/s of processor time", True),
            ("peak_mib", "MiB above the loaded model", False),
        ):
            values = [[run[name] for run in runs[side]] for side in sides]
            mine, other = map(statistics.median, values)
            for side, found in zip(sides, values, strict=True):
                spread = f"{min(found):.4g} to {max(found):.4g}"
                print(f"{pair} {name:<24}{side:<14}median {statistics.median(found):.4g}, {spread}")
            # of each round's two runs, so that a load that both met does not count
            rounds = [a / b if more_is_better else b / a for a, b in zip(*values, strict=True)]
            ratio = statistics.median(rounds)
            print(f"{pair} {name:<24}ratio         median {ratio:.3g}, {min(rounds):.3g} to {max(rounds):.3g}")
            results.append({"name": f"{pair}_{name}", "ours": mine, "baseline": other, "ratio": ratio, "unit": unit})
        for name in FIGURES if pair == "text" else ("perplexity",):
            mine, other = (runs[side][0][name] for side in sides)
            print(
                f"{pair} {name:<24}ours {mine:.9g}, {sides[1]} {other:.9g}, relative difference {mine / other - 1:.1e}"
            )
            results.append(
                {"name": f"{pair}_{name}", "ours": mine, "baseline": other, "ratio": mine / other, "unit": ""}
            )
    share = statistics.median(run["floor_share"] for run in runs["ours"])
    floor = {"name": "text_floor_share", "ours": share, "baseline": 1.0, "ratio": share, "unit": "of matmul peak"}
    print(f"text floor: {share:.0%} of the time that this arithmetic takes at the speed of large matrix products")
    print(json.dumps({"results": [*results, floor]}))


def _plain(folder: Path) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(folder / "model")


def _pad(batch: list[dict[str, Any]]) -> tuple[dict[str, Any], Any]:
    import torch

    width = max(len(row["input_ids"]) for row in batch)
    ids, mask = torch.zeros(len(batch), width, dtype=torch.long), torch.zeros(len(batch), width, dtype=torch.long)
    labels = torch.full((len(batch), width), -100)
    for index, row in enumerate(batch):
        tokens, start = torch.tensor(row["input_ids"]), row["loss_start"]
        ids[index, : len(tokens)] = tokens
        mask[index, : len(tokens)] = 1
        labels[index, start : len(tokens)] = tokens[start:]
    return {"input_ids": ids, "attention_mask": mask}, labels


def _floor(folder: Path, tokens: int, seconds: float) -> dict[str, float]:
    """Floating-point operations of scoring a text in full windows, and the share of our time that they account for.

    Two for each weight of the layers and of the output and each token, and four for each layer, hidden unit and pair
    of tokens that see each other; at the speed of a 2048 x 2048 product, measured here and now.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder / "model")
    with torch.device("meta"):
        shapes = AutoModelForCausalLM.from_config(config)
    weights = sum(weight.numel() for weight in shapes.parameters())  # tied: the embedding is the output
    pairs = WINDOW / 2
    flops = tokens * (2 * weights + 4 * config.num_hidden_layers * config.hidden_size * pairs)
    square = torch.rand(2048, 2048)
    speeds = []
    for _ in range(8):
        started = time.perf_counter()
        square @ square
        speeds.append(2 * 2048**3 / (time.perf_counter() - started))
    return {"flops": flops, "matmul_flops_per_second": max(speeds), "floor_share": flops / max(speeds) / seconds}


def _status(name: str) -> int:
    """A figure of this process in KiB."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1])


SIDES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "ours": ours,
    "harness": run_harness,
    "ours_strided": ours_strided,
    "guide": guide,
    "ours_records": ours_records,
    "padded": padded,
}

if __name__ == "__main__":
    raise SystemExit(main())
