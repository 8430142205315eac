"""ST's own tools: ST Edge AI Core on this computer and its Developer Cloud. Driven by bench backends and predictors."""
