"""A run and its folder: execute a recipe, resume, record provenance, verify.

The package is not called ``run``: that name is the public function ``r1kit.run``.
"""
