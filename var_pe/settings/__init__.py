"""Typed settings: defaults, then a YAML file, then `key.sub=value` of the command line."""

from var_pe.settings.loading import differences, load, save, to_yaml

__all__ = ["differences", "load", "save", "to_yaml"]
