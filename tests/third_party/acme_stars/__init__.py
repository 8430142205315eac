"""A plugin of somebody else: a reader, a recipe, a schedule, a model and a target, all through the public interfaces."""
