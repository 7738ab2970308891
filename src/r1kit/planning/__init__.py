"""What a recipe will cost, before anything starts: memory, tokens, operations, time, price.

shapes      a model's numbers, from a recipe's preset, config.json, a GGUF header or the hub
learners    what of a learner's configuration matters for memory and speed
memory      bytes of each phase, part by part
operations  floating-point operations and the bytes that decoding reads
rates       the speed of this machine (measured, cached) and of GPUs (a table)
plan        a recipe's stages on a machine
fit         what fits, and the one change that makes it fit
"""
