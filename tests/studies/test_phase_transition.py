"""The study of phase transitions: what an abrupt and an even change measure, and that its folder holds what it says."""

import numpy as np
import pandas as pd
import pytest

import patchclamp as pc
from patchclamp.studies.phase_transition import EncoderSetting, study, transition


def test_a_jump_is_abrupt_and_an_even_pace_is_not():
    steps = np.unique(np.logspace(0, 3, 40).round()).astype(int)
    steps = np.concatenate([[0], steps])
    time = np.log1p(steps)
    half, abrupt = transition(steps, np.where(steps >= 100, 3.0, 1.0))
    assert abrupt == pytest.approx(1, abs=0.01)
    assert 90 <= half <= 130
    assert transition(steps, time)[1] == pytest.approx(0.1, abs=0.01)
    assert np.isnan(transition(steps, np.ones(len(steps)))[1])


def test_the_folder_holds_the_course_and_the_tables(tmp_path):
    result = study(tmp_path / "out", EncoderSetting(G=6, d=3, active=(0.5, 2.0), seeds=2, steps=30))
    assert pc.open(tmp_path / "out" / "course") == result.course
    assert len(pd.read_csv(tmp_path / "out" / "averages.csv")) == 8
    assert (tmp_path / "out" / "report.html").is_file()
    assert "half" in result.text()
    assert len(result.summary()["averages"]) == 8
