"""The steps and the picture of a compiled pipeline, groups included."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp import compiler, dsl

from pipeline.compile import COMMITTED
from pipeline.packages import read_package
from pipeline.picture import as_mermaid
from pipeline.settings import PACKAGE, load
from pipeline.steps import Edge, Step, edges, steps


@dsl.component(base_image="python:3.11")  # type: ignore[untyped-decorator]
def make(size: int, data: dsl.Output[dsl.Dataset]) -> int:
    return size


@dsl.component(base_image="python:3.11")  # type: ignore[untyped-decorator]
def use(data: dsl.Input[dsl.Dataset], size: int) -> None:
    print(size)


@dsl.component(base_image="python:3.11")  # type: ignore[untyped-decorator]
def tell(word: str) -> None:
    print(word)


@pytest.fixture(scope="module")
def nested(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A pipeline with an exit handler, a condition and a loop in each other."""

    @dsl.pipeline(name="nested")  # type: ignore[untyped-decorator]
    def nested(size: int = 3) -> None:
        last = tell(word="done").set_display_name("tell")
        with dsl.ExitHandler(last, name="watched"):
            made = make(size=size)
            with dsl.If(made.outputs["Output"] > 2, name="large"), dsl.ParallelFor([1, 2], name="parts") as part:
                use(data=made.outputs["data"], size=part)

    path = tmp_path_factory.mktemp("nested") / "nested.yaml"
    compiler.Compiler().compile(nested, str(path))
    content: dict[str, Any] = next(iter(yaml.safe_load_all(path.read_text())))
    return content


def test_steps_come_after_what_they_take_and_know_their_groups(nested: dict[str, Any]) -> None:
    found = {step.name: step for step in steps(nested)}
    assert list(found) == ["make", "use", "tell"]
    assert found["make"] == Step("make", ("exit-handler-1",))
    assert len(found["use"].groups) == 3
    assert found["tell"].groups == ()


def test_what_is_handed_into_a_group_is_seen(nested: dict[str, Any]) -> None:
    assert Edge("make", "use", "data") in edges(nested)
    assert [(edge.source, edge.target) for edge in edges(nested) if edge.target == "tell"] == [("use", "tell")]


def test_groups_are_frames_in_each_other(nested: dict[str, Any]) -> None:
    drawn = as_mermaid(nested)
    assert (
        drawn.count("subgraph ") == drawn.count("\n" + " " * 4 + "end") + drawn.count("\n" + " " * 8 + "end") + 1 == 3
    )
    assert "make -- data" in drawn


def test_the_picture_has_every_step_of_the_shipped_pipeline_once() -> None:
    spec = read_package(COMMITTED).spec
    names = [step.name for step in steps(spec)]
    assert set(load("default").resources) <= set(names)
    lines = [line.strip() for line in as_mermaid(spec).splitlines()]
    assert [lines.count(name) for name in names] == [1] * len(names)
    for line in lines[1:]:
        ends = {line.split()[0], line.split()[-1]}
        assert line.startswith("subgraph ") or line == "end" or ends <= set(names)


def test_the_document_and_the_readme_show_the_same_picture() -> None:
    root = PACKAGE.parent
    pictures = {
        Path(root, name).read_text().partition("<!-- picture:begin -->")[2].partition("<!-- picture:end -->")[0]
        for name in ("README.md", "docs/ui.md")
    }
    assert pictures == {f"\n```mermaid\n{as_mermaid(read_package(COMMITTED).spec)}\n```\n"}
