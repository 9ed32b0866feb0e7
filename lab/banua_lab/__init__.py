"""The laboratory: simulated parts, a throw-away CA, the demo."""
