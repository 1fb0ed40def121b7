"""MMM4Rec and its parts, starting with the state-space model, and the interface that all recommenders share."""
