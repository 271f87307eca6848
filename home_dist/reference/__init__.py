"""The keys of all files that users write, and the commands: read from the classes that validate them."""

from home_dist.reference.files import FILES, SettingsFile
from home_dist.reference.keys import Key, keys_of
from home_dist.reference.lookup import Lookup, look_up

__all__ = ["FILES", "Key", "Lookup", "SettingsFile", "keys_of", "look_up"]
