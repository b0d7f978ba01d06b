"""How a run goes on a KFP server for tests: a step further with each look, told as Argo's nodes are."""

from dataclasses import dataclass, field
from typing import Any

from pipeline.steps import steps

EPOCH = "1970-01-01T00:00:00Z"


def fnv1a(text: str) -> str:
    """Argo's hash of a node's path, by its definition."""
    value = 2166136261
    for byte in text.encode():
        value = (value ^ byte) * 16777619 % (1 << 32)
    return str(value)


@dataclass
class Play:
    """A run's script.

    Args:
        run_id: the run.
        fails_at: the step that fails, if one does.
        retried: steps that need a second try.
        looks: how many looks at the run a step takes.
        stuck_at: the step that never ends.
        at_once: whether the first look finds it done.
    """

    run_id: str
    fails_at: str = ""
    retried: tuple[str, ...] = ()
    looks: int = 1
    stuck_at: str = ""
    at_once: bool = False
    names: list[str] = field(default_factory=list)
    groups: dict[str, tuple[str, ...]] = field(default_factory=dict)
    done: int = 0
    seen: int = 0
    ends: list[str] = field(default_factory=list)  # when each step was over

    def learn(self, spec: dict[str, Any]) -> None:
        """The steps of the run's pipeline."""
        self.names = [step.name for step in steps(spec)]
        self.groups = {step.name: step.groups for step in steps(spec)}

    def again(self) -> None:
        """A retry, which goes well."""
        self.fails_at = ""

    def look(self, run: dict[str, Any], now: str) -> None:
        """Goes on by one look and writes down how the run stands."""
        self._go_on(run, now)
        self.ends += [now] * (self.done - len(self.ends))
        run["run_details"] = {"task_details": list(self._details(run, now))}

    def _go_on(self, run: dict[str, Any], now: str) -> None:
        if run["state"] == "CANCELING":
            run |= {"state": "CANCELED", "finished_at": now}
        if run["state"] in ("PENDING", "RUNNING"):
            run["state"] = "RUNNING"
            self.seen += 1
            if self.at_once:
                self.done = len(self.names)
            elif self.seen % self.looks == 0 and self.names[self.done : self.done + 1] != [self.stuck_at]:
                self.done += 1
            failed = bool(self.fails_at) and self.done > self.names.index(self.fails_at)
            if failed:
                run |= {"state": "FAILED", "finished_at": now, "error": {"code": 13, "message": "a step has failed"}}
            elif self.done >= len(self.names):
                run |= {"state": "SUCCEEDED", "finished_at": now}

    def pods(self) -> dict[str, str]:
        """The steps by the names of their last pods, as Argo names them."""
        workflow = self._workflow()
        named = {}
        for step in self.names:
            path = f"{workflow}.root.{'.'.join((*self.groups[step], step))}.executor"
            tries = 1 if step in self.retried else 0
            template = "metadata-0-1-retry-system-container-impl"  # each step has one label and no annotation
            named[f"{workflow}-{template}-{fnv1a(f'{path}({tries})')}"] = step
        return named

    def _workflow(self) -> str:
        return f"private-llm-{self.run_id[:5]}"

    def _details(self, run: dict[str, Any], now: str) -> Any:
        workflow = self._workflow()
        yield self._task(run, "root-driver", "SUCCEEDED", now, [])
        yield self._task(run, "root", run["state"], now, [f"{workflow}-{fnv1a(f'{workflow}.root.resolve-driver')}"])
        for group in sorted({group for groups in self.groups.values() for group in groups}):
            yield self._task(run, group, run["state"], now, [f"{workflow}-{fnv1a(group)}"])
        for place, step in enumerate(self.names[: self.done + 1]):
            begun = place < self.done
            if not begun and run["state"] not in ("RUNNING", "CANCELED"):
                break
            state = "SUCCEEDED" if begun else {"RUNNING": "RUNNING"}.get(run["state"], "FAILED")
            state = "FAILED" if begun and step == self.fails_at else state
            path = f"{workflow}.root.{'.'.join((*self.groups[step], step))}.executor"
            first = self.ends[place - 1] if place else run["created_at"]
            last = self.ends[place] if begun else now
            yield self._task(run, f"{step}-driver", "SUCCEEDED", first, [f"{workflow}-{fnv1a(path)}"], first)
            yield self._task(run, step, state, last, [f"{workflow}-{fnv1a(path)}"], first)
            tries = 2 if step in self.retried else 1
            pods = [f"{workflow}-{fnv1a(f'{path}({number})')}" for number in range(tries)]
            yield self._task(run, "executor", state, last, pods, first)
            for number in range(tries):
                outcome = state if number == tries - 1 else "FAILED"
                yield self._task(run, f"executor({number})", outcome, last, [], first)
        if run["state"] == "FAILED":  # Argo omits what stands behind; KFP's word for that is 0, and not in its JSON
            for step in self.names[self.done :]:
                told = self._task(run, step, "", now, [])
                del told["state"]
                yield told

    def _task(
        self, run: dict[str, Any], name: str, state: str, now: str, children: list[str], begun: str = ""
    ) -> dict[str, Any]:
        over = state in ("SUCCEEDED", "FAILED", "CANCELED", "SKIPPED")
        return {
            "run_id": run["run_id"],
            "task_id": f"{run['run_id']}/{name}",
            "display_name": name,
            "create_time": run["created_at"],
            "start_time": begun or run["created_at"],
            "end_time": now if over else EPOCH,
            "state": state,
            "execution_id": "0",
            "child_tasks": [{"pod_name": child} for child in children],
        }
