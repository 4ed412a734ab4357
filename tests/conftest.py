"""Fixtures that several test modules ask for by name. They are made where their subject is."""

from tests.stores import database as database
from tests.stores import store as store
