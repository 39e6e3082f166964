"""Typed settings: defaults, then a YAML file, then `key.sub=value` of the command line."""

from var_pe.settings.fields import all_settings
from var_pe.settings.files import ConfigError
from var_pe.settings.loading import differences, load, to_yaml

__all__ = ["ConfigError", "all_settings", "differences", "load", "to_yaml"]
