"""The QDQ form that ST's compiler takes: placing Q/DQ, rewriting into the form, proving it."""
