"""A task with a test set on the command line."""

import re

from lstm_jax.data.corpora import DATA_DIR_VARIABLE
from tests.cli import call, is_one_line, line_of, process_in
from tests.tasks.test_digits import write_digits

TRAIN = {
    "experiment": "digits_permuted",
    "workdir": "run",
    "config.data.validation_images": "8",
    "config.model.hidden_size": "2",
    "config.train.batch_size": "8",
    "config.train.steps": "1",
}


def test_the_test_set_is_scored_where_it_is_asked_for(tmp_path, monkeypatch):
    """By its flag, which takes no split that only texts have."""
    write_digits(tmp_path)
    monkeypatch.setenv(DATA_DIR_VARIABLE, str(tmp_path))
    with process_in(tmp_path):
        assert call(*line_of(TRAIN)).code == 0
        code, found, _ = call("--mode=evaluate", "--workdir=run")
        assert code == 0 and re.match(r"validation_loss +\d.*\nvalidation_wrong +\d", found)
        code, found, said = call("--mode=evaluate", "--split=test", "--workdir=run")
        assert code == 0 and re.match(r"test_loss +\d.*\ntest_wrong +\d", found)
        assert "digits: 32 images to train on, 8 to test on" in said
        code, _, said = call("--mode=evaluate", "--split=training_end", "--workdir=run")
        assert code == 2 and is_one_line(said) and "--split means nothing to a run of" in said
