"""Other defaults of a measure's settings while a test runs, of those that no flag changes."""

from dataclasses import fields

import pytest

from geomfast.measures import spec_of


def change(patch: pytest.MonkeyPatch, measure: str, **values: object) -> None:
    settings = spec_of(measure).settings
    there = {field.name: field.default for field in fields(settings)}
    assert values.keys() <= there.keys()
    patch.setattr(settings.__init__, "__defaults__", tuple((there | values).values()))
