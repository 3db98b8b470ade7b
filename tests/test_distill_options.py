"""What distill makes where nothing is said: a student without multiplications, unless something rules that out."""

import json

import pytest

from nanospike.config.errors import InputError
from nanospike.distill_options import Distill

FREE = {"operators": "shift", "weights": "ternary", "embedding_weights": "ternary", "spikes": "signed"}


def kind(**given):
    options = Distill(**given)
    return {name: getattr(options, name) for name in FREE}, options


def test_without_options_a_student_without_multiplications_that_learns_to_run_few_steps():
    found, options = kind()
    assert found == FREE
    assert options.stages == ("internal", "prediction", "few-steps") and options.few_steps == (1, 2, 4)
    assert len(options.epochs) == len(options.learning_rate) == 3


@pytest.mark.parametrize(
    "given", [{"feedback": True}, {"looped": True, "encoders": 1}, {"lateral": True}, {"leak": 0.9}, {"student": "ann"}]
)
def test_what_shifts_do_not_go_with_is_made_as_before(given):
    found, options = kind(**given)
    assert found == dict.fromkeys(FREE)  # float and binary: initial.with_student fills them in
    assert options.stages == ("internal", "prediction") and options.few_steps == ()


def test_operators_that_are_named_leave_the_rest_float():
    found, options = kind(operators="float")
    assert found == dict.fromkeys(FREE) | {"operators": "float"}
    assert options.stages == ("internal", "prediction")
    assert kind(operators="softmax")[0]["weights"] is None


def test_what_is_said_stays():
    assert kind(spikes="binary")[0] == FREE | {"spikes": "binary"}
    assert kind(weights="binary")[0] == FREE | {"weights": "binary"}
    assert kind(weights="float")[0] == FREE | {"weights": "float", "embedding_weights": "float"}


def test_values_for_the_stages_but_few_steps_leave_it_out(tmp_path):
    assert kind(epochs=(1.0, 0.5))[1].stages == ("internal", "prediction")
    assert kind(epochs=(1.0, 0.5, 0.2))[1].stages == ("internal", "prediction", "few-steps")
    assert kind(corpus=(tmp_path,), epochs=(1.0, 1.0, 0.5))[1].stages == ("general", "internal", "prediction")
    with pytest.raises(InputError, match="--epochs: found 4 values, expected 1 or one for each stage"):
        kind(epochs=(1.0,) * 4)


@pytest.mark.parametrize("folder", ["", "rte"])
def test_a_run_that_goes_on_is_what_it_was_begun_as(tmp_path, folder):
    """Also one that was begun before operators were options: float, binary, 3 and 2 epochs."""
    begun = {"stages": ["internal", "prediction"], "epochs": [3.0, 2.0], "spikes": "binary"}
    (tmp_path / folder).mkdir(exist_ok=True)
    (tmp_path / folder / "training_args.json").write_text(json.dumps(begun))
    found, options = kind(output_dir=tmp_path, resume=True)
    assert found == {"operators": "float", "weights": "float", "embedding_weights": "float", "spikes": "binary"}
    assert options.stages == ("internal", "prediction") and options.epochs == (3.0, 2.0)
    assert kind(output_dir=tmp_path)[0] == FREE  # a new one is not


@pytest.mark.parametrize("name, value", [("epochs", "x"), ("stages", [3]), ("spikes", 5), ("few_steps", [None])])
def test_what_a_run_was_begun_with_is_read_with_care(tmp_path, name, value):
    begun = {"stages": ["few-steps"], name: value}
    (tmp_path / "training_args.json").write_text(json.dumps(begun))
    with pytest.raises(InputError, match=f"training_args.json: {name}: found "):
        kind(output_dir=tmp_path, resume=True)


def test_a_run_that_was_begun_with_one_number_of_few_steps_goes_on(tmp_path):
    begun = {"stages": ["internal", "few-steps"], "epochs": [1.0, 0.5], "few_steps": 4}
    (tmp_path / "training_args.json").write_text(json.dumps(begun))
    assert kind(output_dir=tmp_path, resume=True)[1].few_steps == (4,)
