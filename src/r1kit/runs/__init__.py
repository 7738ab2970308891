"""A run: execute a recipe, resume it, and verify what it left.

Import from the modules; nothing is imported here, so that a finished run is known without torch.
"""
