"""A recipe: YAML files, what they extend and overrides become one checked ``Recipe``.

Import from the modules (``recipe.layers`` needs no torch); nothing is imported here.
"""
