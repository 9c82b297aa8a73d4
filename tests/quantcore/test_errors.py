from __future__ import annotations

import copy

import pytest

from quantcore.errors import InputError, refused, setting_name, settings_called


def test_an_error_carries_what_was_refused_and_what_would_do() -> None:
    error = refused("calibration_samples", 0, "must be at least 1", allowed=range(1, 9))
    assert str(error) == "calibration_samples 0: must be at least 1"
    again = copy.copy(error)  # made anew from what it says of itself, as by another process
    assert (again.setting, again.found, again.allowed) == ("calibration_samples", 0, range(1, 9))
    assert str(again) == str(error)


def test_settings_are_called_as_they_are_where_the_request_was_made() -> None:
    with pytest.raises(InputError, match=r"^--seed -1: "), settings_called("--{}".format):
        raise refused("seed", -1, "must be 0 or more")
    assert setting_name("seed") == "seed"
