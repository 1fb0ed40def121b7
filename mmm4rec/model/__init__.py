"""MMM4Rec and its parts, from the state-space model up; and what every recommender has in common with it."""
