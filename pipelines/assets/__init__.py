"""The assets, one module per layer. Each asset resolves its inputs, calls one function of a package, and publishes."""
