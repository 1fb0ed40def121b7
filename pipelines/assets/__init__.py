"""The assets, one module a layer. Each resolves its inputs, calls one function of a room below, and publishes."""
