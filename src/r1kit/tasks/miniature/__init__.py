"""The miniature's procedural world: problems made by rules, prompts with a gold score, worked solutions."""
