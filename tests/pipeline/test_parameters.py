"""Parameters from a command line or a profile: what is wrong is named, with what is allowed."""

from dataclasses import fields

import pytest

from components.errors import ParameterError
from components.yaml_text import parse_yaml
from pipeline.parameters import Parameters


def test_texts_become_values_over_a_profile() -> None:
    parameters = Parameters.parse(
        {"epochs": "3", "gradient_checkpointing": "False", "seed": "7"}, {"seed": 1, "method": "lora", "zero_stage": 2}
    )
    assert (parameters.epochs, parameters.gradient_checkpointing, parameters.seed, parameters.method) == (
        3.0,
        False,
        7,
        "lora",
    )


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"lr": "1"}, r"unknown parameter 'lr'; allowed: dataset, base_model, .*registry"),
        ({"epochs": "many"}, "epochs='many' must be a number above 0"),
        ({"epochs": "0"}, "epochs=0.0 is not allowed; it must be above 0"),
        ({"epochs": "nan"}, "epochs=nan is not allowed"),
        ({"seed": "1.5"}, "seed='1.5' must be a whole number at least 0"),
        ({"max_reject_fraction": "1"}, "it must be at least 0 and below 1"),
        ({"method": "qlora"}, "method='qlora' is not allowed; it must be one of full, lora"),
        ({"zero_stage": "4"}, "zero_stage=4 is not allowed; it must be one of 0, 1, 2, 3"),
        ({"include_samples": "yes"}, "include_samples='yes' must be true or false"),
        ({"registry": "https://me:hunter2@host"}, "registry holds a user name or password"),
        ({"model_name": ""}, "model_name must not be empty"),
        ({"model_name": "team/faq"}, "model_name='team/faq' must hold no / and no :"),
        ({"dataset": "https://me:hunter2@host/rows.jsonl"}, "dataset holds a user name or password"),
        ({"decontaminate": "set=s3://me:hunter2@bucket/set.txt"}, "decontaminate holds a user name or password"),
        ({"checkpoints": "https://hunter2@host/folder"}, "checkpoints holds a user name or password"),
        ({"test_size": "1.5"}, "test_size=1.5 is neither a fraction"),
        ({"columns": "question"}, "columns: 'question' is not field=column"),
        ({"precision": "fp16", "zero_stage": "0"}, "precision=fp16 is not allowed with zero_stage=0.*use zero_stage=1"),
        ({"method": "lora"}, "zero_stage=3 is not allowed with method=lora and template=dolly"),
        ({"license": 'a"b'}, "text without quotes, backslashes and line breaks"),
        (
            {"license": "mit\r"},
            r"license='mit\\r' is not allowed; it must be text without quotes, .* control characters",
        ),
        ({"model_name": "a\tb"}, "text without quotes, backslashes and line breaks or other control characters"),
    ],
)
def test_a_bad_parameter_is_named(texts: dict[str, str], message: str) -> None:
    with pytest.raises(ParameterError, match=message) as error:
        Parameters.parse(texts)
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize("value", [True, "2", None])
def test_a_profile_with_a_value_of_the_wrong_type_is_refused(value: object) -> None:
    with pytest.raises(ParameterError, match=r"epochs=.* must be of type float"):
        Parameters.parse({}, {"epochs": value})


def test_a_profiles_power_of_ten_is_a_number() -> None:
    """PyYAML's 1.1 takes 2e-4 for text, because it has no dot."""
    profile = parse_yaml("learning_rate: 2e-4\nepochs: 1e+0\nmodel_name: e5-20e4\ntest_size: 1.5e-1")
    parameters = Parameters.parse({}, profile)
    assert (parameters.learning_rate, parameters.epochs, parameters.test_size) == (2e-4, 1.0, 0.15)
    assert parameters.model_name == "e5-20e4"


def test_every_parameter_is_described_and_has_a_default_that_is_allowed() -> None:
    Parameters()
    assert all(entry.metadata["description"].endswith(".") for entry in fields(Parameters))
