"""python -m benchmarks.evaluate: our evaluation against the field's, on one machine and one model, in turn.

Three pairs, in one number format on the same SmolLM2-135M-Instruct and the same tokens:
a text in windows that do not overlap, against lm-evaluation-harness; the same text with a stride, against the loop of
the transformers guide, one window at a time; instruction records, against padded batches of 8.
"""

import argparse
import contextlib
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks import harness

SHARED = Path(__file__).parents[2] / "shared" / "data"
WINDOW, STRIDE, BATCH, SEED = 2048, 1024, 8, 42
PAIRS = {"text": ("ours", "harness"), "strided": ("ours_strided", "guide"), "records": ("ours_records", "padded")}
# Returns the tokens that it scored or read, and the figures that it found.
Work = Callable[[], tuple[int, dict[str, Any]]]
DTYPES = {"fp32": "float32", "bf16": "bfloat16"}
FIGURES = ("word_perplexity", "byte_perplexity", "bits_per_byte")


def main() -> int:
    """Prints what was measured; its last line is one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evaluate", description="Benchmark the evaluation.")
    parser.add_argument("--pairs", nargs="+", choices=PAIRS, default=[*PAIRS], help="what to compare (default: all)")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each side (default: %(default)s)")
    parser.add_argument("--characters", type=int, default=24000, help="length of the text (default: %(default)s)")
    parser.add_argument("--records", type=int, default=48, help="instruction records (default: %(default)s)")
    parser.add_argument("--precision", choices=DTYPES, default="fp32", help="number format (default: %(default)s)")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        serve(SIDES[arguments.side](arguments.folder))
        return 0
    if not SHARED.exists():
        print(f"benchmark: {SHARED} is not there", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        prepare(folder, arguments.characters, arguments.records)
        (folder / "precision").write_text(arguments.precision, encoding="utf-8")
        results = [entry for pair in arguments.pairs for entry in compare(pair, folder, arguments)]
    print(json.dumps({"results": results}))
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


def compare(pair: str, folder: Path, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Both sides of a pair in turn, each in a process of its own that has loaded its model.

    The first round warms up, and tells the memory; the others tell the time.
    """
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in PAIRS[pair]}
    with contextlib.ExitStack() as stack:
        sides = {side: stack.enter_context(started(side, folder)) for side in runs}
        for _ in range(1 + arguments.rounds):
            for side, results in runs.items():
                results.append(ask(side, sides[side]))
                print(side, json.dumps(results[-1]), flush=True)
    return report(pair, runs, arguments.precision)


@contextlib.contextmanager
def started(side: str, folder: Path) -> Iterator["subprocess.Popen[str]"]:
    """A process that works once for each line that it is sent."""
    interpreter = harness.python() if side == "harness" else Path(sys.executable)
    command = [str(interpreter), "-W", "ignore", "-m", "benchmarks.evaluate", "--side", side, "--folder", str(folder)]
    with (
        (folder / f"{side}.log").open("w") as log,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True) as process,  # noqa: S603
    ):
        try:
            yield process
        finally:
            process.terminate()


def ask(side: str, process: "subprocess.Popen[str]") -> dict[str, Any]:
    """One round of a side."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    for line in process.stdout:
        if line.startswith("{"):
            result: dict[str, Any] = json.loads(line)
            return result
    raise RuntimeError(f"{side} ended with {process.wait()}; see its log")


def serve(work: Work) -> None:
    """Works and answers with what was measured, for each line on standard input."""
    for _ in sys.stdin:
        print(json.dumps(measured(work)), flush=True)


def measured(work: Work) -> dict[str, Any]:
    """Tokens a second, wall and processor time, and peak memory above what the process holds now.

    Args:
        work: returns the tokens that it scored or read, and the figures that it found.

    The peak is that of the first round: later ones reuse what the process keeps.
    """
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # forget the peak of loading the model
    before, started, used = _status("VmRSS"), time.perf_counter(), time.process_time()
    tokens, figures = work()
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - used
    return {
        "tokens_per_second": tokens / seconds,
        "tokens_per_cpu_second": tokens / cpu_seconds,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "peak_mib": (_status("VmHWM") - before) / 1024,
        **figures,
    }


def ours(folder: Path) -> Work:
    """Ours, in windows that do not overlap."""
    return _ours_on_text(folder, 0)


def ours_strided(folder: Path) -> Work:
    """Ours, with a stride."""
    return _ours_on_text(folder, STRIDE)


def _ours_on_text(folder: Path, stride: int) -> Work:
    from components.evaluate.corpora import encode, score_corpus
    from components.evaluate.subjects import load
    from components.rendering import load_tokenizer

    model = load(folder / "model", 0, _precision(folder))
    corpus = encode(load_tokenizer(folder / "model"), folder / "text.txt", window=WINDOW, stride=stride)

    def work() -> tuple[int, dict[str, Any]]:
        with contextlib.redirect_stdout(sys.stderr):
            figures = score_corpus(model, corpus, batch_size=BATCH, description="ours").figures()
        read = [len(window["input_ids"]) - 1 for window in corpus]
        return figures["target_tokens"], {**figures, "flops": _flops(folder, read, figures["target_tokens"])}

    return work


def run_harness(folder: Path) -> Work:
    """lm-evaluation-harness, through its own evaluation of a local task."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

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
    dtype = DTYPES[_precision(folder)]
    model = HFLM(pretrained=str(folder / "model"), device="cpu", dtype=dtype, batch_size=1, max_length=WINDOW)
    tokens = len(model.tok_encode((folder / "text.txt").read_text(encoding="utf-8")))
    manager = TaskManager(include_defaults=False)

    def work() -> tuple[int, dict[str, Any]]:
        with contextlib.redirect_stdout(sys.stderr):
            answered = simple_evaluate(model=model, tasks=[task], task_manager=manager, bootstrap_iters=0)
        results = answered["results"]["text"]
        return tokens, {"target_tokens": tokens, **{name: results[f"{name},none"] for name in FIGURES}}

    return work


def guide(folder: Path) -> Work:
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

    return work


def ours_records(folder: Path) -> Work:
    """Ours, on instruction records."""
    from components.evaluate.subjects import load
    from components.perplexity import score

    rows = json.loads((folder / "rows.json").read_text(encoding="utf-8"))
    model = load(folder / "model", 0, _precision(folder))

    def work() -> tuple[int, dict[str, Any]]:
        with contextlib.redirect_stdout(sys.stderr):
            figures = score(model, rows, batch_size=BATCH).figures()
        return sum(len(row["input_ids"]) for row in rows), figures

    return work


def padded(folder: Path) -> Work:
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

    return work


def report(pair: str, runs: dict[str, list[dict[str, Any]]], precision: str) -> list[dict[str, Any]]:
    """Medians, spreads and ratios (above 1: we are better), the agreement, and the distance to the floor."""
    results = []
    sides = PAIRS[pair]
    for name, unit, more_is_better in (
        ("tokens_per_second", "tokens/s", True),
        ("tokens_per_cpu_second", "tokens/s of processor time", True),
        ("peak_mib", "MiB above the loaded model", False),
    ):
        rounds = slice(1, None) if more_is_better else slice(1)  # what a process once had it keeps
        values = [[run[name] for run in runs[side][rounds]] for side in sides]
        mine, other = map(statistics.median, values)
        for side, found in zip(sides, values, strict=True):
            spread = f"{min(found):.4g} to {max(found):.4g}"
            print(f"{pair} {name:<24}{side:<14}median {statistics.median(found):.4g}, {spread}")
        # of each round's two runs, so that a load that both met does not count
        ratios = [a / b if more_is_better else b / a for a, b in zip(*values, strict=True)]
        ratio = statistics.median(ratios)
        print(f"{pair} {name:<24}ratio         median {ratio:.3g}, {min(ratios):.3g} to {max(ratios):.3g}")
        results.append({"name": f"{pair}_{name}", "ours": mine, "baseline": other, "ratio": ratio, "unit": unit})
    for name in FIGURES if pair == "text" else ("perplexity",):
        mine, other = (runs[side][0][name] for side in sides)
        print(f"{pair} {name:<24}ours {mine:.9g}, {sides[1]} {other:.9g}, relative difference {mine / other - 1:.1e}")
        results.append({"name": f"{pair}_{name}", "ours": mine, "baseline": other, "ratio": mine / other, "unit": ""})
    first = runs[sides[0]]
    if "flops" in first[0]:
        speed = matmul_speed(precision)
        share = first[0]["flops"] / speed / statistics.median(run["cpu_seconds"] for run in first[1:])
        print(f"{pair} floor: {share:.0%} of a matrix product's {speed / 1e9:.0f} GFLOP a second of processor time")
        results.append(
            {"name": f"{pair}_floor_share", "ours": share, "baseline": 1.0, "ratio": share, "unit": "of matmul peak"}
        )
    return results


def _precision(folder: Path) -> str:
    return (folder / "precision").read_text(encoding="utf-8")


def _plain(folder: Path) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    dtype = getattr(torch, DTYPES[_precision(folder)])
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=dtype).eval()
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


def _flops(folder: Path, read: list[int], targets: int) -> float:
    """Floating-point operations of scoring a text: those that no way of computing can leave out.

    Two for each weight of the layers and token that is read, two for each weight of the output and target, and four for
    each layer, hidden unit and pair of tokens of which one sees the other.

    Args:
        read: the tokens that the model reads in each window.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder / "model")
    with torch.device("meta"):
        shapes = AutoModelForCausalLM.from_config(config)
    output = config.vocab_size * config.hidden_size
    weights = sum(weight.numel() for weight in shapes.parameters()) - output  # tied: the embedding is the output
    pairs = sum(length**2 / 2 for length in read)
    attention = 4.0 * config.num_hidden_layers * config.hidden_size * pairs
    return float(2 * weights * sum(read) + 2 * output * targets + attention)


def matmul_speed(precision: str) -> float:
    """FLOP a second of processor time of a 2048 x 2048 product, the best of 8."""
    import torch

    square = torch.rand(2048, 2048).to(getattr(torch, DTYPES[precision]))
    speeds: list[float] = []
    for _ in range(8):
        used = time.process_time()
        square @ square
        speeds.append(2 * 2048**3 / (time.process_time() - used))
    return max(speeds)


def _status(name: str) -> int:
    """A figure of this process in KiB."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1])


SIDES: dict[str, Callable[[Path], Work]] = {
    "ours": ours,
    "harness": run_harness,
    "ours_strided": ours_strided,
    "guide": guide,
    "ours_records": ours_records,
    "padded": padded,
}

if __name__ == "__main__":
    raise SystemExit(main())
