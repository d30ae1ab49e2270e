"""A file for every kind of measure; all of them are in the catalogue by being here."""
