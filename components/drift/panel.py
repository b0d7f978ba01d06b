"""What the drift step found, for people."""

from typing import Any


def markdown(found: dict[str, Any]) -> str:
    """The rules and the counts behind them as tables."""
    title = "The new data has drifted" if found["drifted"] else "No drift"
    if found["note"]:
        return f"# Drift not measured\n\n{found['note'][0].upper()}{found['note'][1:]}.\n"
    lines = [
        f"# {title}",
        "",
        f"{found['new_records']} records are new since version {found['champion']}, which was made from "
        f"{found['old_records']}; {found['gone_records']} of those are gone.",
        "",
        "| rule | metric | found | at most | met |",
        "|---|---|---|---|---|",
        *(_rule(rule) for rule in found["rules"]),
    ]
    for name, part in found["shifts"].items():
        lines += ["", f"| {name} | old | new |", "|---|---|---|"]
        old, new = (sum(part[side]) or 1 for side in ("old", "new"))
        lines += [
            f"| {_cell(bin)} | {before / old:.1%} | {now / new:.1%} |"
            for bin, before, now in zip(part["bins"], part["old"], part["new"], strict=True)
            if before or now
        ]
    return "\n".join(lines) + "\n"


def _rule(rule: dict[str, Any]) -> str:
    met = {True: "yes", False: "**no**", None: "not judged"}[rule["passed"]]
    value = "" if rule["value"] is None else f"{rule['value']:.4g}"
    return f"| {_cell(rule['rule'])} | {rule['metric']} | {value} | {rule['limit']:g} | {met} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
